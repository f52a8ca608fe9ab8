/** Power cuts on VMDK disks: what was flushed is there, qemu-img finds no fault, and neither do we unless the header tells of a writer. */
import { describe, expect, it } from 'vitest';
import { vmdk } from '../../src/format/vmdk/index.js';
import { uncleanOffset } from '../../src/format/vmdk/header.js';
import { explore, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(60, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 100);

async function judge(run: RunCommand, file: string): Promise<string | undefined> {
  const program = process.env['QEMU_IMG_PEER'] ?? 'qemu-img';
  const { status, output } = await run(`${program} check -f vmdk ${file}`);
  return status === 0 ? undefined : `qemu-img check: status ${status}: ${output.slice(0, 400)}`;
}

const kinds = [{}, { zeroed_grain: true }];
const states = Math.ceil(total / kinds.length);

describe('VMDK after a power cut', () => {
  for (const createOptions of kinds) {
    it(`${JSON.stringify(createOptions)}: ${states} states are consistent and hold what was flushed`, async () => {
      expect(await explore({
        driver: vmdk, size: 4 << 20, createOptions, seed: testSeed, states, requests: 100, maxSectors: 900,
        needsRepair: (image) => image[uncleanOffset] === 1, judge, judgeEvery: 2,
      })).toEqual([]);
    }, 3_600_000);
  }
});
