import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph, type OpenSpec } from '../../src/block/graph.js';
import { allDrivers, createRegistry } from '../../src/drivers.js';
import { conformanceCases } from '../../src/testing/conformance.js';

const size = 4 << 20;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

async function make(clusterSize: number): Promise<string> {
  const filename = join(folder, `${count++}.hds`);
  await createImageFile(new BlockGraph({ drivers: createRegistry() }), { filename, format: 'parallels', size, options: { cluster_size: clusterSize } });
  return filename;
}

const file = (filename: string): OpenSpec => ({ driver: 'file', filename, cache: { 'no-flush': true } });

describe('parallels', () => {
  for (const clusterSize of [1 << 20, 4096, 63 * 512]) {
    describe(`clusters of ${clusterSize} bytes`, () => {
      for (const { name, run } of conformanceCases({
        drivers: allDrivers, size, persistent: true,
        fresh: async (wrap) => ({ driver: 'parallels', file: wrap(file(await make(clusterSize))), 'prealloc-size': 1 << 20 }),
      })) it(name, run);
    });
  }
  describe('on a backing file', () => {
    for (const { name, run } of conformanceCases({
      drivers: allDrivers, size, persistent: true,
      fresh: async (wrap) => ({
        driver: 'parallels', file: wrap(file(await make(65_536))), 'prealloc-mode': 'truncate',
        backing: { driver: 'parallels', file: file(await make(65_536)) },
      }),
    })) it(name, run);
  });
});
