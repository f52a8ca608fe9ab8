import { afterAll, describe, it } from 'vitest';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { allDrivers, createRegistry } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';

const size = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

async function make(options: Record<string, string | number | boolean>): Promise<string> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const filename = join(folder, `${count++}.vhd`);
  await createImageFile(graph, { filename, format: 'vpc', size, options: { force_size: true, ...options } });
  return filename;
}

const kinds: Readonly<Record<string, () => Promise<string>>> = {
  dynamic: () => make({ block_size: 65_536 }),
  fixed: () => make({ subformat: 'fixed' }),
  differencing: async () => make({ backing_file: await make({}), backing_fmt: 'vpc', block_size: 131_072 }),
};

for (const [kind, fresh] of Object.entries(kinds)) {
  describe(`vpc, ${kind}`, () => {
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({ driver: 'vpc', file: wrap({ driver: 'file', filename: await fresh(), cache: { 'no-flush': true } }) }),
    })) it(name, run);
  });
}
