/** Compressed images as other writers make them, which are read many clusters at a time: what comes out is what qemu-img reads. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allCases, share } from '../support/cases.js';
import { qcow2OfFrames } from '../support/qcow2-of-frames.js';
import { ToolFolder } from '../support/our-tools.js';
import { oracleTool } from '../support/peers.js';
import { scratchFolder } from '../support/scratch.js';

const MiB = 1 << 20;
const lines = allCases ? 1_200_000 : 400_000;
const peer = oracleTool('qemu-img');

describe.skipIf(peer === undefined)('compressed clusters', () => {
  let folder: ToolFolder;
  beforeAll(() => { folder = new ToolFolder(scratchFolder); });
  afterAll(() => folder.remove());

  const orders = share([[], ['-W'], ['-m', '16'], ['-W', '-m', '16']], 3);
  function readsAsPeer(image: string): void {
    folder.succeed(peer!, ['convert', '-f', 'qcow2', '-O', 'raw', image, 'expected.raw']);
    for (const order of orders) {
      folder.succeed(folder.tool('qemu-img'), ['convert', ...order, '-f', 'qcow2', '-O', 'raw', image, 'found.raw']);
      expect(folder.run(peer!, ['compare', '-s', '-f', 'raw', '-F', 'raw', 'expected.raw', 'found.raw']), order.join(' ')).toMatchObject({ status: 0 });
    }
  }

  it.each([['zlib', '4k'], ['zstd', '4k'], ['zstd', '8k'], ['zstd', '64k'], ['zstd', '2M'], ['zlib', '2M']])('%s in clusters of %s, written out of order', (type, clusterSize) => {
    writeFileSync(folder.file('text.raw'), Array.from({ length: lines }, (_, line) => `line ${line} of some text\n`).join(''));
    folder.succeed(peer!, ['convert', '-c', '-W', '-m', '16', '-f', 'raw', '-O', 'qcow2', '-o', `compression_type=${type},cluster_size=${clusterSize}`, 'text.raw', 'packed.qcow2']);
    readsAsPeer('packed.qcow2');
  });

  it.each(['zlib', 'zstd'])('%s, some of it damaged: the rest is read', (type) => {
    writeFileSync(folder.file('text.raw'), Array.from({ length: 400_000 }, (_, line) => `line ${line} of some text\n`).join(''));
    folder.succeed(peer!, ['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', `compression_type=${type}`, 'text.raw', 'packed.qcow2']);
    const image = readFileSync(folder.file('packed.qcow2'));
    for (const at of [0.3, 0.31, 0.7]) image.fill(0xff, Math.floor(image.length * at), Math.floor(image.length * at) + 3000);
    writeFileSync(folder.file('damaged.qcow2'), image);
    const salvage = (program: string, target: string): string => {
      const { status, stderr } = folder.run(program, ['convert', '--salvage', '-f', 'qcow2', '-O', 'raw', 'damaged.qcow2', target]);
      expect(status).toBe(0);
      return stderr.split('\n').sort().join('\n');
    };
    expect(salvage(folder.tool('qemu-img'), 'found.raw')).toBe(salvage(peer!, 'expected.raw'));
    folder.succeed(peer!, ['compare', '-s', '-f', 'raw', '-F', 'raw', 'expected.raw', 'found.raw']);
    const strict = folder.run(folder.tool('qemu-img'), ['convert', '-f', 'qcow2', '-O', 'raw', 'damaged.qcow2', 'strict.raw']);
    expect([strict.status, strict.stderr]).toEqual([1, expect.stringMatching(/^qemu-img: error while reading at byte \d+: Input\/output error\n$/)]);
    expect(existsSync(folder.file('strict.raw'))).toBe(false);
  });

  // each by itself, so that thousands are asked for at once
  it.each([12, 13, 14, 16])('zstd frames that do not tell what they hold, in clusters of 2^%i bytes', (clusterBits) => {
    writeFileSync(folder.file('frames.qcow2'), qcow2OfFrames(clusterBits, (allCases ? 128 : 32) * MiB));
    folder.succeed(peer!, ['check', '-f', 'qcow2', 'frames.qcow2']);
    readsAsPeer('frames.qcow2');
  });
});
