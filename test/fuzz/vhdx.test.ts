import { describe, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { checksum, headerOffsets, headerSize, MiB, regionTableOffsets, regionTableSize } from '../../src/format/vhdx/header.js';
import { vhdx } from '../../src/format/vhdx/index.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { fuzzCases, surviveHostile } from './hostile.js';

/** An image that was never closed: its log holds what may or may not be in its place. */
async function seedImage(options: Record<string, string | number | boolean>): Promise<Uint8Array> {
  const recording = new Recording();
  const graph = new BlockGraph({ drivers: new DriverRegistry([vhdx, recorderDriver(recording)]) });
  const target = await graph.openBackend({ driver: 'recorder' });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await vhdx.create!(target, { size: 4 * MiB, ...options }, { filename: 'seed', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  await target.close();
  const disk = await graph.openBackend({ driver: 'vhdx', file: { driver: 'recorder' } });
  await disk.write(0, new Uint8Array(300_000).fill(3));
  await disk.flush();
  await disk.write(2 * MiB, new Uint8Array(200_000).fill(4));
  await disk.flush();
  return recording.content.slice(0, recording.size);
}

/** Headers, region tables, both halves of the log, table, metadata: of images with a log of 1 MiB. */
const targets = [
  ...headerOffsets.map((offset) => ({ offset, length: 80 })), ...regionTableOffsets.map((offset) => ({ offset, length: 96 })),
  { offset: MiB, length: 160 }, { offset: 1.5 * MiB, length: 160 }, { offset: 2 * MiB, length: 64 },
  { offset: 3 * MiB, length: 256 }, { offset: 3 * MiB + 65_536, length: 64 },
];

function mend(image: Uint8Array): void {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const fix = (offset: number, length: number): void => {
    if (length >= 8 && offset + length <= image.length) view.setUint32(offset + 4, checksum(image.subarray(offset, offset + length)), true);
  };
  for (const offset of headerOffsets) fix(offset, headerSize);
  for (const offset of regionTableOffsets) fix(offset, regionTableSize);
  for (const offset of [MiB, 1.5 * MiB]) if (offset + 12 <= image.length) fix(offset, Math.min(view.getUint32(offset + 8, true), MiB));
}

describe('hostile VHDX images', () => {
  for (const options of [{ block_size: MiB }, { subformat: 'fixed', block_size: 2 * MiB }, { logical_sector_size: 4096, block_size: MiB }]) {
    it(`are survived: ${JSON.stringify(options)}`, async () => {
      await surviveHostile(vhdx, await seedImage(options), Math.ceil(fuzzCases / 20), { targets, mend });
    }, 1_200_000);
  }
});
