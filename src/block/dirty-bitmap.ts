/**
 * Dirty bitmaps: which parts of a disk were written since some moment.
 *
 * A bitmap hangs on its node, which marks it before each write. Memory is sparse: stretches that are all clean cost nothing,
 * stretches that are all dirty next to nothing.
 */
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';

const pageBits = 32768;
const pageBytes = pageBits / 8;

interface Page { readonly bytes: Uint8Array; count: number }
/** A page is absent (all clean), `full` (all dirty), or has bytes. */
const full = 'full';

const bitsIn = new Uint8Array(256);
for (let byte = 1; byte < 256; byte++) bitsIn[byte] = bitsIn[byte >> 1]! + (byte & 1);

/** Whether bitmaps can be stored with the image. */
export function keepsBitmaps(node: BlockNode): boolean {
  const facet = node.facet('bitmaps');
  return facet !== undefined && facet.supported !== false;
}

/** A stretch of the disk in bytes. */
export interface DirtyRange { readonly offset: number; readonly length: number }

/** What an operation is about to do with a bitmap; see {@link DirtyBitmap.assertUsable}. */
export interface BitmapUse {
  /** Bits will change, or the bitmap will be removed or renamed. */
  readonly modify?: boolean;
  /** An inconsistent bitmap will do (removal). */
  readonly inconsistent?: boolean;
  /** A bitmap another operation uses will do. */
  readonly busy?: boolean;
}

export class DirtyBitmap {
  /** Unique on its node; empty for an anonymous bitmap of a job. */
  readonly name: string;
  /** Bytes per bit, a power of two. */
  readonly granularity: number;
  /** Writes are recorded. */
  enabled = true;
  /** Its content is on disk under an image opened read-only and must not change. */
  readOnly = false;
  /** Stored with the image when it is closed. */
  persistent = false;
  /** Was not stored properly when last used: its content says nothing, it can only be removed. */
  inconsistent = false;
  /** Operations (jobs, exports) that hold it. */
  users = 0;

  #size: number;
  #dirtyBits = 0;
  #revision = 0;
  readonly #pages = new Map<number, Page | typeof full>();

  /** @param size bytes of the disk it covers */
  constructor(options: { readonly name?: string; readonly granularity: number; readonly size: number }) {
    if (!(options.granularity >= 512 && Number.isInteger(Math.log2(options.granularity)))) {
      throw new BlockError('INVALID_ARGUMENT', 'Granularity must be power of 2 and at least 512');
    }
    this.name = options.name ?? '';
    this.granularity = options.granularity;
    this.#size = options.size;
  }

