/** Power cuts on VHD: what was flushed is there, and the copy of the footer in front always leads to sound tables. */
import { describe, expect, it } from 'vitest';
import { BlockGraph, type BackendOptions } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { footerSize, parseFooter } from '../../src/format/vpc/header.js';
import { vpc } from '../../src/format/vpc/index.js';
import { crashStates } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { explore, makeParent, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(120, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 40);
const size = 1 << 19;

/** QEMU has no check for VHD; opening, it looks whether all blocks lie in the file. */
async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const { status, output } = await run(`${process.env['QEMU_IMG_PEER'] ?? 'qemu-img'} info -f vpc ${file}`);
  return status === 0 ? undefined : `qemu-img info: status ${status}: ${output.slice(0, 400)}`;
}

/** The footer at the end says that a former one may lie in the disk. */
function isGrowing(image: Uint8Array): boolean {
  return parseFooter(image.subarray(-footerSize)).formerFooter !== undefined;
}

const kinds: readonly { readonly name: string; readonly create: Record<string, string | number | boolean>; readonly differencing?: true; readonly shrinksTo?: number; readonly cutOffMayChange?: number }[] = [
  { name: 'dynamic', create: { block_size: 16_384 } },
  { name: 'shrinking', create: { block_size: 16_384 }, shrinksTo: 200_192 },
  { name: 'dynamic, large blocks', create: {} },
  { name: 'fixed', create: { subformat: 'fixed' } },
  { name: 'fixed, shrinking', create: { subformat: 'fixed' }, shrinksTo: 200_192, cutOffMayChange: 512 },
  { name: 'differencing', create: { block_size: 32_768, backing_file: 'parent' }, differencing: true },
];
const seeds = Math.max(1, Math.ceil(total / kinds.length / 60));
const states = Math.ceil(total / kinds.length / seeds);

describe('VHD after a power cut', () => {
  for (const { name, create, differencing, shrinksTo, cutOffMayChange } of kinds) {
    it(`${name}: ${states * seeds} states are consistent and hold what was flushed`, async () => {
      const parent = differencing && await makeParent(vpc, size, { force_size: true });
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vpc, size, createOptions: { force_size: true, ...create }, seed, states, requests: 100, ...(shrinksTo !== undefined && { shrinksTo }),
          ...(cutOffMayChange !== undefined && { cutOffMayChange, needsRepair: isGrowing }), ...(!name.startsWith('fixed') && { judge, judgeEvery: 4 }),
          ...parent,
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});

it.each(['off', 'falloc', 'full'] as const)('a fixed VHD that grows (preallocation %s) has a footer at its end after any power cut, and shows none once it was opened for writing', async (preallocation) => {
  const recording = new Recording();
  const graph = (disk: Recording): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([vpc, recorderDriver(disk)]) });
  const file = { driver: 'recorder' };
  const target = await graph(recording).openBackend(file);
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await vpc.create!(target, { size: 200_192, force_size: true, subformat: 'fixed' }, {
    filename: 'disk', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined,
  });
  await target.write(0, new Uint8Array(200_192).fill(7));
  await target.close();
  recording.reset();
  recording.random = seededRandom(testSeed);
  const disk = await graph(recording).openBackend({ driver: 'vpc', file });
  await disk.resize(size, { preallocation });
  await disk.close();
  const cuts = crashStates(recording, seededRandom(testSeed + 5));
  let seen = 0;
  for (let taken = 0; taken < 200; taken++) {
    const state = cuts.next().value;
    const left = new Recording(state.image);
    const readAll = async (options: BackendOptions): Promise<Uint8Array> => {
      const found = await graph(left).openBackend({ driver: 'vpc', file }, options);
      expect([200_192, size], state.description).toContain(found.size);
      const bytes = new Uint8Array(found.size);
      await found.read(0, bytes);
      const { corruptions } = await found.node.facet('check')!.check({ repair: 'none' });
      expect(corruptions, state.description).toBe(bytes.subarray(200_192).some((byte) => byte !== 0) ? 1 : 0);
      await found.close();
      return bytes;
    };
    const bytes = await readAll({ readOnly: true });
    expect(bytes.subarray(0, 200_192).every((byte) => byte === 7), state.description).toBe(true);
    if (bytes.subarray(200_192).some((byte) => byte !== 0)) seen++;
    if (taken % 2 === 0) {
      const repairing = await graph(left).openBackend({ driver: 'vpc', file }, { check: true });
      await repairing.node.facet('check')!.check({ repair: 'all' });
      await repairing.close();
    }
    for (const options of [{}, { readOnly: true }]) {
      expect((await readAll(options)).subarray(200_192).every((byte) => byte === 0), state.description).toBe(true);
    }
  }
  expect(seen).toBeGreaterThan(0);
});

describe('VHD that loses its parent', () => {
  it('is a child or a dynamic disk after a power cut, with the same content', async () => {
    const parent = await makeParent(vpc, size, { force_size: true });
    const recording = new Recording();
    const graph = (disk: Recording): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([vpc, recorderDriver(disk), ...parent.parent.drivers]) });
    const file = { driver: 'recorder' };
    const target = await graph(recording).openBackend(file);
    const none = (): Promise<never> => Promise.reject(new Error('not needed'));
    await vpc.create!(target, { size, force_size: true, block_size: 32_768, backing_file: 'parent' }, {
      filename: 'child', createFile: none, openBacking: parent.parent.open, openTarget: none, object: () => undefined, warn: () => undefined,
    });
    await target.close();
    const spec = { driver: 'vpc', file, backing: parent.openOptions.backing };
    // What the parent shows is never zero: without it, zeroes are what remains of the written block.
    const written = new Uint8Array(32_768);
    written.fill(7, 512, 5120);
    const child = await graph(recording).openBackend(spec);
    await child.write(32_768, written);
    await child.close();
    recording.reset();
    recording.random = seededRandom(testSeed);
    const image = await graph(recording).openBackend(spec);
    await image.node.facet('backing')!.change(undefined, undefined);
    await image.close();
    const cuts = crashStates(recording, seededRandom(testSeed + 4));
    for (let taken = 0; taken < 60; taken++) {
      const state = cuts.next().value;
      const found = await graph(new Recording(state.image)).openBackend({ driver: 'vpc', file }, { noBacking: true, readOnly: true });
      if (state.time >= recording.time) expect(found.node.facet('backing'), state.description).toBeUndefined();
      const bytes = new Uint8Array(written.length);
      await found.read(32_768, bytes);
      expect(Buffer.compare(bytes, written), state.description).toBe(0);
      await found.close();
    }
  }, 600_000);
});
