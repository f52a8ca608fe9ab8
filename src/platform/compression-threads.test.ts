import { inflateRawSync, inflateSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { rawDeflate, zlibStream } from './compression.js';
import { CompressionThreads } from './compression-threads.js';
import { randomBytes } from '../../test/support/seed.js';

it.each([512, 65_536, 2_000_000])('compresses blocks of %i bytes beside each other, and takes a copy of them', async (blockSize) => {
  const sources = Array.from({ length: 30 }, (_, index) => Buffer.alloc(1 + (index * 791_919) % 3_000_000, `source ${index} `));
  const shared = Buffer.alloc(3_000_000);
  const packed = await Promise.all(sources.map((source) => {
    source.copy(shared);
    return rawDeflate.compressBlocks(shared.subarray(0, source.length), blockSize);
  }));
  packed.forEach((blocks, index) => {
    const source = sources[index]!;
    expect(blocks.length).toBe(Math.ceil(source.length / blockSize));
    blocks.forEach((bytes, block) => {
      const content = source.subarray(block * blockSize, (block + 1) * blockSize);
      if (bytes !== undefined) expect(inflateRawSync(bytes).equals(content)).toBe(true);
      else expect(content.length).toBeLessThan(32);
    });
  });
});

it('gives nothing where a block does not shrink', async () => {
  const blocks = await rawDeflate.compressBlocks(Buffer.concat([randomBytes(65_536), Buffer.alloc(65_536)]), 65_536);
  expect(blocks[0]).toBeUndefined();
  expect(inflateRawSync(blocks[1]!).equals(Buffer.alloc(65_536))).toBe(true);
});

it.each([512, 65_536, 4 << 20])('frames %i bytes that do not shrink where the format wants a frame', async (length) => {
  const random = randomBytes(length);
  const [framed] = await zlibStream.compressBlocks(random, length);
  expect(inflateSync(framed!).equals(random)).toBe(true);
});

it('tells of a block that fails, and goes on', async () => {
  const threads = new CompressionThreads({ body: "return (source, target) => { if (source[0] === 7) throw new Error('seven'); target[0] = 9; return 1; };" });
  const [bad, good] = await Promise.allSettled([threads.compress(new Uint8Array([7]), 1), threads.compress(new Uint8Array([8]), 1)]);
  expect(bad).toMatchObject({ status: 'rejected', reason: { message: 'Error: seven' } });
  expect(good).toEqual({ status: 'fulfilled', value: [new Uint8Array([9])] });
});

it('starts again after a thread was lost', async () => {
  const threads = new CompressionThreads({ body: 'return (source, target) => { if (source[0] === 7) queueMicrotask(() => { throw new Error("lost"); }); target[0] = 9; return 1; };' });
  // Every thread answers one block and is lost; the loss may be heard of before that answer.
  const blocks = Array.from({ length: 8 }, () => threads.compress(new Uint8Array([7]), 1)).concat(Array.from({ length: 8 }, () => threads.compress(new Uint8Array([6]), 1)));
  const outcomes = await Promise.allSettled(blocks);
  for (const outcome of outcomes.slice(8)) expect(outcome).toMatchObject({ status: 'rejected', reason: { message: 'lost' } });
  expect(await threads.compress(new Uint8Array([8]), 1)).toEqual([new Uint8Array([9])]);
});
