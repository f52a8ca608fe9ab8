/** Power cuts on qed, vdi and qcow: what was flushed is there, and no entry refers to what is not. */
import { describe, expect, it } from 'vitest';
import { qcow } from '../../src/format/qcow/index.js';
import { qed } from '../../src/format/qed/index.js';
import { vdi } from '../../src/format/vdi/index.js';
import { viewOf } from '../../src/util/view.js';
import { explore, type CrashSetup, type RunCommand } from './explore.js';
import { testSeed } from '../support/seed.js';

const total = Math.max(90, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 60);
const program = process.env['QEMU_IMG_PEER'] ?? 'qemu-img';

/** Leaks are allowed. */
async function judgeQed(run: RunCommand, file: string): Promise<string | undefined> {
  const { status, output } = await run(`${program} check -f qed ${file}`);
  return status === 0 || status === 3 ? undefined : `qemu-img check: status ${status}: ${output.slice(0, 400)}`;
}

/** The count in the header may be too high. */
function countsTooMany(image: Uint8Array): boolean {
  const view = viewOf(image);
  let used = 0;
  for (let block = 0; block < view.getUint32(384, true); block++) if (view.getUint32(view.getUint32(340, true) + block * 4, true) < 0xffff_fffe) used++;
  return used < view.getUint32(388, true);
}

async function judgeVdi(run: RunCommand, file: string, image: Uint8Array): Promise<string | undefined> {
  const { status, output } = await run(`${program} check -f vdi ${file}`);
  const expected = countsTooMany(image) ? /^ERROR: allocated blocks mismatch[^\n]*\n\n1 errors/ : /^No errors/;
  return expected.test(output) ? undefined : `qemu-img check: status ${status}: ${output.slice(0, 400)}`;
}

/** Nobody else checks these: qemu-img must at least read them all. */
async function judgeQcow(run: RunCommand, file: string): Promise<string | undefined> {
  const { status, output } = await run(`${program} convert -f qcow -O raw ${file} ${file}.raw`);
  return status === 0 ? undefined : `qemu-img convert: status ${status}: ${output.slice(0, 400)}`;
}

const kinds: Readonly<Record<string, Pick<CrashSetup, 'driver' | 'size' | 'createOptions' | 'judge' | 'needsRepair' | 'shrinksTo'>>> = {
  'qed with clusters of 4 KiB': { driver: qed, size: 1 << 20, createOptions: { cluster_size: 4096, table_size: 2 }, judge: judgeQed },
  'qed': { driver: qed, size: 1 << 20, createOptions: {}, judge: judgeQed },
  'vdi': { driver: vdi, size: 3 << 20, createOptions: {}, judge: judgeVdi, needsRepair: countsTooMany },
  'vdi, shrinking': { driver: vdi, size: 5 << 20, createOptions: {}, judge: judgeVdi, needsRepair: countsTooMany, shrinksTo: (2 << 20) + 512 },
  'qcow': { driver: qcow, size: 1 << 20, createOptions: {}, judge: judgeQcow },
};
const states = Math.ceil(total / Object.keys(kinds).length);

describe('after a power cut', () => {
  for (const [name, kind] of Object.entries(kinds)) {
    it(`${states} states of ${name} are consistent and hold what was flushed`, async () => {
      expect(await explore({ ...kind, seed: testSeed, states, requests: 100 })).toEqual([]);
    }, 3_600_000);
  }
});
