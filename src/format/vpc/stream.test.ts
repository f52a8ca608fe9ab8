import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import type { ImageStream } from '../../block/stream.js';
import { raw } from '../raw/index.js';
import { Recording, recorderDriver } from '../../testing/recorder.js';
import { vpc } from './index.js';
import { readVpcStream } from './read-stream.js';

const MiB = 1 << 20;
const size = 2 * MiB + 1024;

async function streamOf(disk: Uint8Array, options: Record<string, string | number | boolean>): Promise<{ stream: ImageStream; bytes: Uint8Array }> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([raw, recorderDriver(new Recording(disk))]) });
  const source = await graph.openBackend({ driver: 'raw', file: { driver: 'recorder' } }, { readOnly: true });
  const stream = await vpc.stream!(source, { force_size: true, block_size: 65_536, ...options });
  const parts: Uint8Array[] = [];
  for await (const chunk of stream.chunks()) parts.push(chunk.slice());
  await graph.close();
  return { stream, bytes: new Uint8Array(Buffer.concat(parts)) };
}

async function* inPieces(bytes: Uint8Array, length: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += length) yield Promise.resolve(bytes.subarray(at, at + length));
}

function disk(): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.fill(1, 100, 70_000);
  bytes.fill(2, MiB, MiB + 200_000);
  bytes.fill(3, size - 512);
  return bytes;
}

describe('a VHD stream', () => {
  it.each([100, 512, 1_000_003])('is as long as it says, and read in pieces of %i bytes as it was written', async (length) => {
    const { stream, bytes } = await streamOf(disk(), {});
    expect(bytes.length).toBe(stream.length);
    const found = await readVpcStream(inPieces(bytes, length));
    const content = new Uint8Array(found.size);
    for await (const { offset, data } of found.blocks()) content.set(data, offset);
    expect(Buffer.compare(content, disk())).toBe(0);
  });

  it('of a fixed disk is the disk and a footer', async () => {
    const { stream, bytes } = await streamOf(disk(), { subformat: 'fixed' });
    expect(bytes.length).toBe(stream.length);
    expect(Buffer.compare(bytes.subarray(0, size), disk())).toBe(0);
    await expect(readVpcStream(inPieces(bytes, 4096))).rejects.toThrow('invalid VPC image');
  });

  it('that ends early is refused', async () => {
    const { bytes } = await streamOf(disk(), {});
    const { blocks } = await readVpcStream(inPieces(bytes.subarray(0, 90_000), 4096));
    await expect((async () => { for await (const block of blocks()) expect(block.data.length).toBe(65_536); })()).rejects.toThrow('The stream ends within the image');
  });
});
