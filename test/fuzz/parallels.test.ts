import { describe, it } from 'vitest';
import { parallels } from '../../src/format/parallels/index.js';
import { fuzzCases, seedImage, surviveHostile } from './hostile.js';

/** Grows its file in small steps, for files in memory. */
const frugal = { ...parallels, options: { ...parallels.options, 'prealloc-size': { type: 'size', default: 65_536 } as const } };

describe('hostile Parallels images', () => {
  for (const clusterSize of [65_536, 512]) {
    it(`are survived: clusters of ${clusterSize} bytes`, async () => {
      const seed = await seedImage('parallels', { cluster_size: clusterSize }, async (disk) => {
        await disk.write(0, new Uint8Array(300_000).fill(3));
        await disk.write(2 << 20, new Uint8Array(200_000).fill(4));
        await disk.discard(65_536, 65_536);
      });
      await surviveHostile(frugal, seed, Math.ceil(fuzzCases / 10), { headerBytes: 128 });
    }, 1_200_000);
  }
});
