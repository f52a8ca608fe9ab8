/** Power cuts on VHDX: what was flushed is there, and qemu-img finds the table sound once it has replayed the log. */
import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { vhdx } from '../../src/format/vhdx/index.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { explore, type CrashSetup, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(40, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 250);
const MiB = 1 << 20;
const size = 6 * MiB;

/** A parent full of what no child writes. */
async function makeParent(): Promise<NonNullable<CrashSetup['parent']>> {
  const file = { ...recorderDriver(new Recording()), name: 'parent-recorder' };
  const open = (readOnly: boolean): ReturnType<BlockGraph['openBackend']> => new BlockGraph({ drivers: new DriverRegistry([vhdx, file]) })
    .openBackend({ driver: 'vhdx', file: { driver: file.name } }, { readOnly });
  const target = await new BlockGraph({ drivers: new DriverRegistry([file]) }).openBackend({ driver: file.name });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await vhdx.create!(target, { size, block_size: 2 * MiB }, { filename: 'parent', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  await target.close();
  const content = new Uint8Array(size).fill(0xee);
  const disk = await open(false);
  await disk.write(0, content);
  await disk.close();
  return { open: () => open(true), drivers: [file], content };
}

async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const program = process.env['QEMU_IMG_PEER'] ?? 'qemu-img';
  const { status, output } = await run(`${program} check -f vhdx -r all ${file}`);
  return status === 0 ? undefined : `qemu-img check -r all: status ${status}: ${output.slice(0, 400)}`;
}

const kinds: readonly { readonly name: string; readonly create: Record<string, string | number | boolean>; readonly differencing?: true }[] = [
  { name: 'dynamic', create: { block_size: MiB } },
  { name: 'fixed', create: { block_size: 2 * MiB, subformat: 'fixed' } },
  { name: 'differencing', create: { block_size: MiB, backing_file: 'parent' }, differencing: true },
  { name: 'differencing, sectors of 4 KiB', create: { block_size: MiB, backing_file: 'parent', logical_sector_size: 4096 }, differencing: true },
];
const seeds = Math.max(1, Math.ceil(total / kinds.length / 40));
const states = Math.ceil(total / kinds.length / seeds);

describe('VHDX after a power cut', () => {
  for (const { name, create, differencing } of kinds) {
    it(`${name}: ${states * seeds} states are consistent and hold what was flushed`, async () => {
      const parent = differencing && await makeParent();
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vhdx, size, createOptions: create, seed, states, requests: 100, maxSectors: 3000,
          ...(parent === undefined ? { judge, judgeEvery: 3 } : { parent, openOptions: { backing: { driver: 'vhdx', file: { driver: 'parent-recorder' } } } }),
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});
