/** Decompressors of the system's libraries, several times faster than ours in TypeScript. */
import { koffi, type ForeignFunction, type ForeignLibrary } from './koffi.js';

/** Fills target. Throws where it cannot. */
export type Decode = (source: Uint8Array, target: Uint8Array) => void;

/** Memory that a stream may ask the library for. */
const xzMemoryLimit = 128n << 20n;

function bind(library: string, find: (library: ForeignLibrary) => ForeignFunction): ForeignFunction | undefined {
  try {
    const loaded = koffi()?.load(library);
    return loaded && find(loaded);
  } catch {
    return undefined;
  }
}

/** bzip2 by libbz2; undefined where there is none. */
export function systemBzip2(): Decode | undefined {
  const decompress = bind('libbz2.so.1.0', (library) =>
    library.func('BZ2_bzBuffToBuffDecompress', 'int', ['uint8_t *', 'uint32_t *', 'uint8_t *', 'uint32_t', 'int', 'int']));
  return decompress && ((source, target) => {
    const written = Uint32Array.of(target.length);
    const result = decompress(target, written, source, source.length, 0, 0);
    if (result !== 0 || written[0] !== target.length) throw new Error(`libbz2 failed (${result})`);
  });
}

/** XZ by liblzma; undefined where there is none. */
export function systemXz(): Decode | undefined {
  const decode = bind('liblzma.so.5', (library) => library.func('lzma_stream_buffer_decode', 'int',
    ['uint64_t *', 'uint32_t', 'void *', 'uint8_t *', 'size_t *', 'size_t', 'uint8_t *', 'size_t *', 'size_t']));
  return decode && ((source, target) => {
    const taken = new BigUint64Array(1);
    const written = new BigUint64Array(1);
    const result = decode(BigUint64Array.of(xzMemoryLimit), 0, null, source, taken, source.length, target, written, target.length);
    if (result !== 0 || Number(written[0]) !== target.length) throw new Error(`liblzma failed (${result})`);
  });
}