  /** Bytes of the disk it covers. */
  get size(): number { return this.#size; }
  /** Bits in all. */
  get bits(): number { return Math.ceil(this.#size / this.granularity); }
  /** Bits set. */
  get dirtyBits(): number { return this.#dirtyBits; }
  /** Dirty bytes: bits set times granularity. */
  get count(): number { return this.#dirtyBits * this.granularity; }
  /** Another number after each change of what is marked. */
  get revision(): number { return this.#revision; }
  get busy(): boolean { return this.users > 0; }
  /** Whether writes are recorded now. */
  get recording(): boolean { return this.enabled && !this.inconsistent; }

  /** @throws BlockError with the peer's text where the bitmap is not in a state for that use */
  assertUsable(use: BitmapUse): void {
    if (this.busy && use.busy !== true) {
      throw new BlockError('IN_USE', `Bitmap '${this.name}' is currently in use by another operation and cannot be used`);
    }
    if (this.readOnly && use.modify === true) {
      throw new BlockError('PERMISSION', `Bitmap '${this.name}' is readonly and cannot be modified`);
    }
    if (this.inconsistent && use.inconsistent !== true) {
      throw new BlockError('CORRUPT_IMAGE', `Bitmap '${this.name}' is inconsistent and cannot be used`, {
        hint: 'Try block-dirty-bitmap-remove to delete this bitmap from disk',
      });
    }
  }

  /** Marks every bit that a byte of the range belongs to. */
  set(offset: number, length: number): void {
    if (length > 0) this.#change(Math.floor(offset / this.granularity), Math.ceil((offset + length) / this.granularity), true);
  }

  /** Clears every bit that a byte of the range belongs to. */
  clear(offset: number, length: number): void {
    if (length > 0) this.#change(Math.floor(offset / this.granularity), Math.ceil((offset + length) / this.granularity), false);
  }

  clearAll(): void {
    this.#pages.clear();
    this.#dirtyBits = 0;
    this.#revision++;
  }

  isDirty(offset: number): boolean {
    const bit = Math.floor(offset / this.granularity);
    const page = this.#pages.get(Math.floor(bit / pageBits));
    return page !== undefined && (page === full || testBit(page.bytes, bit % pageBits));
  }

  /**
   * First dirty stretch in [offset, end), clipped to it; undefined where there is none.
   * `maxLength` bounds the stretch (and the time spent to find its end).
   */
  nextDirty(offset: number, end = this.#size, maxLength = Infinity): DirtyRange | undefined {
    const limit = Math.min(end, this.#size);
    if (offset >= limit) return undefined;
    const endBit = Math.ceil(limit / this.granularity);
    const first = this.#find(Math.floor(offset / this.granularity), endBit, true);
    if (first === endBit) return undefined;
    const start = Math.max(offset, first * this.granularity);
    const last = this.#find(first, Math.min(endBit, Math.ceil((start + maxLength) / this.granularity)), false);
    return { offset: start, length: Math.min(limit, last * this.granularity, start + maxLength) - start };
  }

  /** First offset in [offset, end) that is clean; undefined where there is none. */
  nextClean(offset: number, end = this.#size): number | undefined {
    const limit = Math.min(end, this.#size);
    if (offset >= limit) return undefined;
    const endBit = Math.ceil(limit / this.granularity);
    const bit = this.#find(Math.floor(offset / this.granularity), endBit, false);
    return bit === endBit ? undefined : Math.max(offset, bit * this.granularity);
  }

  /** Dirty stretches of [offset, end) in order. Bits may change between steps. */
  *ranges(offset = 0, end = this.#size): Generator<DirtyRange, void> {
    for (let next = this.nextDirty(offset, end); next !== undefined; next = this.nextDirty(next.offset + next.length, end)) yield next;
  }

  /** Adds what the other bitmap (of the same disk, any granularity) has marked. */
  merge(other: DirtyBitmap): void {
    if (other.size !== this.#size) throw new BlockError('INVALID_ARGUMENT', 'Bitmaps are of different sizes (destination size is '
      + `${this.#size}, source size is ${other.size}) and can't be merged`);
    for (const range of other.ranges()) this.set(range.offset, range.length);
  }

  /** An anonymous bitmap with the same content; this one is emptied. What a job takes to work on; merge it back if the job fails. */
  take(): DirtyBitmap {
    const taken = new DirtyBitmap({ granularity: this.granularity, size: this.#size });
    for (const [index, page] of this.#pages) taken.#pages.set(index, page);
    taken.#dirtyBits = this.#dirtyBits;
    this.clearAll();
    return taken;
  }

  /** The disk has another size now. What is added is clean. */
  resize(size: number): void {
    const bits = this.bits;
    this.#size = size;
    if (this.bits < bits) this.#change(this.bits, bits, false);
  }

  /** Bytes of the whole bitmap when stored, one bit per granule. */
  get storedBytes(): number { return Math.ceil(this.bits / 8); }

  /** A piece of the stored bitmap: bit 0 of byte 0 comes first, bits past the end are clear. Short answers for uniform pieces. */
  serialise(position: number, length: number): Uint8Array | 'zeroes' | 'ones' {
    const firstBit = position * 8;
    const endBit = Math.min(this.bits, firstBit + length * 8);
    if (this.#find(firstBit, endBit, true) === endBit) return 'zeroes';
    if (this.#find(firstBit, endBit, false) === endBit) return 'ones';
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const inPage = (position + at) % pageBytes;
      const piece = Math.min(length - at, pageBytes - inPage);
      const page = this.#pages.get(Math.floor((position + at) / pageBytes));
      if (page === full) bytes.fill(0xff, at, at + piece);
      else if (page !== undefined) bytes.set(page.bytes.subarray(inPage, inPage + piece), at);
      at += piece;
    }
    clearTail(bytes, this.bits - firstBit);
    return bytes;
  }

  /** Marks what a stored piece says is dirty; bits past the end are ignored. */
  deserialise(position: number, piece: Uint8Array | 'ones', length: number): void {
    const firstBit = position * 8;
    const count = Math.min(this.bits - firstBit, length * 8);
    if (piece === 'ones') {
      this.#change(firstBit, firstBit + count, true);
      return;
    }
    for (let at = 0; at < count;) {
      const start = scan(piece, at, count, true);
      at = scan(piece, start, count, false);
      if (start < at) this.#change(firstBit + start, firstBit + at, true);
    }
  }

  #change(firstBit: number, endBit: number, value: boolean): void {
    for (let bit = firstBit; bit < endBit;) {
      const index = Math.floor(bit / pageBits);
      const end = Math.min(endBit, (index + 1) * pageBits);
      this.#changePage(index, bit - index * pageBits, end - index * pageBits, value);
      bit = end;
    }
  }

  #changePage(index: number, first: number, end: number, value: boolean): void {
    const page = this.#pages.get(index);
    if (value ? page === full : page === undefined) return;
    const before = page === undefined ? 0 : page === full ? pageBits : page.count;
    this.#revision++;
    if (end - first === pageBits) {
      if (value) this.#pages.set(index, full);
      else this.#pages.delete(index);
      this.#dirtyBits += (value ? pageBits : 0) - before;
      return;
    }
    const partial = page === undefined || page === full ? { bytes: new Uint8Array(pageBytes).fill(before === 0 ? 0 : 0xff), count: before } : page;
    partial.count += fillBits(partial.bytes, first, end, value);
    this.#dirtyBits += partial.count - before;
    if (partial.count === 0) this.#pages.delete(index);
    else this.#pages.set(index, partial.count === pageBits ? full : partial);
  }

  /** First bit in [bit, end) that is `value`; `end` where there is none. */
  #find(bit: number, end: number, value: boolean): number {
    while (bit < end) {
      const index = Math.floor(bit / pageBits);
      const pageEnd = Math.min(end, (index + 1) * pageBits);
      const page = this.#pages.get(index);
      if (page === undefined || page === full) {
        if ((page === full) === value) return bit;
      } else {
        const found = index * pageBits + scan(page.bytes, bit - index * pageBits, pageEnd - index * pageBits, value);
        if (found < pageEnd) return found;
      }
      bit = pageEnd;
    }
    return end;
  }
}

function testBit(bytes: Uint8Array, bit: number): boolean {
  return (bytes[bit >>> 3]! & (1 << (bit & 7))) !== 0;
}

/** First bit in [bit, end) that is `value`; `end` where there is none. */
function scan(bytes: Uint8Array, bit: number, end: number, value: boolean): number {
  const skip = value ? 0 : 0xff;
  while (bit < end) {
    if ((bit & 7) === 0 && bytes[bit >>> 3] === skip) bit += 8;
    else if (testBit(bytes, bit) === value) return bit;
    else bit++;
  }
  return end;
}

/** Sets bits [first, end) to `value`; returns by how much the number of set bits grew. */
function fillBits(bytes: Uint8Array, first: number, end: number, value: boolean): number {
  let grown = 0;
  for (let bit = first; bit < end;) {
    const byte = bit >>> 3;
    const until = Math.min(end, (byte + 1) * 8);
    const mask = ((1 << (until - bit)) - 1) << (bit & 7);
    const old = bytes[byte]!;
    const now = value ? old | mask : old & ~mask;
    grown += bitsIn[now]! - bitsIn[old]!;
    bytes[byte] = now;
    bit = until;
  }
  return grown;
}

function clearTail(bytes: Uint8Array, bits: number): void {
  if (bits < bytes.length * 8) fillBits(bytes, Math.max(bits, 0), bytes.length * 8, false);
}
