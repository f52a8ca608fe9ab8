import { randomBytes } from 'node:crypto';
import { inflateRawSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { rawDeflate } from './compression.js';
import { CompressionThreads } from './compression-threads.js';

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
  const threads = new CompressionThreads({ body: 'return (source) => { if (source[0] === 7) setImmediate(() => { throw new Error("lost"); }); return source; };' });
  // The loss may be heard of before the answer.
  await threads.compress(new Uint8Array([7])).catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(await threads.compress(new Uint8Array([8]))).toEqual(new Uint8Array([8]));
});
