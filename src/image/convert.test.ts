import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { havePeers, oracleTool } from '../../test/support/peers.js';
import { createImageFile } from '../block/create.js';
import { Perm } from '../block/driver.js';
import { allowImplicitOpens } from '../block/gate.js';
import { BlockGraph, type OpenSpec } from '../block/graph.js';
import { createRegistry } from '../drivers.js';
import { addBitmap } from './bitmap.js';
import { compareImages } from './compare.js';
import { convertImages, type ConvertRequest } from './convert.js';
import { mapImage, type MapEntry } from './map.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-convert-'));
const graph = new BlockGraph({ drivers: createRegistry(), gate: allowImplicitOpens });
afterEach(() => graph.close());
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const oracle = oracleTool('qemu-img');
let counter = 0;
const path = (): string => join(folder, `image-${counter++}`);

const mebibyte = 1 << 20;

/** A raw disk: text, random bytes, written zeroes, a hole, and a tail that is no whole cluster. */
function sample(): string {
  const name = path();
  const content = Buffer.alloc(5 * mebibyte + 1536);
  for (let at = 0; at < mebibyte; at += 16) content.write(`line ${at}`.padEnd(15), at);
  for (let at = mebibyte; at < 2 * mebibyte; at += 4) content.writeUInt32LE(Math.imul(at, 0x9e3779b1) >>> 0, at);
  content.write('a lonely word', 3 * mebibyte + 70_000);
  content.fill(7, 5 * mebibyte);
  writeFileSync(name, content.subarray(0, 4 * mebibyte));
  truncateSync(name, content.length);
  const tail = Buffer.alloc(1536, 7);
  writeFileSync(name, Buffer.concat([readFileSync(name).subarray(0, 5 * mebibyte), tail]));
  return name;
}

type Extra = Partial<Omit<ConvertRequest, 'copy'>> & { readonly copy?: Partial<ConvertRequest['copy']> };

async function convert(sources: readonly OpenSpec[], filename: string, format: string, optionText?: string, extra: Extra = {}): Promise<void> {
  const opened = [];
  for (const spec of sources) opened.push(await graph.openBackend(spec, { readOnly: true }));
  try {
    await convertImages(graph, {
      sources: opened,
      create: { filename, format, optionText },
      openTarget: () => graph.openBackend({ driver: format, file: { driver: 'file', filename } }, { take: Perm.CONSISTENT_READ | Perm.WRITE, discard: 'unmap' }),
      ...extra,
      copy: { minSparse: 4096, parallel: 8, ...extra.copy },
    });
  } finally {
    for (const image of opened) await image.close();
  }
}

async function same(a: OpenSpec, b: OpenSpec): Promise<boolean> {
  const [first, second] = [await graph.openBackend(a, { readOnly: true }), await graph.openBackend(b, { readOnly: true })];
  const difference = await compareImages(first, second);
  await first.close();
  await second.close();
  return difference === undefined;
}

async function mapOf(spec: OpenSpec): Promise<MapEntry[]> {
  const image = await graph.openBackend(spec, { readOnly: true });
  const entries: MapEntry[] = [];
  await mapImage(image.node, 0, image.size, (entry) => entries.push(entry));
  await image.close();
  return entries;
}

const raw = (filename: string): OpenSpec => ({ driver: 'raw', file: { driver: 'file', filename } });

