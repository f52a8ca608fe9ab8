import { afterAll, describe, it } from 'vitest';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { allDrivers, createRegistry } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';
import { cowdDisk } from '../support/vmdk-maker.js';

const size = 4 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

function fresh(): string {
  const place = join(folder, String(count++));
  mkdirSync(place);
  return join(place, 'disk.vmdk');
}

async function make(options: Record<string, string | boolean>): Promise<string> {
  const filename = fresh();
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  await createImageFile(graph, { filename, format: 'vmdk', size, options });
  return filename;
}

const kinds: Readonly<Record<string, () => Promise<string>>> = {
  'monolithicSparse that marks zeroes': () => make({ zeroed_grain: true }),
  twoGbMaxExtentFlat: () => make({ subformat: 'twoGbMaxExtentFlat' }),
  'a child that is split': async () => make({ subformat: 'twoGbMaxExtentSparse', backing_file: await make({}), backing_fmt: 'vmdk' }),
  'vmfsSparse (COWD)': () => Promise.resolve(cowdDisk(fresh(), size)),
};

for (const [kind, image] of Object.entries(kinds)) {
  describe(`vmdk, ${kind}`, () => {
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({ driver: 'vmdk', file: wrap({ driver: 'file', filename: await image(), cache: { 'no-flush': true } }) }),
    })) it(name, run);
  });
}
