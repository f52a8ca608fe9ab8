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

/** Tables speak of 32 MiB each: more are needed when the disk grows. */
const growing = { size: 33 << 20, growsFrom: (2 << 20) + 1536 };
const kinds: readonly { readonly size: number; readonly growsFrom?: number; readonly create?: Readonly<Record<string, boolean>> }[] = [
  { size: 4 << 20 }, { size: 4 << 20, create: { zeroed_grain: true } }, growing,
];
/** A large disk takes longer to compare. */
const statesOf = ({ growsFrom }: { readonly growsFrom?: number }): number => Math.ceil(total / (growsFrom === undefined ? 2 : 8));

describe('VMDK after a power cut', () => {
  for (const { create = {}, ...kind } of kinds) {
    it(`${JSON.stringify({ ...create, ...kind })}: ${statesOf(kind)} states are consistent and hold what was flushed`, async () => {
      expect(await explore({
        driver: vmdk, ...kind, createOptions: create, seed: testSeed, states: statesOf(kind), requests: 100, maxSectors: 900,
        needsRepair: (image) => image[uncleanOffset] === 1, judge, judgeEvery: 2,
      })).toEqual([]);
    }, 3_600_000);
  }
});
