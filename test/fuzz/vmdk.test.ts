import { describe, it } from 'vitest';
import { sectorSize } from '../../src/format/vmdk/header.js';
import { vmdk } from '../../src/format/vmdk/index.js';
import { fuzzCases, seedImage, surviveHostile } from './hostile.js';

interface Part { readonly offset: number; readonly length: number }
const header: Part = { offset: 0, length: 80 };
const descriptor: Part = { offset: sectorSize, length: 400 };
const sectors = (first: number, length: number): Part => ({ offset: first * sectorSize, length });

/** Of disks of 4 MiB: both directories and the tables behind them. */
const tables = [sectors(21, 16), sectors(22, 256), sectors(26, 16), sectors(27, 256)];
/** Of streams: the first grains' markers; at the end a table, the directory and the footer. */
const streamParts = (size: number): Part[] => [
  { offset: 65_536, length: 64 }, ...[-9, -8, -4, -3, -2, -1].map((sector) => ({ offset: size + sector * sectorSize, length: 128 })),
];

const kinds: readonly { readonly options: Record<string, string | boolean>; readonly parts: (size: number) => readonly Part[] }[] = [
  { options: {}, parts: () => [header, ...tables] },
  { options: { zeroed_grain: true }, parts: () => [header, descriptor, ...tables] },
  { options: { subformat: 'streamOptimized' }, parts: (size) => [header, header, ...streamParts(size)] },
];

describe('hostile VMDK disks', () => {
  for (const { options, parts } of kinds) {
    it(`are survived: ${JSON.stringify(options)}`, async () => {
      const stream = options['subformat'] === 'streamOptimized';
      const seed = await seedImage('vmdk', options, async (disk) => {
        await disk.write(0, new Uint8Array(stream ? 1 << 18 : 300_000).fill(3));
        if (options['zeroed_grain'] === true) await disk.writeZeroes(65_536, 65_536);
        await disk.write(1 << 20, new Uint8Array(1 << 18).fill(4));
      });
      await surviveHostile(vmdk, seed, Math.ceil(fuzzCases / 15), { targets: parts(seed.length) });
    }, 1_200_000);
  }
});
