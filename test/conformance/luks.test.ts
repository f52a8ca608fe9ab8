import { afterAll, describe, it } from 'vitest';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { allDrivers } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';
import { knownSecret, withSecret } from '../support/secret-driver.js';

const size = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
const drivers = allDrivers.map(withSecret);

interface Kind {
  readonly format: 'luks' | 'qcow2';
  readonly options: Record<string, string | number | boolean>;
}

/** What opening needs. */
function keys(format: Kind['format']): Record<string, unknown> {
  return format === 'luks' ? { 'key-secret': knownSecret } : { encrypt: { 'key-secret': knownSecret } };
}

/** A new image that was filled with zeroes: before, a volume shows noise. */
async function make({ format, options }: Kind): Promise<string> {
  const graph = new BlockGraph({ drivers: new DriverRegistry(drivers), gate: () => true });
  const filename = join(folder, `${count++}.${format}`);
  await createImageFile(graph, { filename, format, size, options });
  const disk = await graph.openBackend({ driver: format, file: { driver: 'file', filename }, ...keys(format) });
  await disk.write(0, new Uint8Array(size));
  await disk.close();
  return filename;
}

/** A copy of the kind's image, which is made once: keys take their time. */
async function fresh(kind: Kind): Promise<string> {
  const made = images.get(kind) ?? make(kind);
  images.set(kind, made);
  const filename = join(folder, `${count++}.${kind.format}`);
  copyFileSync(await made, filename);
  return filename;
}
const images = new Map<Kind, Promise<string>>();

const kinds: Readonly<Record<string, Kind>> = {
  'luks, aes-256-xts': { format: 'luks', options: { 'key-secret': knownSecret, 'iter-time': 1 } },
  'luks, version 2, sectors of 4096': { format: 'luks', options: { 'key-secret': knownSecret, 'iter-time': 1, version: 2, 'sector-size': 4096, kdf: 'pbkdf2' } },
  'qcow2 with luks': { format: 'qcow2', options: { 'encrypt.format': 'luks', 'encrypt.key-secret': knownSecret, 'encrypt.iter-time': 1 } },
  'qcow2 with aes': { format: 'qcow2', options: { 'encrypt.format': 'aes', 'encrypt.key-secret': knownSecret, cluster_size: 16_384, extended_l2: true } },
};

for (const [name, kind] of Object.entries(kinds)) {
  describe(name, () => {
    for (const { name: what, run } of conformanceCases({
      drivers, size, persistent: true,
      fresh: async (wrap) => ({ driver: kind.format, ...keys(kind.format), file: wrap({ driver: 'file', filename: await fresh(kind), cache: { 'no-flush': true } }) }),
    })) it(what, run);
  });
}
