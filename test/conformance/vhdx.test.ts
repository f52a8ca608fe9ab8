import { afterAll, describe, it } from 'vitest';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { allDrivers, createRegistry } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';
import { scratchFolder } from '../support/scratch.js';

const size = 4 << 20;
const folder = mkdtempSync(join(scratchFolder, 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

async function make(options: Record<string, string | number | boolean>): Promise<string> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const filename = join(folder, `${count++}.vhdx`);
  await createImageFile(graph, { filename, format: 'vhdx', size, options: { block_size: 1 << 20, ...options } });
  return filename;
}

const kinds: Readonly<Record<string, () => Promise<string>>> = {
  dynamic: () => make({}),
  fixed: () => make({ subformat: 'fixed' }),
  differencing: async () => make({ backing_file: await make({}), backing_fmt: 'vhdx' }),
  'differencing with sectors of 4 KiB': async () => make({ backing_file: await make({}), backing_fmt: 'vhdx', logical_sector_size: 4096 }),
};

for (const [kind, fresh] of Object.entries(kinds)) {
  describe(`vhdx, ${kind}`, () => {
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({ driver: 'vhdx', file: wrap({ driver: 'file', filename: await fresh() }) }),
    })) it(name, run);
  });
}
