/** Overlays that get another backing file: QEMU sees what was there before, and finds as much room taken as where it did the work. */
import { copyFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';

/** QEMU 7.2 takes more room. */
const peer = oracleTool('qemu-img');

describe.skipIf(!havePeers('qemu-img', 'qemu-io'))('rebase', () => {
  let folder: ToolFolder;
  beforeAll(() => {
    folder = new ToolFolder();
    folder.succeed('qemu-img', ['create', '-q', '-f', 'raw', 'long.raw', '1M']);
    folder.succeed('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 1M', 'long.raw']);
    folder.succeed('qemu-img', ['create', '-q', '-f', 'raw', 'short.raw', '256k']);
  });
  afterAll(() => folder.remove());

  it.each([['qcow2', 'compat=1.1'], ['qcow2', 'compat=0.10'], ['qcow2', 'extended_l2=on'], ['qed', 'cluster_size=65536']])(
    'what no backing file covered stays zero: %s, %s', (format, options) => {
      for (const old of [[], ['-b', 'short.raw', '-F', 'raw']]) {
        folder.succeed('qemu-img', ['create', '-q', '-f', format, '-o', options, ...old, 'overlay.img', '1M']);
        folder.succeed('qemu-io', ['-f', format, '-c', 'write -P 2 512k 64k', 'overlay.img']);
        folder.succeed('qemu-img', ['convert', '-f', format, '-O', 'raw', 'overlay.img', 'seen.raw']);
        copyFileSync(folder.file('overlay.img'), folder.file('theirs.img'));
        folder.succeed(folder.tool('qemu-img'), ['rebase', '-f', format, '-b', 'long.raw', '-F', 'raw', 'overlay.img']);
        expect(folder.succeed('qemu-img', ['compare', '-f', format, '-F', 'raw', 'overlay.img', 'seen.raw'])).toBe('Images are identical.\n');
        if (peer === undefined || options === 'compat=0.10') continue; // QEMU 10 shows the new backing file there
        folder.succeed(peer, ['rebase', '-f', format, '-b', 'long.raw', '-F', 'raw', 'theirs.img']);
        const map = (image: string): unknown => folder.succeed(peer, ['map', '-f', format, '--output=json', image]);
        expect(map('overlay.img')).toBe(map('theirs.img'));
      }
    });

  it('-c leaves a cluster of which something is there uncompressed', () => {
    folder.succeed('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on', '-b', 'long.raw', '-F', 'raw', 'partly.img', '1M']);
    folder.succeed('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 516k 2k', 'partly.img']);
    folder.succeed('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', 'partly.img', 'seen.raw']);
    folder.succeed(folder.tool('qemu-img'), ['rebase', '-c', '-f', 'qcow2', '-b', '', 'partly.img']);
    expect(folder.succeed('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', 'partly.img', 'seen.raw'])).toBe('Images are identical.\n');
    expect(folder.succeed('qemu-img', ['check', 'partly.img'])).toMatch(/No errors.*[1-9][0-9.]*% compressed/s);
  });
});
