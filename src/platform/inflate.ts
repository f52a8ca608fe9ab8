/** Whole zlib streams. */
import type * as Zlib from 'node:zlib';

/**
 * The content of a zlib stream; what follows its end is ignored.
 * @throws Error where the stream is broken or cut, or holds more than `limit` bytes
 */
export function inflate(source: Uint8Array, limit: number): Uint8Array {
  const zlib: typeof Zlib = process.getBuiltinModule('node:zlib');
  return zlib.inflateSync(source, { maxOutputLength: Math.max(1, limit) });
}
