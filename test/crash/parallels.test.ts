/** Power cuts on Parallels images: what was flushed is there; once the mark of use is taken off, qemu-img finds nothing but surplus space. */
import { describe, expect, it } from 'vitest';
import { parallels } from '../../src/format/parallels/index.js';
import { explore, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(60, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 100);

/** Nothing but the mark and a file that is too long may be wrong: references to places twice, or outside, never. */
async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const program = process.env['QEMU_IMG_PEER'] ?? 'qemu-img';
  const { status, output } = await run(`${program} check -f parallels ${file}`);
  if (/duplicate|cluster \d+ is outside|data_off/.test(output) || ![0, 2, 3].includes(status)) return `qemu-img check: status ${status}: ${output.slice(0, 400)}`;
  const repair = await run(`${program} check -f parallels -r all ${file}`);
  return repair.status === 0 ? undefined : `qemu-img check -r all: status ${repair.status}: ${repair.output.slice(0, 400)}`;
}

const hasMark = (image: Uint8Array): boolean => new TextDecoder().decode(image.subarray(44, 48)) === 'Ynot';
const kinds: readonly (readonly [clusterSize: number, shrinksTo?: number])[] = [[4096], [65_536], [63 * 512], [4096, 401 * 512]];
const states = Math.ceil(total / kinds.length);

describe('parallels after a power cut', () => {
  for (const [clusterSize, shrinksTo] of kinds) {
    it(`${states} states with clusters of ${clusterSize} bytes${shrinksTo === undefined ? '' : ', shrinking,'} are consistent and hold what was flushed`, async () => {
      expect(await explore({
        driver: parallels, size: 1 << 20, createOptions: { cluster_size: clusterSize }, openOptions: { 'prealloc-size': 1 << 17, 'prealloc-mode': 'truncate' },
        seed: testSeed, states, requests: 100, judge, needsRepair: hasMark, ...(shrinksTo !== undefined && { shrinksTo }),
      })).toEqual([]);
    }, 3_600_000);
  }
});
