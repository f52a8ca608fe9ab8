/** LZVN: an opcode gives a number of literals, which follow it, and a reference. */
import { copyBack } from './copy.js';

/** Fills target from `at` on. @throws Error where the stream is broken or ends early */
export function decodeLzvn(source: Uint8Array, target: Uint8Array, at: number): void {
  let from = 0;
  let distance = 0;
  const byte = (offset: number): number => {
    const value = source[from + offset];
    if (value === undefined) throw new Error('LZVN data ends early');
    return value;
  };
  while (at < target.length) {
    const code = byte(0);
    let plain = 0;
    let length = 0;
    let size = 1;
    if (code >= 0xf0) {
      size = code === 0xf0 ? 2 : 1;
      length = code === 0xf0 ? byte(1) + 16 : code & 15;
    } else if (code >= 0xe0) {
      size = code === 0xe0 ? 2 : 1;
      plain = code === 0xe0 ? byte(1) + 16 : code & 15;
    } else if (code >= 0xa0 && code < 0xc0) {
      const word = byte(1) | (byte(2) << 8);
      plain = (code >>> 3) & 3;
      length = (((code & 7) << 2) | (word & 3)) + 3;
      distance = word >>> 2;
      size = 3;
    } else if ((code & 0xf0) === 0x70 || (code & 0xf0) === 0xd0) {
      throw new Error('LZVN data is broken');
    } else if ((code & 7) === 6 && code < 0x40) {
      if (code === 0x06) throw new Error('LZVN data ends early');
      if (code !== 0x0e && code !== 0x16) throw new Error('LZVN data is broken');
    } else {
      plain = code >>> 6;
      length = ((code >>> 3) & 7) + 3;
      if ((code & 7) === 7) {
        distance = byte(1) | (byte(2) << 8);
        size = 3;
      } else if ((code & 7) !== 6) {
        distance = ((code & 7) << 8) | byte(1);
        size = 2;
      }
    }
    from += size;
    if (from + plain > source.length) throw new Error('LZVN data ends early');
    const shown = Math.min(plain, target.length - at);
    target.set(source.subarray(from, from + shown), at);
    from += plain;
    at += shown;
    const copied = Math.min(length, target.length - at);
    if (copied > 0) copyBack(target, at, distance, copied);
    at += copied;
  }
}
