import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { describe, expect, it } from 'vitest';
import { rawDeflate, zlibStream, zstdCodec, zstdFrameLength } from './compression.js';
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

  it('holds a zlib stream to its end and its checksum', () => {
    const source = sample();
    const target = new Uint8Array(source.length);
    const packed = zlibStream.compress(source);
    zlibStream.decompress(packed, target);
    expect(Buffer.compare(target, source)).toBe(0);
    expect(() => zlibStream.decompress(packed, target.subarray(1))).toThrow();
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
      expect(zstdFrameLength(padded)).toBe(packed.length);
    }
  });
});
