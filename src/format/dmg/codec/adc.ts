/** Apple Data Compression: runs of literals and references at most 64 KiB back. */
import { copyBack } from './copy.js';

/** Fills target. @throws Error where the stream is broken or ends early */
export function decodeAdc(source: Uint8Array, target: Uint8Array): void {
  let from = 0;
  let at = 0;
  while (at < target.length) {
    if (from >= source.length) throw new Error('ADC data ends early');
    const code = source[from]!;
    if ((code & 0x80) !== 0) {
      const length = (code & 0x7f) + 1;
      if (from + 1 + length > source.length || at + length > target.length) throw new Error('ADC data ends early');
      target.set(source.subarray(from + 1, from + 1 + length), at);
      from += 1 + length;
      at += length;
      continue;
    }
    const long = (code & 0x40) !== 0;
    if (from + (long ? 3 : 2) > source.length) throw new Error('ADC data ends early');
    const length = long ? (code & 0x3f) + 4 : (code >>> 2) + 3;
    const distance = long ? (source[from + 1]! << 8) | source[from + 2]! : ((code & 3) << 8) | source[from + 1]!;
    copyBack(target, at, distance + 1, Math.min(length, target.length - at));
    from += long ? 3 : 2;
    at += length;
  }
}
