import { afterEach, describe, expect, it } from 'vitest';
import { Perm } from '../block/driver.js';
import type { BlockBackend } from '../block/child.js';
import { BlockGraph, type OpenSpec } from '../block/graph.js';
import { createRegistry } from '../drivers.js';
import { benchImage } from './bench.js';
import { CompareError, compareImages } from './compare.js';
import { copyBlocks, ddRange } from './dd.js';
import { mapImage, type MapEntry } from './map.js';

const graph = new BlockGraph({ drivers: createRegistry() });
afterEach(() => graph.close());

async function disk(size: number, ...writes: readonly [offset: number, byte: number][]): Promise<BlockBackend> {
  const image = await open({ driver: 'memory', size });
  for (const [offset, byte] of writes) await image.write(offset, new Uint8Array([byte]));
  return image;
}

async function open(spec: OpenSpec): Promise<BlockBackend> {
  const node = await graph.open(spec);
  const image = graph.attach(node, { take: Perm.CONSISTENT_READ | Perm.WRITE, share: Perm.ALL });
  await graph.release(node);
  return image;
}

const size = 5 << 20;

describe('compareImages', () => {
  it('names the sector of the first difference', async () => {
    const one = await disk(size, [0, 1], [3_000_000, 5]);
    expect(await compareImages(one, await disk(size, [0, 1], [3_000_000, 6]))).toEqual({ kind: 'content', offset: 2_999_808 });
    expect(await compareImages(one, await disk(size, [0, 1]))).toEqual({ kind: 'content', offset: 2_999_808 });
    expect(await compareImages(one, await disk(size, [3_000_000, 5], [0, 1], [4_000_000, 0]))).toBeUndefined();
  });

  it('takes a longer image for equal if it goes on in zeroes', async () => {
    let told = 0;
    const progress: number[] = [];
    const control = { sizesDiffer: () => { told++; }, progress: (done: number) => progress.push(done) };
    const short = await disk(size, [7, 7]);
    expect(await compareImages(short, await disk(2 * size, [7, 7], [size + 5, 0]), control)).toBeUndefined();
    expect(await compareImages(await disk(2 * size, [7, 7], [size + 513, 1]), short, control)).toEqual({ kind: 'content', offset: size + 512 });
    expect(told).toBe(2);
    expect(progress).toContain(2 * size);
  });

  it('is strict about storage when asked', async () => {
    const one = await disk(size, [0, 1]);
    const other = await disk(size, [0, 1], [1 << 20, 0]);
    expect(await compareImages(one, other)).toBeUndefined();
    expect(await compareImages(one, other, { strict: true })).toEqual({ kind: 'status', offset: 1 << 20 });
  });

  it('says which image cannot be read', async () => {
    const bad = await open({
      driver: 'blkdebug', image: { driver: 'memory', size }, 'inject-error': [{ event: 'none', iotype: 'read', errno: 5 }],
    });
    await bad.write(0, new Uint8Array([1]));
    const failure = await Promise.resolve(compareImages(await disk(size, [0, 1]), bad)).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(CompareError);
    expect(failure).toMatchObject({ image: 1, step: 'read', offset: 0, message: 'Input/output error' });
  });
});

describe('mapImage', () => {
  it('joins neighbours, and knows empty ranges', async () => {
    const entries: MapEntry[] = [];
    await mapImage((await disk(size, [0, 1], [65_536, 1])).node, 4096, Infinity, (entry) => entries.push(entry));
    expect(entries.map(({ start, length, data, zero }) => ({ start, length, data, zero }))).toEqual([
      { start: 4096, length: 126_976, data: true, zero: false }, { start: 131_072, length: size - 131_072, data: false, zero: true },
    ]);
    entries.length = 0;
    await mapImage((await disk(size)).node, size, Infinity, (entry) => entries.push(entry));
    expect(entries).toEqual([{ start: size, length: 0, depth: 0, present: false, zero: false, data: false, compressed: false }]);
  });
});

describe('dd', () => {
  it('counts blocks of the input from its start', () => {
    expect(ddRange(10_000, 512, 0)).toEqual({ skip: 0, length: 10_000 });
    expect(ddRange(10_000, 1000, 3, 5)).toEqual({ skip: 3000, length: 2000 });
    expect(ddRange(10_000, 1000, 12)).toEqual({ skip: 12_000, length: 0 });
  });

  it('copies blocks of any size', async () => {
    const source = await disk(10_000, [1999, 1], [9999, 2]);
    const target = await disk(8000);
    await copyBlocks(source, target, { skip: 2000, length: 8000 }, 999);
    const copy = new Uint8Array(8000);
    await target.read(0, copy);
    expect(copy.indexOf(2)).toBe(7999);
    expect(copy.indexOf(1)).toBe(-1);
  });
});

describe('benchImage', () => {
  const run = { write: true, count: 1000, depth: 7, offset: 512, step: 4096, bufferSize: 512, pattern: 3, flushInterval: 100, drainOnFlush: true };

  it('starts again at 0 behind the end', async () => {
    const image = await disk(16_384);
    await benchImage(image, { ...run, count: 5 });
    const bytes = new Uint8Array(16_384);
    await image.read(0, bytes);
    expect([0, 511, 512, 1023, 1024, 4608, 8704, 12_800].map((at) => bytes[at])).toEqual([3, 3, 3, 3, 0, 3, 3, 3]);
  });

  it('fails with the first request that fails', async () => {
    await expect(benchImage(await disk(10_000), { ...run, step: 1000 })).rejects.toThrow('Input/output error');
    expect((await disk(16_384)).stats.flushOperations).toBe(0);
    const image = await disk(1 << 20);
    await benchImage(image, run);
    expect(image.stats).toMatchObject({ writeOperations: 1000, flushOperations: 10 });
  });
});
