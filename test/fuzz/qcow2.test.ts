import { describe, it } from 'vitest';
import { qcow2 } from '../../src/format/qcow2/index.js';
import { fuzzCases, seedImage, surviveHostile } from './hostile.js';

describe('hostile qcow2 images', () => {
  for (const options of [{}, { cluster_size: 512 }, { extended_l2: true }, { refcount_bits: 1, cluster_size: 4096 }]) {
    it(`are survived: ${JSON.stringify(options)}`, async () => {
      const seed = await seedImage('qcow2', options, async (disk) => {
        await disk.write(0, new Uint8Array(300_000).fill(3));
        await disk.writeZeroes(65_536, 65_536);
        if (options.refcount_bits !== 1) await disk.node.facet('snapshots')?.create({ name: 'before' });
        await disk.write(1 << 20, new Uint8Array(200_000).fill(4));
      });
      await surviveHostile(qcow2, seed, fuzzCases / 4);
    }, 1_200_000);
  }
});
