/** Compression of single blocks: deflate from Node, zstd from Node, the system's libzstd, or WebAssembly, whichever is there first. */
import { createRequire } from 'node:module';
import type * as Zlib from 'node:zlib';
import { BlockError } from '../block/errors.js';
import { CompressionThreads, type PackedBlock } from './compression-threads.js';
import { koffi, koffiPath } from './koffi.js';

/** Loaded on first use: most runs never compress. */
const zlib = (): typeof Zlib => process.getBuiltinModule('node:zlib');

/** A compressor of whole blocks. */
export interface Codec {
  compress(source: Uint8Array): Uint8Array;
  /**
   * The same with blocks of `blockSize` bytes each (the last may be shorter), on other threads where there are some. The source is
   * free again at once, unless it lies in shared memory: then it must stay as it is until all are done.
   */
  compressBlocks(source: Uint8Array, blockSize: number): Promise<PackedBlock[]>;
  /** Fills target; what follows the end of the compressed stream is ignored. Throws where the stream is broken or too short, or its checksum wrong. */
  decompress(source: Uint8Array, target: Uint8Array): void;
}

/**
 * Level 4 takes two thirds of the default's time for results less than a hundredth larger, about those of the peer. One chunk has
 * room for any block that shrinks.
 */
const deflateOptions: Zlib.ZlibOptions = { windowBits: 12, memLevel: 9, level: 4, chunkSize: 66 * 1024 };

/**
 * A stream made anew for each block costs a sixth more time than one that is reset. Resetting goes through Node's inner handle; where
 * a version of Node has another one, the documented way is taken. What does not shrink is stored where there is a frame for it.
 */
const deflateThreads = (kind: 'Deflate' | 'DeflateRaw', options: Zlib.ZlibOptions): CompressionThreads => new CompressionThreads({
  body: `
    const zlib = require('node:zlib');
    const { kind, options } = argument;
    const { _handle: handle, _writeState: state } = zlib['create' + kind](options);
    const whole = kind === 'Deflate' ? zlib.deflateSync : zlib.deflateRawSync;
    const put = (bytes, limit, target) => {
      if (bytes.length >= limit) return 0;
      target.set(bytes);
      return bytes.length;
    };
    const shrink = typeof handle?.reset !== 'function' || typeof handle.writeSync !== 'function' || !(state instanceof Uint32Array)
      ? (source, target) => put(whole(source, options), source.length, target)
      : (source, target) => {
        handle.reset();
        handle.writeSync(zlib.constants.Z_FINISH, source, 0, source.length, target, 0, source.length);
        const [roomLeft, sourceLeft] = state;
        return roomLeft === 0 || sourceLeft !== 0 ? 0 : source.length - roomLeft;
      };
    return kind === 'DeflateRaw' ? shrink : (source, target) =>
      shrink(source, target) || put(zlib.deflateSync(source, { level: 0 }), Infinity, target);`,
  argument: { kind, options },
});
/** What one inflated block needs of the handle inside Node's streams. */
interface InflateHandle {
  onerror: (message: string) => void;
  reset(): void;
  writeSync(flush: number, source: Uint8Array, start: number, length: number, target: Uint8Array, targetStart: number, room: number): void;
}

/**
 * Inflates blocks straight into their target, with one handle that is reset: less than half the time of Node's functions for whole
 * streams, which are the documented way taken where a version of Node has another handle.
 */
class Inflater {
  readonly #kind: 'Inflate' | 'InflateRaw';
  #handle: InflateHandle | undefined | null;
  /** Room left in the target, and source left over. */
  #state: Uint32Array = new Uint32Array(2);
  #failure: string | undefined;
  readonly #behind = new Uint8Array(1);

  constructor(kind: 'Inflate' | 'InflateRaw') {
    this.#kind = kind;
  }

