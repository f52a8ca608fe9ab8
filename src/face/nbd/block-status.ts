/** What BLOCK_STATUS answers: the extents of one context. */
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { chainStatus } from '../../block/status.js';
import { isPromise, loop, type MaybePromise } from '../../util/maybe.js';
import { Context, StatusFlag } from '../../wire/nbd/constants.js';
import type { NbdExport } from './exports.js';

export interface NegotiatedContext { readonly id: number; readonly name: string }

/** Extents of one answer; a client asks again for the rest. */
const MAX_EXTENTS = 4096;
/** Longest extent that a compact reply can tell. */
const MAX_COMPACT = 0xfffff000;

/** Collects extents as lengths and flags by turns, merging neighbours. */
class ExtentList {
  readonly values: number[] = [];
  readonly #maxLength: number;
  readonly #maxCount: number;
  /** No more extents are wanted. */
  full = false;

  constructor(extended: boolean, single: boolean) {
    this.#maxLength = extended ? Infinity : MAX_COMPACT;
    this.#maxCount = single ? 1 : MAX_EXTENTS;
  }

  add(length: number, flags: number): void {
    const { values } = this;
    const last = values.length - 2;
    if (last >= 0 && values[last + 1] === flags) {
      const sum = values[last]! + length;
      values[last] = Math.min(sum, this.#maxLength);
      this.full ||= sum > this.#maxLength;
    } else if (values.length / 2 >= this.#maxCount) {
      this.full = true;
    } else {
      values.push(Math.min(length, this.#maxLength), flags);
      this.full ||= length > this.#maxLength;
    }
  }
}

/** Lengths and flags by turns, for a range inside the export; at least one extent, fewer bytes than asked where there are many. */
export function statusExtents(lent: NbdExport, context: string, offset: number, length: number, options: { readonly extended: boolean; readonly single: boolean }): MaybePromise<readonly number[]> {
  const extents = new ExtentList(options.extended, options.single);
  const end = offset + length;
  const bitmap = context.startsWith(Context.DIRTY_BITMAP_PREFIX) ? lent.bitmaps.get(context.slice(Context.DIRTY_BITMAP_PREFIX.length)) : undefined;
  if (bitmap !== undefined) {
    addBitmap(extents, bitmap, offset, end);
    return extents.values;
  }
  const { backend } = lent;
  const flagsAt: (at: number) => MaybePromise<{ readonly length: number; readonly flags: number }> = context === Context.ALLOCATION_DEPTH
    ? (at) => mapStatus(chainStatus(backend.node, at, end - at, { wantZero: false }), (status) => status.depth)
    : (at) => mapStatus(chainStatus(backend.node, at, end - at), (status) => (status.data ? 0 : StatusFlag.HOLE) | (status.zero ? StatusFlag.ZERO : 0));
  let at = offset;
  const done = loop(() => {
    const answer = flagsAt(at);
    if (isPromise(answer)) return answer.then(take);
    return take(answer);
  });
  function take(answer: { readonly length: number; readonly flags: number }): boolean {
    const bytes = answer.length > 0 ? Math.min(answer.length, end - at) : end - at;
    extents.add(bytes, answer.flags);
    at += bytes;
    return at < end && !extents.full;
  }
  return isPromise(done) ? done.then(() => extents.values) : extents.values;
}

function mapStatus<T extends { readonly length: number }>(status: MaybePromise<T>, flags: (status: T) => number): MaybePromise<{ readonly length: number; readonly flags: number }> {
  const convert = (value: T) => ({ length: value.length, flags: flags(value) });
  return isPromise(status) ? status.then(convert) : convert(status);
}

function addBitmap(extents: ExtentList, bitmap: DirtyBitmap, offset: number, end: number): void {
  let at = offset;
  while (at < end && !extents.full) {
    const dirty = bitmap.nextDirty(at, end);
    if (dirty === undefined) return extents.add(end - at, 0);
    if (dirty.offset > at) extents.add(dirty.offset - at, 0);
    if (!extents.full) extents.add(dirty.length, StatusFlag.DIRTY);
    at = dirty.offset + dirty.length;
  }
}
