/** Power cuts on VHD: what was flushed is there, and the copy of the footer in front always leads to sound tables. */
import { describe, expect, it } from 'vitest';
import { vpc } from '../../src/format/vpc/index.js';
import { explore, makeParent, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(120, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 40);
const size = 1 << 19;

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
      const parent = differencing && await makeParent(vpc, size, { force_size: true });
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vpc, size, createOptions: { force_size: true, ...create }, seed, states, requests: 100,
          ...(name !== 'fixed' && { judge, judgeEvery: 4 }),
          ...parent,
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});
