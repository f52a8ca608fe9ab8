/** Power cuts on VHD: what was flushed is there, and the copy of the footer in front always leads to sound tables. */
import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { vpc } from '../../src/format/vpc/index.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { explore, type CrashSetup, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(120, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 40);
const size = 1 << 19;

/** A parent full of what no child writes. */
async function makeParent(): Promise<NonNullable<CrashSetup['parent']>> {
  const file = { ...recorderDriver(new Recording()), name: 'parent-recorder' };
  const open = (readOnly: boolean): ReturnType<BlockGraph['openBackend']> => new BlockGraph({ drivers: new DriverRegistry([vpc, file]) })
    .openBackend({ driver: 'vpc', file: { driver: file.name } }, { readOnly });
  const target = await new BlockGraph({ drivers: new DriverRegistry([file]) }).openBackend({ driver: file.name });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await vpc.create!(target, { size, force_size: true }, { filename: 'parent', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  await target.close();
  const content = new Uint8Array(size).fill(0xee);
  const disk = await open(false);
  await disk.write(0, content);
  await disk.close();
  return { open: () => open(true), drivers: [file], content };
}

/** QEMU has no check for VHD; opening, it looks whether all blocks lie in the file. */
async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const { status, output } = await run(`${process.env['QEMU_IMG_PEER'] ?? 'qemu-img'} info -f vpc ${file}`);
  return status === 0 ? undefined : `qemu-img info: status ${status}: ${output.slice(0, 400)}`;
}

const kinds: readonly { readonly name: string; readonly create: Record<string, string | number | boolean>; readonly differencing?: true }[] = [
  { name: 'dynamic', create: { block_size: 16_384 } },
  { name: 'dynamic, large blocks', create: {} },
  { name: 'fixed', create: { subformat: 'fixed' } },
  { name: 'differencing', create: { block_size: 32_768, backing_file: 'parent' }, differencing: true },
];
const seeds = Math.max(1, Math.ceil(total / kinds.length / 60));
const states = Math.ceil(total / kinds.length / seeds);

describe('VHD after a power cut', () => {
  for (const { name, create, differencing } of kinds) {
    it(`${name}: ${states * seeds} states are consistent and hold what was flushed`, async () => {
      const parent = differencing && await makeParent();
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vpc, size, createOptions: { force_size: true, ...create }, seed, states, requests: 100,
          ...(name !== 'fixed' && { judge, judgeEvery: 4 }),
          ...(parent && { parent, openOptions: { backing: { driver: 'vpc', file: { driver: 'parent-recorder' } } } }),
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});