describe('convertImages', () => {
  const targets: [name: string, format: string, options: string | undefined, extra: Extra][] = [
    ['raw', 'raw', undefined, {}],
    ['raw, preallocated', 'raw', 'preallocation=falloc', {}],
    ['qcow2', 'qcow2', undefined, {}],
    ['qcow2 of tiny clusters', 'qcow2', 'cluster_size=512', {}],
    ['qcow2 of large clusters', 'qcow2', 'cluster_size=2M', {}],
    ['qcow2 with subclusters', 'qcow2', 'extended_l2=on', {}],
    ['qcow2, fully written', 'qcow2', undefined, { copy: { minSparse: 0 } }],
    ['qcow2, preallocated', 'qcow2', 'preallocation=metadata', {}],
    ['qcow2, compressed', 'qcow2', undefined, { compress: true }],
    ['qcow2, compressed by zstd', 'qcow2', 'compression_type=zstd', { compress: true, copy: { outOfOrder: true, parallel: 16 } }],
  ];
  it.each(targets)('to %s and back', async (_, format, options, extra) => {
    const [source, there, back] = [sample(), path(), path()];
    await convert([raw(source)], there, format, options, extra);
    expect(await same(raw(source), there)).toBe(true);
    if (havePeers('qemu-img')) {
      expect(spawnSync('qemu-img', ['compare', '-f', 'raw', '-F', format, source, there], { encoding: 'utf8' }).stdout).toBe('Images are identical.\n');
      if (format === 'qcow2') expect(spawnSync('qemu-img', ['check', '-f', format, there], { encoding: 'utf8' }).stdout).toContain('No errors were found');
    }
    await convert([there], back, 'raw');
    expect(readFileSync(back).equals(readFileSync(source))).toBe(true);
  });

  it('keeps holes, and makes some of written zeroes', async () => {
    const [source, target] = [sample(), path()];
    await convert([raw(source)], target, 'raw');
    expect(statSync(target).blocks * 512).toBeLessThan(2.5 * mebibyte);
    expect(statSync(target).size).toBe(statSync(source).size);
  });

  it('packs compressed clusters in the order of the disk', async () => {
    const [source, first, second] = [sample(), path(), path()];
    for (const target of [first, second]) await convert([raw(source)], target, 'qcow2', 'cluster_size=16k', { compress: true });
    expect(readFileSync(first).equals(readFileSync(second))).toBe(true);
    expect((await mapOf(first)).some(({ compressed }) => compressed)).toBe(true);
  });

  it.skipIf(oracle === undefined)('writes the very bytes that the peer writes', async () => {
    const [source, ours, theirs] = [sample(), path(), path()];
    for (const [options, extra] of [[undefined, {}], ['cluster_size=4k', {}], ['compression_type=zstd', { compress: true }]] as const) {
      await convert([raw(source)], ours, 'qcow2', options, extra);
      const args = ['convert', '-f', 'raw', '-O', 'qcow2', ...('compress' in extra ? ['-c'] : []), ...(options === undefined ? [] : ['-o', options]), source, theirs];
      expect(spawnSync(oracle!, args, { encoding: 'utf8' }).stderr).toBe('');
      expect(readFileSync(ours).equals(readFileSync(theirs)), options).toBe(true);
    }
  });

  it('ends a compressed image with a whole sector, and compresses nothing where it cannot', async () => {
    const [source, target] = [path(), path()];
    writeFileSync(source, Buffer.alloc(65536, 'odd'));
    for (const type of ['zlib', 'zstd']) {
      await convert([raw(source)], target, 'qcow2', `compression_type=${type}`, { compress: true });
      expect(statSync(target).size % 512).toBe(0);
    }
    truncateSync(source, 0);
    truncateSync(source, 65536);
    await expect(convert([raw(source)], target, 'qcow2', `data_file=${path()}`, { compress: true })).rejects.toThrow('Operation not supported');
  });

  it('joins sources', async () => {
    const [a, b, target] = [sample(), sample(), path()];
    await convert([raw(a), raw(b)], target, 'qcow2', undefined, { compress: true });
    const back = path();
    await convert([target], back, 'raw');
    expect(readFileSync(back).equals(Buffer.concat([readFileSync(a), readFileSync(b)]))).toBe(true);
  });

  it('copies of an overlay only what stands above the backing file named, however far down that is', async () => {
    const [base, middle, top, target] = [path(), path(), path(), path()];
    await convert([raw(sample())], base, 'qcow2');
    for (const [file, backing, at] of [[middle, base, 0], [top, middle, 2 * mebibyte]] as const) {
      await createImageFile(graph, { filename: file, format: 'qcow2', size: 5 * mebibyte + 1536, options: { backing_file: backing, backing_fmt: 'qcow2' } });
      const image = await graph.openBackend(file);
      await image.write(at, new Uint8Array(100_000).fill(at / mebibyte + 1));
      await image.writeZeroes(mebibyte, 65_536);
      await image.close();
    }
    await convert([top], target, 'qcow2', `backing_file=${base},backing_fmt=qcow2`);
    expect(await same(top, target)).toBe(true);
    const own = (await mapOf(target)).filter(({ depth, present }) => depth === 0 && present);
    expect(own.map(({ start, length, zero }) => ({ start, length, zero }))).toEqual([
      { start: 0, length: 131_072, zero: false }, { start: mebibyte, length: 65_536, zero: true }, { start: 2 * mebibyte, length: 131_072, zero: false },
    ]);
  });

  it('brings bitmaps along', async () => {
    const [source, target] = [path(), path()];
    await convert([raw(sample())], source, 'qcow2');
    const image = await graph.openBackend(source);
    await addBitmap(image.node, 'since monday', 65_536);
    await image.write(2 * mebibyte, new Uint8Array(10));
    await image.close();
    await convert([source], target, 'qcow2', undefined, { bitmaps: 'all' });
    const copy = await graph.openBackend(target, { readOnly: true });
    const bitmap = copy.node.bitmaps.get('since monday')!;
    expect(bitmap.nextDirty(0)).toEqual({ offset: 2 * mebibyte, length: 65_536 });
    expect(bitmap.count).toBe(65_536);
    await copy.close();
  });

  it('leaves nothing behind when the disk is full', async () => {
    const target = path();
    const full = (): Promise<never> => graph.openBackend({
      driver: 'qcow2', file: {
        driver: 'blkdebug', 'inject-error': [{ event: 'write_aio', errno: 28 }], image: { driver: 'file', filename: target },
      },
    }, { take: Perm.CONSISTENT_READ | Perm.WRITE }) as Promise<never>;
    await expect(convert([raw(sample())], target, 'qcow2', undefined, { openTarget: full })).rejects.toThrow('error while writing at byte 0: No space left on device');
    expect(existsSync(target)).toBe(false);
  });

  it('refuses before it writes', async () => {
    const [source, target] = [sample(), path()];
    const before = readFileSync(source);
    await expect(convert([raw(source)], target, 'raw', undefined, { compress: true })).rejects.toThrow('Compression not supported for this file format');
    await expect(convert([raw(source)], target, 'qcow2', 'preallocation=full', { compress: true })).rejects.toThrow('Compression and preallocation not supported at the same time');
    await expect(convert([raw(source)], target, 'qcow2', `backing_file=${source}`)).rejects.toThrow('Use of backing file requires explicit backing format');
    expect(existsSync(target)).toBe(false);
    await expect(convert([raw(source)], target, 'qcow2', undefined, { bitmaps: 'all' })).rejects.toThrow('Source lacks bitmap support');
    await expect(convert([raw(source)], target, 'raw', undefined, { bitmaps: 'all' })).rejects.toThrow('Source lacks bitmap support');
    expect(readFileSync(source).equals(before)).toBe(true);
  });
});
