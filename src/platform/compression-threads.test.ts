import { inflateRawSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { rawDeflate } from './compression.js';
import { CompressionThreads } from './compression-threads.js';
import { randomBytes } from '../../test/support/seed.js';

it('compresses many blocks at a time, of any size, and takes a copy of each', async () => {
  const blocks = Array.from({ length: 200 }, (_, index) => Buffer.alloc(512 + (index * 7919) % 200_000, `block ${index} `));
  const shared = Buffer.alloc(200_512);
  const packed = await Promise.all(blocks.map((block) => {
    block.copy(shared);
    return rawDeflate.compressLater(shared.subarray(0, block.length));
  }));
  packed.forEach((bytes, index) => {
    expect(bytes.length).toBeLessThan(blocks[index]!.length);
    expect(inflateRawSync(bytes).equals(blocks[index]!)).toBe(true);
  });
});

it('gives back at least as much where nothing shrinks', async () => {
  const random = randomBytes(65_536);
  expect((await rawDeflate.compressLater(random)).length).toBeGreaterThanOrEqual(65_536);
});

it('tells of a block that fails, and goes on', async () => {
  const threads = new CompressionThreads({ body: "return (source) => { if (source[0] === 7) throw new Error('seven'); return source; };" });
  const [bad, good] = await Promise.allSettled([threads.compress(new Uint8Array([7])), threads.compress(new Uint8Array([8]))]);
  expect(bad).toMatchObject({ status: 'rejected', reason: { message: 'Error: seven' } });
  expect(good).toEqual({ status: 'fulfilled', value: new Uint8Array([8]) });
});

it('starts again after a thread was lost', async () => {
  const threads = new CompressionThreads({ body: 'return (source) => { if (source[0] === 7) queueMicrotask(() => { throw new Error("lost"); }); return source; };' });
  // Every thread answers one block and is lost; the loss may be heard of before that answer.
  const blocks = Array.from({ length: 8 }, () => threads.compress(new Uint8Array([7]))).concat(Array.from({ length: 8 }, () => threads.compress(new Uint8Array([6]))));
  const outcomes = await Promise.allSettled(blocks);
  for (const outcome of outcomes.slice(8)) expect(outcome).toMatchObject({ status: 'rejected', reason: { message: 'lost' } });
  expect(await threads.compress(new Uint8Array([8]))).toEqual(new Uint8Array([8]));
});
