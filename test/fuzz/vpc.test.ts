import { describe, it } from 'vitest';
import { checksum, footerSize } from '../../src/format/vpc/header.js';
import { vpc } from '../../src/format/vpc/index.js';
import { fuzzCases, seedImage, surviveHostile } from './hostile.js';

describe('hostile VHDs', () => {
  for (const options of [{}, { block_size: 65_536 }, { subformat: 'fixed' }]) {
    it(`are survived: ${JSON.stringify(options)}`, async () => {
      const seed = await seedImage('vpc', { force_size: true, ...options }, async (disk) => {
        await disk.write(0, new Uint8Array(300_000).fill(3));
        await disk.writeZeroes(65_536, 65_536);
        await disk.write((1 << 22) - 100_000, new Uint8Array(100_000).fill(4));
      });
      await surviveHostile(vpc, seed, Math.ceil(fuzzCases / 15), { headerBytes: 2048 });
    }, 1_200_000);
  }

  it('with a parent to name are survived', async () => {
    const seed = await seedImage('vpc', { force_size: true, block_size: 65_536 }, async (disk) => {
      await disk.write(100_000, new Uint8Array(300_000).fill(3));
    });
    for (const at of [0, seed.length - footerSize]) {
      const footer = seed.subarray(at, at + footerSize);
      footer[63] = 4;
      new DataView(footer.buffer, footer.byteOffset).setUint32(64, checksum(footer, 64));
    }
    await surviveHostile(vpc, seed, Math.ceil(fuzzCases / 30), { headerBytes: 2048 });
  }, 1_200_000);
});
