/** Power cuts on VHDX: what was flushed is there, and qemu-img finds the table sound once it has replayed the log. */
import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { vhdx } from '../../src/format/vhdx/index.js';
import { crashStates } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { explore, makeParent, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(40, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 250);
const MiB = 1 << 20;
const size = 6 * MiB;

async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const program = process.env['QEMU_IMG_PEER'] ?? 'qemu-img';
  const { status, output } = await run(`${program} check -f vhdx -r all ${file}`);
  return status === 0 ? undefined : `qemu-img check -r all: status ${status}: ${output.slice(0, 400)}`;
}

const kinds: readonly { readonly name: string; readonly create: Record<string, string | number | boolean>; readonly differencing?: true; readonly shrinksTo?: number }[] = [
  { name: 'dynamic', create: { block_size: MiB } },
  { name: 'fixed', create: { block_size: 2 * MiB, subformat: 'fixed' } },
  { name: 'differencing', create: { block_size: MiB, backing_file: 'parent' }, differencing: true },
  { name: 'shrinking', create: { block_size: MiB }, shrinksTo: 2 * MiB + 512 },
  { name: 'shrinking, differencing', create: { block_size: MiB, backing_file: 'parent' }, differencing: true, shrinksTo: 3 * MiB - 512 },
  { name: 'differencing, sectors of 4 KiB', create: { block_size: MiB, backing_file: 'parent', logical_sector_size: 4096 }, differencing: true },
];
const seeds = Math.max(1, Math.ceil(total / kinds.length / 40));
/** The moments around shrinking are a small part of all: more states, to meet some. */
const statesOf = ({ shrinksTo }: (typeof kinds)[number]): number => Math.ceil(total / kinds.length / seeds) * (shrinksTo === undefined ? 1 : 4);

describe('VHDX after a power cut', () => {
  for (const kind of kinds) {
    const { name, create, differencing, shrinksTo } = kind;
    const states = statesOf(kind);
    it(`${name}: ${states * seeds} states are consistent and hold what was flushed`, async () => {
      const parent = differencing && await makeParent(vhdx, size, { block_size: 2 * MiB });
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vhdx, size, createOptions: create, seed, states, requests: 100, maxSectors: 3000, ...(shrinksTo !== undefined && { shrinksTo }),
          ...parent ?? { judge, judgeEvery: 3 },
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});

describe('VHDX whose parent changes', () => {
  it('has the old one or the new one after a power cut, and its own blocks', async () => {
    const parent = await makeParent(vhdx, size);
    const recording = new Recording();
    const graph = (disk: Recording): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([vhdx, recorderDriver(disk), ...parent.parent.drivers]) });
    const spec = { driver: 'vhdx', file: { driver: 'recorder' } };
    const target = await graph(recording).openBackend(spec.file);
    const none = (): Promise<never> => Promise.reject(new Error('not needed'));
    await vhdx.create!(target, { size, block_size: MiB, backing_file: 'old' }, {
      filename: 'child', createFile: none, openBacking: () => parent.parent.open('old', 'vhdx'), openTarget: none, object: () => undefined, warn: () => undefined,
    });
    await target.close();
    const written = new Uint8Array(70_000 - (70_000 % 512)).fill(7);
    const withParent = { ...spec, backing: parent.openOptions.backing };
    const child = await graph(recording).openBackend(withParent);
    await child.write(MiB - 512, written);
    await child.close();
    recording.reset();
    recording.random = seededRandom(testSeed);
    const image = await graph(recording).openBackend(withParent);
    await image.node.facet('backing')!.change('new', 'vhdx');
    const renamed = recording.time;
    await image.node.facet('backing')!.change(undefined, undefined);
    const cuts = crashStates(recording, seededRandom(testSeed + 4));
    for (let taken = 0; taken < total; taken++) {
      const state = cuts.next().value;
      const found = await graph(new Recording(state.image)).openBackend(spec, { noBacking: true, readOnly: true });
      const name = found.node.facet('backing')?.filename;
      expect(['old', 'new', undefined], state.description).toContain(name);
      if (state.time >= renamed) expect(name, state.description).not.toBe('old');
      if (state.time >= recording.time) expect(name, state.description).toBeUndefined();
      const bytes = new Uint8Array(written.length);
      await found.read(MiB - 512, bytes);
      expect(Buffer.compare(bytes, written), state.description).toBe(0);
      await found.close();
    }
  }, 600_000);
});
