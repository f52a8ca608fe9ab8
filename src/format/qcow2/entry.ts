/** L2 entries, taken apart and put together. Pure functions over tables. */
import { ClusterKind, clusterKind, COPIED_HI, entryHi, entryLo, entryOffset, setEntry } from './tables.js';

/** An L2 entry. Subcluster masks are all ones or all zeroes with standard entries. */
export interface Entry {
  readonly hi: number;
  readonly lo: number;
  /** With extended entries, of the cluster as a whole: NORMAL where it has a place. */
  readonly kind: ClusterKind;
  readonly host: number;
  /** May be changed in place: nobody else refers to it. */
  readonly copied: boolean;
  readonly allocated: number;
  readonly zero: number;
}

export const allOnes = 0xffff_ffff;

/** All zero: the most frequent one while an image is filled. */
const empty: Entry = Object.freeze({ hi: 0, lo: 0, kind: ClusterKind.UNALLOCATED, host: 0, copied: false, allocated: 0, zero: 0 });

/** Entry number `at` of a table (or of a slice of one). */
export function readEntry(view: DataView, at: number, extended: boolean, external: boolean): Entry {
  const word = extended ? at * 2 : at;
  const hi = entryHi(view, word);
  const lo = entryLo(view, word);
  if (hi === 0 && lo === 0 && (!extended || (entryHi(view, word + 1) === 0 && entryLo(view, word + 1) === 0))) return empty;
  const kind = clusterKind(hi, lo, extended, external);
  const copied = hi >= COPIED_HI;
  if (kind === ClusterKind.COMPRESSED) return { hi, lo, kind, host: 0, copied: false, allocated: allOnes, zero: 0 };
  const host = entryOffset(hi, lo);
  if (extended) return { hi, lo, kind, host, copied, allocated: entryLo(view, word + 1), zero: entryHi(view, word + 1) };
  const zero = kind === ClusterKind.ZERO_PLAIN || kind === ClusterKind.ZERO_ALLOCATED ? allOnes : 0;
  return { hi, lo, kind, host, copied, allocated: kind === ClusterKind.NORMAL ? allOnes : 0, zero };
}

/** Changes an entry. False if it already was so. */
export function writeEntry(view: DataView, at: number, extended: boolean, hi: number, lo: number, zero: number, allocated: number): boolean {
  const word = extended ? at * 2 : at;
  const same = entryHi(view, word) === hi && entryLo(view, word) === lo
    && (!extended || (entryHi(view, word + 1) === zero && entryLo(view, word + 1) === allocated));
  if (same) return false;
  setEntry(view, word, hi, lo);
  if (extended) setEntry(view, word + 1, zero, allocated);
  return true;
}

export function hasPlace(entry: Entry): boolean {
  return entry.kind === ClusterKind.NORMAL || entry.kind === ClusterKind.ZERO_ALLOCATED;
}

/** A write to the cluster must go to a new place. */
export function needsRoom(entry: Entry): boolean {
  return !(hasPlace(entry) && entry.copied);
}

/** Bits [from, to) of 32. */
export function mask(from: number, to: number): number {
  if (to <= from) return 0;
  const upTo = to >= 32 ? allOnes : 2 ** to - 1;
  return (upTo & ~(2 ** from - 1)) >>> 0;
}

/** Number of the lowest bit that is set; `bits` is not 0. */
export function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

/** Number of the highest bit that is set; `bits` is not 0. */
export function highestBit(bits: number): number {
  return 31 - Math.clz32(bits);
}
