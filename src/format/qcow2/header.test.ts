import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Extension, hasFeature, Incompatible, parseHeader, probeQcow2, serialiseHeader } from './header.js';
import { viewOf } from '../../util/view.js';

let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-header-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function make(options: string[]): Uint8Array {
  const file = join(folder, 'image');
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, file, '64M']);
  return new Uint8Array(readFileSync(file));
}

describe('header', () => {
  it.each([
    [[]], [['-o', 'compat=0.10']], [['-o', 'cluster_size=512']], [['-o', 'cluster_size=2M']],
    [['-o', 'refcount_bits=1,lazy_refcounts=off']], [['-o', 'lazy_refcounts=on']], [['-o', 'extended_l2=on']],
    [['-o', 'compression_type=zstd']], [['-u', '-b', 'base.img', '-F', 'raw']],
    [['-u', '-b', 'base.img', '-F', 'raw', '-o', 'cluster_size=512,compat=0.10']],
  ])('is written back as qemu-img wrote it: %j', (options) => {
    const bytes = make(options);
    const header = parseHeader(bytes.subarray(0, 2 ** viewOf(bytes).getUint32(20)));
    expect(Buffer.from(serialiseHeader(header)).equals(bytes.subarray(0, 2 ** header.clusterBits))).toBe(true);
  });

  it('keeps unknown extensions, unknown fields and unknown compatible features', () => {
    const header = parseHeader(make([]).subarray(0, 65536));
    header.unknownExtensions.push({ type: 0x12345678, data: Uint8Array.of(1, 2, 3) });
    header.unknownFields = Uint8Array.of(9, 8, 7, 6, 5, 4, 3, 2);
    header.compatible = 1n << 40n;
    expect(parseHeader(serialiseHeader(header))).toEqual(header);
  });

  it('names unknown incompatible features from the table', () => {
    const bytes = make([]).slice(0, 65536);
    viewOf(bytes).setBigUint64(72, 1n << 63n | 1n << 62n);
    bytes.set([0, 62, ...new TextEncoder().encode('Test feature\0')], 120);
    expect(() => parseHeader(bytes)).toThrow('Unsupported qcow2 feature(s): Test feature, Unknown incompatible feature: 8000000000000000');
  });

  it.each<[string, number, number[]]>([
    ['Unsupported qcow2 version 4', 4, [0, 0, 0, 4]],
    ['Unsupported cluster size: 2^22', 20, [0, 0, 0, 22]],
    ['qcow2 header too short', 100, [0, 0, 0, 96]],
    ['qcow2 header exceeds cluster size', 100, [0, 2, 0, 0]],
    ['Invalid backing file offset', 8, [0, 0, 0, 0, 0, 2, 0, 0]],
    ['Backing file name too long', 8, [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0]],
    ['Active L1 table too large', 36, [0, 0x40, 0, 1]],
    ['L1 table is too small', 36, [0, 0, 0, 0]],
    ['Active L1 table offset invalid', 40, [0, 0, 0, 0, 0, 0, 0x10, 0]],
    ['Reference count table too large', 56, [0, 0, 0, 0x81]],
    ['Image does not contain a reference count table', 56, [0, 0, 0, 0]],
    ['Snapshot table too large', 60, [0, 1, 0, 1]],
    ['qcow2: unknown compression type: 3', 104, [3]],
    ['Header extension too large', 116, [0x7f, 0, 0, 0]],
    ['ERROR: ext_backing_format: len=128 too large (>=16)', 112, [0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 0x80]],
    ['Missing CRYPTO header for crypt method 2', 32, [0, 0, 0, 2]],
  ])('is refused: %s', (message, at, damage) => {
    const bytes = make([]).slice(0, 65536);
    bytes.set(damage, at);
    expect(() => parseHeader(bytes)).toThrow(message);
  });

  it('drops bitmaps that other software may have made stale, and says so', () => {
    const bytes = make([]).slice(0, 65536);
    viewOf(bytes).setUint32(112, Extension.BITMAPS);
    viewOf(bytes).setUint32(116, 24);
    const warnings: string[] = [];
    expect(parseHeader(bytes, (message) => warnings.push(message)).bitmaps).toBeUndefined();
    expect(warnings[0]).toContain('a program lacking bitmap support modified this file');
  });

  it('is recognised from its first bytes', () => {
    expect(probeQcow2(make([]))).toBe(100);
    expect(probeQcow2(new Uint8Array(512))).toBe(0);
    expect(hasFeature(parseHeader(make(['-o', 'extended_l2=on'])), Incompatible.EXTENDED_L2)).toBe(true);
  });
});