  /** @see Codec.decompress */
  inflate(source: Uint8Array, target: Uint8Array): void {
    if (this.#handle === undefined) this.#handle = this.#make();
    const { Z_SYNC_FLUSH } = zlib().constants;
    if (this.#handle === null) {
      const inflate = this.#kind === 'Inflate' ? zlib().inflateSync : zlib().inflateRawSync;
      return fill(target, inflate(source, { finishFlush: Z_SYNC_FLUSH, maxOutputLength: target.length + 1, chunkSize: target.length + 1024 }), this.#kind === 'Inflate');
    }
    this.#failure = undefined;
    this.#handle.reset();
    this.#handle.writeSync(Z_SYNC_FLUSH, source, 0, source.length, target, 0, target.length);
    if (this.#failure !== undefined) throw new Error(this.#failure);
    if (this.#state[0] !== 0) throw new Error('compressed data ends early');
    if (this.#kind === 'Inflate') this.#end(this.#handle, source);
  }

  /** What the target has no room for must be the end of the stream: its checksum tells whether the content is what was stored. */
  #end(handle: InflateHandle, source: Uint8Array): void {
    const left = this.#state[1]!;
    handle.writeSync(zlib().constants.Z_SYNC_FLUSH, source, source.length - left, left, this.#behind, 0, 1);
    if (this.#failure !== undefined) throw new Error(this.#failure);
    if (this.#state[0] === 0) throw new Error('compressed data goes on');
  }

  #make(): InflateHandle | null {
    const stream = zlib()[`create${this.#kind}`]() as unknown as { _handle?: InflateHandle; _writeState?: unknown };
    const { _handle: handle, _writeState: state } = stream;
    if (typeof handle?.reset !== 'function' || typeof handle.writeSync !== 'function' || !(state instanceof Uint32Array)) return null;
    this.#state = state;
    handle.onerror = (message) => { this.#failure = message; };
    return handle;
  }
}
const rawInflater = new Inflater('InflateRaw');
const zlibInflater = new Inflater('Inflate');

const rawDeflateThreads = deflateThreads('DeflateRaw', deflateOptions);

/** Raw deflate. The window is 4 KiB, for readers that accept no more; any window is read. */
export const rawDeflate: Codec = {
  compress: (source) => zlib().deflateRawSync(source, deflateOptions),
  compressBlocks: (source, blockSize) => rawDeflateThreads.compress(source, blockSize),
  decompress: (source, target) => rawInflater.inflate(source, target),
};

const zlibOptions: Zlib.ZlibOptions = { ...deflateOptions, windowBits: 15 };
const zlibThreads = deflateThreads('Deflate', zlibOptions);

/** Deflate with zlib's frame (RFC 1950). What does not shrink is framed all the same: results may be longer than their source. */
export const zlibStream: Codec = {
  compress: (source) => zlib().deflateSync(source, zlibOptions),
  compressBlocks: (source, blockSize) => zlibThreads.compress(source, blockSize),
  decompress: (source, target) => zlibInflater.inflate(source, target),
};

/** `whole`: there must be no more bytes than that. */
function fill(target: Uint8Array, bytes: Uint8Array, whole = false): void {
  if (bytes.length < target.length) throw new Error('compressed data ends early');
  if (whole && bytes.length > target.length) throw new Error('compressed data goes on');
  target.set(bytes.subarray(0, target.length));
}

const zstdMagic = 0xfd2fb528;

/**
 * Length of the first zstd frame in `bytes`, which may be followed by anything.
 * @throws Error where there is none, or it is cut
 */
export function zstdFrameLength(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 6 || view.getUint32(0, true) !== zstdMagic) throw new Error('not a zstd frame');
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeField = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
  let at = 5 + (singleSegment ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + sizeField;
  for (let last = false; !last;) {
    if (at + 3 > bytes.length) throw new Error('zstd frame is cut');
    const header = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
    last = (header & 1) !== 0;
    const repeated = ((header >>> 1) & 3) === 1;
    at += 3 + (repeated ? 1 : header >>> 3);
  }
  if ((descriptor & 4) !== 0) at += 4;
  if (at > bytes.length) throw new Error('zstd frame is cut');
  return at;
}

interface NodeZstd {
  zstdCompressSync?: (source: Uint8Array) => Uint8Array;
  zstdDecompressSync?: (source: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;
}

function zstdOfNode(): Codec | undefined {
  const { zstdCompressSync, zstdDecompressSync } = zlib() as NodeZstd;
  if (zstdCompressSync === undefined || zstdDecompressSync === undefined) return undefined;
  const threads = new CompressionThreads({
    body: `
      const { zstdCompressSync } = require('node:zlib');
      return (source, target) => {
        const packed = zstdCompressSync(source);
        if (packed.length >= source.length) return 0;
        target.set(packed);
        return packed.length;
      };`,
  });
  return {
    compress: (source) => zstdCompressSync(source),
    compressBlocks: (source, blockSize) => threads.compress(source, blockSize),
    decompress: (source, target) => {
      fill(target, zstdDecompressSync(source.subarray(0, zstdFrameLength(source)), { maxOutputLength: target.length + 1 }));
    },
  };
}

const level = 3;
const libzstdName = 'libzstd.so.1';
function zstdOfSystem(): Codec | undefined {
  const library = koffi();
  if (library === undefined) return undefined;
  try {
    const libzstd = library.load(libzstdName);
    const compress = libzstd.func('ZSTD_compress', 'size_t', ['uint8_t *', 'size_t', 'uint8_t *', 'size_t', 'int']);
    const decompress = libzstd.func('ZSTD_decompress', 'size_t', ['uint8_t *', 'size_t', 'uint8_t *', 'size_t']);
    const threads = new CompressionThreads({
      body: `
        const libzstd = require(argument.koffi).load('${libzstdName}');
        const context = libzstd.func('ZSTD_createCCtx', 'void *', [])();
        const compress = libzstd.func('ZSTD_compressCCtx', 'size_t', ['void *', 'uint8_t *', 'size_t', 'uint8_t *', 'size_t', 'int']);
        return (source, target) => {
          const written = Number(compress(context, target, source.length, source, source.length, ${level}));
          return written >= source.length ? 0 : written;
        };`,
      argument: { koffi: koffiPath() },
    });
    const room = (source: Uint8Array): Uint8Array => new Uint8Array(source.length + (source.length >>> 8) + 64);
    return {
      compress(source) {
        const target = room(source);
        return target.subarray(0, checked(Number(compress(target, target.length, source, source.length, level)), target.length));
      },
      compressBlocks: (source, blockSize) => threads.compress(source, blockSize),
      decompress(source, target) {
        const written = checked(Number(decompress(target, target.length, source, zstdFrameLength(source))), target.length);
        if (written < target.length) throw new Error('compressed data ends early');
      },
    };
  } catch {
    return undefined;
  }
}

/** libzstd's results beyond the target's size are error codes. */
function checked(written: number, limit: number): number {
  if (written > limit) throw new Error('zstd failed');
  return written;
}

interface ZstdWasm {
  init(): Promise<void>;
  compress(source: Uint8Array, level?: number): Uint8Array;
  decompress(source: Uint8Array, options?: { defaultHeapSize?: number }): Uint8Array;
}

async function zstdOfWasm(): Promise<Codec | undefined> {
  let wasm: ZstdWasm;
  try {
    wasm = createRequire(import.meta.url)('@bokuweb/zstd-wasm') as ZstdWasm;
    await wasm.init();
  } catch {
    return undefined;
  }
  return {
    compress: (source) => wasm.compress(source, level),
    compressBlocks(source, blockSize) {
      const blocks: PackedBlock[] = [];
      for (let at = 0; at < source.length; at += blockSize) {
        const block = source.subarray(at, at + blockSize);
        const packed = wasm.compress(block, level);
        blocks.push(packed.length < block.length ? packed : undefined);
      }
      return Promise.resolve(blocks);
    },
    decompress: (source, target) =>
      fill(target, wasm.decompress(source.subarray(0, zstdFrameLength(source)), { defaultHeapSize: target.length })),
  };
}

let zstd: Promise<Codec | undefined> | undefined;

/** zstd. Rejects with NOT_SUPPORTED, naming what is missing, where there is none. */
export async function zstdCodec(): Promise<Codec> {
  const found = await (zstd ??= Promise.resolve(zstdOfNode() ?? zstdOfSystem() ?? zstdOfWasm()));
  if (found !== undefined) return found;
  throw new BlockError('NOT_SUPPORTED',
    'zstd needs Node.js 22.15 or later, or libzstd and the optional package koffi, or the optional package @bokuweb/zstd-wasm');
}
