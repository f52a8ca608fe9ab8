/** Power cuts on Parallels images: what was flushed is there; once the mark of use is taken off, qemu-img finds nothing but surplus space. */
import { describe, expect, it } from 'vitest';
import { parallels } from '../../src/format/parallels/index.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { crashStates } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { withBitmap } from '../support/parallels-maker.js';
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

describe('a bitmap stored with a parallels image', () => {
  const size = 4 << 20;
  const spec = { driver: 'parallels', file: { driver: 'recorder' } };
  const graph = (disk: Recording): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([parallels, recorderDriver(disk)]) });

  it(`marks what was written or is gone after a power cut, in ${total} states`, async () => {
    const empty = new Recording();
    const target = await graph(empty).openBackend({ driver: 'recorder' });
    const none = (): Promise<never> => Promise.reject(new Error('not needed'));
    await parallels.create!(target, { size, cluster_size: 65_536 }, { filename: 'empty', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
    const recording = new Recording(withBitmap(Buffer.from(empty.content.subarray(0, empty.size)), size));
    recording.random = seededRandom(testSeed);
    const random = seededRandom(testSeed + 1);
    for (let session = 0; session < 3; session++) {
      const disk = await graph(recording).openBackend(spec, { discard: 'unmap' });
      for (let request = 0; request < 8; request++) {
        await disk.write(Math.floor(random() * (size - 100_000) / 512) * 512, new Uint8Array(Math.floor(random() * 190) * 512).fill(session * 8 + request + 1));
        if (request === 5) await disk.flush();
      }
      await disk.close();
    }
    const cuts = crashStates(recording, seededRandom(testSeed + 2));
    let kept = 0;
    for (let taken = 0; taken < total; taken++) {
      const { image, time, description } = cuts.next().value;
      const disk = await graph(new Recording(image)).openBackend(spec, { readOnly: true });
      const [bitmap] = disk.node.bitmaps.values();
      if (bitmap !== undefined) kept++;
      else expect(time, description).toBeLessThan(recording.time);
      const content = new Uint8Array(size);
      await disk.read(0, content);
      for (let at = 0; at < size && bitmap !== undefined; at += 512) {
        if (content[at] !== 0) expect(bitmap.isDirty(at), `${description}: offset ${at}`).toBe(true);
      }
      await disk.close();
    }
    expect(kept).toBeGreaterThan(0);
  }, 600_000);
});
