/** Frames of zstd (RFC 8878, section 3.1.1), as far as their headers tell where they end and what they hold. */
import type { PackedSource } from './compression.js';

const magic = 0xfd2fb528;

export interface ZstdFrame {
  /** Bytes it takes. */
  readonly length: number;
  /** Bytes it holds, if it says so: decompressors hold it to that. */
  readonly content: number | undefined;
}

/**
 * The first frame in `bytes`, which may be followed by anything.
 * @throws Error where there is none, or it is cut
 */
export function zstdFrame(bytes: Uint8Array): ZstdFrame {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 6 || view.getUint32(0, true) !== magic) throw new Error('not a zstd frame');
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeField = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
  const sizeAt = 5 + (singleSegment ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!;
  let at = sizeAt + sizeField;
  for (let last = false; !last;) {
    if (at + 3 > bytes.length) throw new Error('zstd frame is cut');
    const header = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
    last = (header & 1) !== 0;
    const repeated = ((header >>> 1) & 3) === 1;
    at += 3 + (repeated ? 1 : header >>> 3);
  }
  if ((descriptor & 4) !== 0) at += 4;
  if (at > bytes.length) throw new Error('zstd frame is cut');
  return { length: at, content: contentSize(view, sizeAt, sizeField) };
}

function contentSize(view: DataView, at: number, bytes: number): number | undefined {
  switch (bytes) {
    case 0: return undefined;
    case 1: return view.getUint8(at);
    case 2: return view.getUint16(at, true) + 256;
    case 4: return view.getUint32(at, true);
    default: return Number(view.getBigUint64(at, true));
  }
}

/**
 * Each block cut to its frame, and those joined whose frames follow each other, as their targets do: decompressors take several frames
 * at once. Only frames are joined that tell what they hold, into at most `longest` bytes. @throws Error as {@link zstdFrame} does
 */
export function neighbouringFrames(blocks: readonly PackedSource[], longest: number): PackedSource[] {
  const joined: (PackedSource & { readonly sized: boolean })[] = [];
  for (const { source, target } of blocks) {
    const { length, content } = zstdFrame(source);
    const sized = content === target.length;
    const last = joined.at(-1);
    if (last?.sized && sized && last.target.length + target.length <= longest && follows(last.source, source) && follows(last.target, target)) {
      joined[joined.length - 1] = { source: extended(last.source, length), target: extended(last.target, target.length), sized };
    } else joined.push({ source: source.subarray(0, length), target, sized });
  }
  return joined;
}

function follows(bytes: Uint8Array, next: Uint8Array): boolean {
  return bytes.buffer === next.buffer && bytes.byteOffset + bytes.length === next.byteOffset;
}

function extended({ buffer, byteOffset, length }: Uint8Array, more: number): Uint8Array {
  return new Uint8Array(buffer, byteOffset, length + more);
}
