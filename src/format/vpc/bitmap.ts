/** Sector bitmaps: the most significant bit of a byte is its first sector. */

import { sectorSize } from './geometry.js';
import { bitmapSize } from './layout.js';

/** The bitmap of a block that is all there. */
export function fullBitmap(blockSize: number): Uint8Array {
  const bits = new Uint8Array(bitmapSize(blockSize));
  setBits(bits, 0, blockSize / sectorSize);
  return bits;
}

export function getBit(bits: Uint8Array, index: number): boolean {
  return (bits[index >> 3]! & (0x80 >> (index & 7))) !== 0;
}

/** How many bits from `start` on, below `end`, are like the first. */
export function runLength(bits: Uint8Array, start: number, end: number): number {
  const first = getBit(bits, start);
  const same = first ? 0xff : 0;
  let at = start + 1;
  while (at < end) {
    if ((at & 7) === 0 && bits[at >> 3] === same) at += 8;
    else if (getBit(bits, at) === first) at++;
    else break;
  }
  return Math.min(at, end) - start;
}

export function setBits(bits: Uint8Array, start: number, end: number): void {
  let at = start;
  while (at < end) {
    if ((at & 7) === 0 && at + 8 <= end) {
      bits[at >> 3] = 0xff;
      at += 8;
    } else {
      bits[at >> 3]! |= 0x80 >> (at & 7);
      at++;
    }
  }
}
