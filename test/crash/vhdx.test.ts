/** Power cuts on VHDX: what was flushed is there, and qemu-img finds the table sound once it has replayed the log. */
import { describe, expect, it } from 'vitest';
import { vhdx } from '../../src/format/vhdx/index.js';
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
      const parent = differencing && await makeParent(vhdx, size, { block_size: 2 * MiB });
      for (let seed = testSeed; seed < testSeed + seeds; seed++) {
        const failures = await explore({
          driver: vhdx, size, createOptions: create, seed, states, requests: 100, maxSectors: 3000,
          ...parent ?? { judge, judgeEvery: 3 },
        });
        expect(failures).toEqual([]);
      }
    }, 3_600_000);
  }
});
