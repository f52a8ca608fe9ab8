/**
 * qed, vdi and qcow: random requests, some by us and some by qemu-io, on one image; both must then see what a byte array holds, and
 * qemu-img must find nothing wrong.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { seededRandom } from '../../src/testing/random.js';
import { applySteps, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { ImageFolder } from '../support/image-folder.js';
import { runHere } from '../support/in-process.js';
import { havePeers, oracleTool } from '../support/peers.js';
import { testSeed } from '../support/seed.js';

const size = 5 << 20;
const folder = new ImageFolder();
const scratch = mkdtempSync(join(tmpdir(), 'vdisk-steps-'));
afterAll(async () => {
  await folder.remove();
  rmSync(scratch, { recursive: true });
});

function succeed(program: string, parameters: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, parameters, { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (status !== 0) throw new Error(`${program} ${parameters.join(' ')} ended with ${status}: ${stdout}${stderr}`);
  return stdout;
}

function randomSteps(random: () => number, count: number, compresses: boolean, unit = 512): Step[] {
  return Array.from({ length: count }, (): Step => {
    const what = random();
    if (compresses && what < 0.2) return { kind: 'compressed', offset: Math.floor(random() * (size / 65_536)) * 65_536, length: 65_536, seed: Math.floor(random() * 1e6) };
    const length = unit * (1 + Math.floor(random() ** 3 * (307_200 / unit)));
    const offset = unit * Math.floor(random() * ((size - length) / unit + 1));
    return what < 0.4 ? { kind: 'zero', offset, length } : { kind: 'write', offset, length, seed: Math.floor(random() * 1e6) };
  });
}

// QEMU (7.2 and 10) fills the rest of a zero cluster it writes in part from the backing file, so it is given whole clusters there.
const kinds: readonly { readonly name: string; readonly format: string; readonly options?: Record<string, string | number | boolean>; readonly overlay?: boolean; readonly peerWrites?: number }[] = [
  { name: 'qed', format: 'qed' },
  { name: 'qed overlay with small clusters', format: 'qed', options: { cluster_size: 4096, table_size: 2 }, overlay: true, peerWrites: 4096 },
  { name: 'vdi', format: 'vdi' },
  { name: 'vdi, fixed', format: 'vdi', options: { static: true } },
  { name: 'qcow', format: 'qcow' },
  { name: 'qcow overlay', format: 'qcow', overlay: true },
];
const peers = [['QEMU 7.2', 'qemu-img', 'qemu-io'], ['QEMU 10', oracleTool('qemu-img'), oracleTool('qemu-io')]] as const;

for (const [peer, img, io] of peers) {
  describe.skipIf(img === undefined || io === undefined || (img === 'qemu-img' && !havePeers('qemu-img', 'qemu-io')))(`with ${peer}`, () => {
    it.each(kinds)('$name holds what both wrote', async ({ format, options = {}, overlay, peerWrites = 512 }) => {
      const random = seededRandom(testSeed);
      const model = new DiskModel(new Uint8Array(size));
      let image = '';
      if (overlay) {
        const base = await folder.create('raw', size);
        const steps = randomSteps(random, 5, false);
        await folder.use('raw', base, (disk) => applySteps(disk, steps));
        model.apply(steps);
        image = await folder.create(format, size, { ...options, backing_file: base, backing_fmt: 'raw' });
      } else {
        image = await folder.create(format, size, options);
      }
      for (let round = 0; round < 4; round++) {
        const ours = round % 2 === 0;
        const steps = randomSteps(random, 12, format === 'qcow' && ours, ours ? 512 : peerWrites);
        model.apply(steps);
        if (ours) await folder.use(format, image, (disk) => applySteps(disk, steps));
        else succeed(io!, ['-t', 'unsafe', '-f', format, ...stepParameters(steps, (name) => join(scratch, name)), image]);
        if (format !== 'qcow') expect(succeed(img!, ['check', '-f', format, image]), `seed ${testSeed}`).toMatch(/^No errors were found/);
      }
      const raw = folder.file('raw');
      succeed(img!, ['convert', '-t', 'unsafe', '-f', format, '-O', 'raw', image, raw]);
      expect(Buffer.compare(readFileSync(raw), model.bytes), `theirs, seed ${testSeed}`).toBe(0);
      expect(Buffer.compare(await folder.content(format, image), model.bytes), `ours, seed ${testSeed}`).toBe(0);
    });

    it.each(['qed', 'vdi', 'qcow'])('a new %s is the same, byte for byte, but for what is random', async (format) => {
      for (const bytes of [512, size, size + 512, 3 * 2 ** 30]) {
        const ours = await folder.create(format, bytes);
        const theirs = folder.file(format);
        succeed(img!, ['create', '-q', '-f', format, theirs, String(bytes)]);
        const [a, b] = [readFileSync(ours), readFileSync(theirs)];
        if (format === 'vdi') for (const image of [a, b]) image.fill(0, 392, 424);
        expect(Buffer.compare(a, b), `${format} of ${bytes} bytes`).toBe(0);
      }
    });

    it.each([
      ['qcow', 'a part of a sector behind the last one', [30, 1, 3]],
      ['qcow', 'a backing file without a name', [8, 0, 0, 0, 0, 0, 0, 0, 48]],
      ['qed', 'a backing file without a name', [16, 1]],
    ] as const)('a %s whose header tells of %s is described the same', async (format, _what, change) => {
      const image = await folder.create(format, size);
      folder.patch(image, change);
      const parameters = ['info', '-f', format, '--output=json', image];
      const { stdout } = await runHere('qemu-img', parameters);
      const { 'virtual-size': bytes, 'backing-filename': backing } = JSON.parse(succeed(img!, parameters)) as Record<string, unknown>;
      expect(backing).toBeUndefined();
      expect(JSON.parse(stdout)).toMatchObject({ 'virtual-size': bytes });
      expect(stdout).not.toContain('backing-filename');
    });
  });
}

describe.skipIf(!havePeers('qcowinfo'))('libqcow', () => {
  it('knows our qcow of version 1', async () => {
    const image = await folder.create('qcow', size);
    expect(succeed('qcowinfo', [image])).toMatch(/Format version\s*: 1[^]*Media size\s*: 5\.0 MiB \(5242880 bytes\)/);
  });
});
