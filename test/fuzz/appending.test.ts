import { describe, it } from 'vitest';
import type { BlockDriver } from '../../src/block/driver.js';
import { qcow } from '../../src/format/qcow/index.js';
import { qed } from '../../src/format/qed/index.js';
import { vdi } from '../../src/format/vdi/index.js';
import { Req } from '../../src/block/driver.js';
import { fuzzCases, seedImage, surviveHostile } from './hostile.js';

const kinds: readonly { readonly driver: BlockDriver; readonly options: Record<string, string | number | boolean>; readonly headerBytes: number }[] = [
  { driver: qed, options: { cluster_size: 4096, table_size: 2 }, headerBytes: 64 },
  { driver: vdi, options: {}, headerBytes: 528 },
  { driver: qcow, options: {}, headerBytes: 64 },
];

describe('hostile images', () => {
  for (const { driver, options, headerBytes } of kinds) {
    it(`of ${driver.name} are survived`, async () => {
      const seed = await seedImage(driver.name, options, async (disk) => {
        await disk.write(0, new Uint8Array(300_000).fill(3));
        await disk.writeZeroes(1 << 20, 65_536);
        if (driver.supportsCompression) await disk.write(2 << 20, new Uint8Array(65_536).fill(4), Req.COMPRESSED);
        else await disk.write(2 << 20, new Uint8Array(65_536).fill(4));
      });
      await surviveHostile(driver, seed, Math.ceil(fuzzCases / 10), { headerBytes });
    }, 1_200_000);
  }
});
