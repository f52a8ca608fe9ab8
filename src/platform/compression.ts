/** Compression of single blocks: deflate from Node, zstd from Node, the system's libzstd, or WebAssembly, whichever is there first. */
import { createRequire } from 'node:module';
import type * as Zlib from 'node:zlib';
import { BlockError } from '../block/errors.js';
import { together } from '../util/maybe.js';
import { CompressionThreads, type PackedBlock } from './compression-threads.js';
import { fill, Inflater } from './inflater.js';
import { callLater, koffi, koffiPath } from './koffi.js';
import { neighbouringFrames, zstdFrame } from './zstd-frame.js';

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
  /**
   * The same with several blocks, on other threads; absent where that gains nothing. Rejects where one of them fails, without telling
   * which, when all have ended: sources and targets are in use until then.
   */
  decompressLater?(blocks: readonly PackedSource[]): Promise<void>;
}

/** A compressed block, which something may follow, and the memory that its content fills. */
export interface PackedSource { readonly source: Uint8Array; readonly target: Uint8Array }

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
      fill(target, zstdDecompressSync(source.subarray(0, zstdFrame(source).length), { maxOutputLength: target.length + 1 }));
    },
  };
}

const level = 3;
/** What another thread decompresses at a time. */
const togetherBytes = 512 * 1024;
/** Less is decompressed sooner than it is handed over. */
const laterFrom = 64 * 1024;
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
    const later = (source: Uint8Array, target: Uint8Array): Promise<void> => new Promise((resolve, reject) => {
      callLater({
        call: decompress, parameters: [target, target.length, source, source.length],
        ended: (failure, written) => (failure === undefined && Number(written) === target.length ? resolve() : reject(failure ?? new Error('zstd failed'))),
      });
    });
    const codec: Codec = {
      compress(source) {
        const target = room(source);
        return target.subarray(0, checked(Number(compress(target, target.length, source, source.length, level)), target.length));
      },
      compressBlocks: (source, blockSize) => threads.compress(source, blockSize),
      decompress(source, target) {
        const written = checked(Number(decompress(target, target.length, source, zstdFrame(source).length)), target.length);
        if (written < target.length) throw new Error('compressed data ends early');
      },
      async decompressLater(blocks) {
        await together(function* () {
          for (const { source, target } of neighbouringFrames(blocks, togetherBytes)) {
            if (target.length < laterFrom) codec.decompress(source, target);
            else yield later(source, target);
          }
        }());
      },
    };
    return codec;
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
      fill(target, wasm.decompress(source.subarray(0, zstdFrame(source).length), { defaultHeapSize: target.length })),
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
