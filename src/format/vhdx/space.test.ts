import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { Req } from '../../block/driver.js';
import { DriverRegistry } from '../../block/registry.js';
import { Recording, recorderDriver } from '../../testing/recorder.js';
import { viewOf } from '../../util/view.js';
import { MiB } from './header.js';
import { vhdx } from './index.js';
import { Occupancy } from './occupancy.js';
import { State, writeEntry } from './tables.js';

const none = (): Promise<never> => Promise.reject(new Error('not needed'));
const spec = { driver: 'vhdx', file: { driver: 'recorder' } };

async function withDisk(recording: Recording, work: (disk: Awaited<ReturnType<BlockGraph['openBackend']>>) => Promise<void>): Promise<void> {
  await using graph = new BlockGraph({ drivers: new DriverRegistry([vhdx, recorderDriver(recording)]) });
  await work(await graph.openBackend(spec, { discard: 'unmap' }));
}

async function newDisk(): Promise<Recording> {
  const recording = new Recording();
  await using graph = new BlockGraph({ drivers: new DriverRegistry([recorderDriver(recording)]) });
  const target = await graph.openBackend({ driver: 'recorder' });
  await vhdx.create!(target, { size: 16 * MiB, block_size: MiB }, { filename: 'disk', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  return recording;
}

describe('room that was given up', () => {
  it('is used again, in the same session and in later ones', async () => {
    const recording = await newDisk();
    await withDisk(recording, async (disk) => {
      await disk.write(0, new Uint8Array(8 * MiB).fill(1));
      const { size } = recording;
      await disk.discard(2 * MiB, 3 * MiB);
      await disk.flush();
      await disk.write(9 * MiB, new Uint8Array(MiB).fill(2));
      expect(recording.size).toBe(size);
    });
    const { size } = recording;
    await withDisk(recording, async (disk) => {
      await disk.write(10 * MiB + 5, new Uint8Array(10).fill(3));
      await disk.write(11 * MiB, new Uint8Array(MiB).fill(4));
      expect(recording.size).toBe(size);
      await disk.write(12 * MiB, new Uint8Array(MiB).fill(5));
      expect(recording.size).toBe(size + MiB);
      const bytes = new Uint8Array(3 * MiB);
      await disk.read(9 * MiB, bytes);
      expect([0, MiB - 1, MiB, MiB + 5, MiB + 15, 2 * MiB - 1, 2 * MiB].map((at) => bytes[at])).toEqual([2, 2, 0, 3, 0, 0, 4]);
    });
  });

  it('is not used before the table that gave it up is durable', async () => {
    const recording = await newDisk();
    await withDisk(recording, async (disk) => {
      await disk.write(0, new Uint8Array(MiB).fill(1));
      await disk.flush();
      const { size } = recording;
      await disk.writeZeroes(0, MiB, Req.MAY_UNMAP);
      await disk.write(MiB, new Uint8Array(MiB).fill(2));
      expect(recording.size).toBe(size + MiB);
    });
  });

  it('stays where another keeps a block\'s former place', async () => {
    const recording = await newDisk();
    await withDisk(recording, async (disk) => {
      await disk.write(0, new Uint8Array(3 * MiB).fill(1));
    });
    writeEntry(viewOf(recording.content.subarray(2 * MiB)), 1, 9 * MiB + State.UNMAPPED);
    const { size } = recording;
    await withDisk(recording, async (disk) => {
      await disk.write(8 * MiB, new Uint8Array(MiB).fill(7));
      expect(recording.size).toBe(size + MiB);
    });
  });
});

it('gaps are found between what is taken, the last first', () => {
  const occupancy = new Occupancy(40 * MiB);
  expect(occupancy.claim(8 * MiB, 2 * MiB)).toBe(false);
  expect(occupancy.claim(15 * MiB, MiB)).toBe(false);
  expect(occupancy.claim(14 * MiB, 2 * MiB)).toBe(true);
  expect([...occupancy.gaps(8 * MiB, 20 * MiB, 2 * MiB)]).toEqual([18 * MiB, 16 * MiB, 12 * MiB, 10 * MiB]);
});
