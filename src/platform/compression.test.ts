import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { describe, expect, it } from 'vitest';
import { rawDeflate, zlibStream, zstdCodec } from './compression.js';
import { neighbouringFrames, zstdFrame } from './zstd-frame.js';
import { randomBytes } from '../../test/support/seed.js';

function sample(): Uint8Array {
  const bytes = new Uint8Array(65536);
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * at) >>> 9;
  bytes.set(randomBytes(1000), 5000);
  return bytes;
}

describe('block compression', () => {
  it('round-trips deflate and zstd, ignoring what follows the stream', async () => {
    for (const codec of [rawDeflate, await zstdCodec()]) {
      const source = sample();
      const [later] = await codec.compressBlocks(source, source.length);
      for (const packed of [codec.compress(source), later!]) {
        expect(packed.length).toBeLessThan(source.length);
        const padded = new Uint8Array(packed.length + 700).fill(0xa5);
        padded.set(packed);
        const target = new Uint8Array(source.length);
        codec.decompress(padded, target);
        expect(Buffer.compare(target, source)).toBe(0);
        expect(() => codec.decompress(packed.subarray(0, packed.length >> 1), target)).toThrow();
      }
    }
  });

  it('decompresses many blocks at once, joined or apart, and fails when one is broken', async ({ skip }) => {
    const codec = await zstdCodec();
    if (codec.decompressLater === undefined) return skip('no zstd that works on other threads');
    const contents = Array.from({ length: 20 }, (_, at) => sample().fill(at, 0, 30_000));
    const frames = contents.map((content) => codec.compress(content));
    const gap = 11; // where nothing joins
    const places: number[] = [];
    let end = 0;
    for (const [at, frame] of frames.entries()) {
      if (at === gap) end += 5;
      places.push(end);
      end += frame.length;
    }
    const packed = new Uint8Array(end + 600);
    for (const [at, frame] of frames.entries()) packed.set(frame, places[at]);
    const target = new Uint8Array(contents.length * 65_536);
    const blocks = places.map((place, at) => ({ source: packed.subarray(place, place + frames[at]!.length + 300), target: target.subarray(at * 65_536, (at + 1) * 65_536) }));
    expect(neighbouringFrames(blocks, 4 * 65_536).map(({ target: { length } }) => length / 65_536)).toEqual([4, 4, 3, 4, 4, 1]);
    await codec.decompressLater(blocks);
    expect(Buffer.compare(target, Buffer.concat(contents))).toBe(0);

    packed.fill(0xff, places[7]! + 10, places[7]! + 20);
    await expect(codec.decompressLater(blocks)).rejects.toThrow();
  });

  it('joins no frames that do not say what they hold, or hold something else', async () => {
    const codec = await zstdCodec();
    const content = sample();
    // a window of 128 KiB and one block that is not compressed
    const unsized = Buffer.concat([Buffer.from('28b52ffd0038010008', 'hex'), content]);
    const decompressed = new Uint8Array(content.length);
    codec.decompress(unsized, decompressed);
    expect(Buffer.compare(decompressed, content)).toBe(0);
    expect(zstdFrame(unsized)).toEqual({ length: unsized.length, content: undefined });
    const sized = codec.compress(sample());
    expect(zstdFrame(sized)).toEqual({ length: sized.length, content: 65_536 });
    const lengths = (frames: readonly Uint8Array[], room: number): number[] => {
      const packed = Buffer.concat(frames);
      const target = new Uint8Array(frames.length * room);
      let end = 0;
      const blocks = frames.map((frame, at) => ({ source: packed.subarray(end, end += frame.length), target: target.subarray(at * room, (at + 1) * room) }));
      return neighbouringFrames(blocks, 1 << 20).map((block) => block.target.length / room);
    };
    expect(lengths([sized, sized, sized], 65_536)).toEqual([3]);
    expect(lengths([sized, unsized, sized], 65_536)).toEqual([1, 1, 1]);
    expect(lengths([sized, sized, sized], 4096)).toEqual([1, 1, 1]);
  });

  it('holds a zlib stream to its end and its checksum', () => {
    const source = sample();
    const target = new Uint8Array(source.length);
    const packed = zlibStream.compress(source);
    zlibStream.decompress(packed, target);
    expect(Buffer.compare(target, source)).toBe(0);
    expect(() => zlibStream.decompress(packed, target.subarray(1))).toThrow();
    for (const cut of [1, 3, 4]) expect(() => zlibStream.decompress(packed.subarray(0, -cut), target)).toThrow();
    packed[packed.length - 1]! ^= 1;
    expect(() => zlibStream.decompress(packed, target)).toThrow();
  });

  it('writes deflate that a 4 KiB window reads', () => {
    const source = sample();
    const script = "import sys,zlib;d=zlib.decompressobj(-12);sys.stdout.buffer.write(d.decompress(sys.stdin.buffer.read()))";
    const plain = execFileSync('python3', ['-c', script], { input: rawDeflate.compress(source), maxBuffer: 1 << 20 });
    expect(Buffer.compare(plain, source)).toBe(0);
  });

  it('finds the end of frames that another zstd wrote', async () => {
    const wasm = createRequire(import.meta.url)('@bokuweb/zstd-wasm') as { init(): Promise<void>; compress(source: Uint8Array, level: number): Uint8Array };
    await wasm.init();
    for (const source of [sample(), new Uint8Array(70000), new Uint8Array(0), randomBytes(200_000)]) {
      const packed = wasm.compress(source, 3);
      const padded = new Uint8Array(packed.length + 10).fill(1);
      padded.set(packed);
      expect(zstdFrame(padded).length).toBe(packed.length);
    }
  });
});
