/** Where guest clusters live: lookup in L1 and L2 tables, room for writes, zeroing, discarding. */
import type { BlockChild } from '../../block/child.js';
import { Req, type LayerExtent } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import type { Allocation, AskAgain, HostRun } from '../../block/mapped-format.js';
import type { MaybePromise } from '../../util/maybe.js';
import { isZero } from '../../platform/bytes.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { CachedTable } from '../../block/table-cache.js';
import { allOnes, hasPlace, highestBit, lowestBit, mask, needsRoom, readEntry, writeEntry, type Entry } from './entry.js';
import { hex } from './geometry.js';
import type { FreeReason, Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import {
  ClusterKind, clusterKind, compressedLength, compressedOffset, COPIED_HI, entryHi, entryLo, entryOffset, hiOf, loOf, setEntry,
  subclustersPerCluster, ZERO_LO,
} from './tables.js';

/** Entries of the L2 table as one request meets them: a slice and where its first entry stands in the table. */
interface Spot {
  readonly table: number;
  readonly slice: CachedTable;
  /** Entry within the slice. */
  readonly at: number;
  /** Entry within the table. */
  readonly index: number;
}

/** What a cluster holds that is not preallocated from its start. */
interface Edge {
  /** Bytes of it that belong to the guest already. */
  readonly used: number;
  readonly read: (offset: number, target: Uint8Array) => MaybePromise<void>;
}

/** How room is made ahead of writes. */
interface Room {
  /** Where it is. */
  readonly host?: number;
  /** It reads as zero and is shown to the guest; otherwise subclusters are left as they were. */
  readonly visible?: boolean;
  readonly edge?: Edge | undefined;
}

export class ClusterMap {
  readonly #image: Qcow2Image;
  readonly #emptyTable: Uint8Array;

  constructor(image: Qcow2Image) {
    this.#image = image;
    this.#emptyTable = new Uint8Array(image.geometry.clusterSize);
  }

  // -- Lookup ------------------------------------------------------------------------------------------------------------------

  map(offset: number, length: number): LayerExtent | AskAgain {
    const image = this.#image;
    if (image.dead) throw systemError(Errno.ENOMEDIUM);
    const spot = this.#peek(offset);
    if (spot === undefined) return { kind: 'backing', length: this.#untilNextTable(offset, length) };
    if (spot instanceof Promise) return spot;
    const { extended, clusterSize, sliceEntries, external } = image.geometry;
    if (extended) return this.#mapSubclusters(spot, offset, length);

    const { view } = spot.slice;
    const hi = entryHi(view, spot.at);
    const lo = entryLo(view, spot.at);
    const inCluster = offset % clusterSize;
    const kind = clusterKind(hi, lo, false, external);
    this.#checkKind(kind, spot);
    const limit = Math.min(sliceEntries, spot.at + Math.ceil((inCluster + length) / clusterSize));
    let next = spot.at + 1;
    if (kind === ClusterKind.UNALLOCATED || kind === ClusterKind.ZERO_PLAIN) {
      while (next < limit && clusterKind(entryHi(view, next), entryLo(view, next), false, external) === kind) next++;
      const run = Math.min(length, (next - spot.at) * clusterSize - inCluster);
      return kind === ClusterKind.UNALLOCATED ? { kind: 'backing', length: run } : { kind: 'zero', length: run, allocated: true };
    }
    if (kind === ClusterKind.COMPRESSED) return { kind: 'data', length: Math.min(length, clusterSize - inCluster), compressed: true };
    const place = entryOffset(hi, lo);
    this.#checkPlace(place, spot, offset - inCluster);
    for (let expected = place + clusterSize; next < limit; next++, expected += clusterSize) {
      const nextHi = entryHi(view, next);
      const nextLo = entryLo(view, next);
      if (entryOffset(nextHi, nextLo) !== expected || clusterKind(nextHi, nextLo, false, external) !== kind) break;
    }
    const run = Math.min(length, (next - spot.at) * clusterSize - inCluster);
    const host = { child: image.dataFile, offset: place + inCluster };
    return kind === ClusterKind.NORMAL ? { kind: 'data', length: run, host, recurse: image.preallocated } : { kind: 'zero', length: run, allocated: true, host };
  }

  writable(offset: number, length: number): HostRun | undefined | AskAgain {
    const image = this.#image;
    if (image.dead) throw systemError(Errno.ENOMEDIUM);
    const spot = this.#peek(offset);
    if (spot === undefined || spot instanceof Promise) return spot;
    const { clusterSize, l2Coverage, sliceEntries, external } = image.geometry;
    if (entryHi(image.l1, Math.floor(offset / l2Coverage)) < COPIED_HI) return undefined;
    const inCluster = offset % clusterSize;
    const end = offset + length;
    const limit = Math.min(sliceEntries, spot.at + Math.ceil((inCluster + length) / clusterSize));
    const place = this.#writablePlace(spot, spot.at, offset, end);
    if (place === undefined) return undefined;
    let at = offset - inCluster + clusterSize;
    for (let next = spot.at + 1; next < limit; next++, at += clusterSize) {
      if (this.#writablePlace(spot, next, at, end) !== place + (at - (offset - inCluster))) break;
    }
    const found = Math.min(end, at) - offset;
    if (!external) image.checkOverlap(place + inCluster, found);
    return { child: image.dataFile, offset: place + inCluster, length: found };
  }

  /** Where the compressed data of a cluster lies; undefined where it is not compressed (any more). */
  compressed(offset: number): { readonly offset: number; readonly length: number } | undefined | AskAgain {
    const spot = this.#peek(offset);
    if (spot === undefined || spot instanceof Promise) return spot;
    const { clusterBits } = this.#image.geometry;
    const entry = this.#entry(spot, spot.at);
    if (entry.kind !== ClusterKind.COMPRESSED) return undefined;
    return { offset: compressedOffset(entry.hi, entry.lo, clusterBits), length: compressedLength(entry.hi, entry.lo, clusterBits) };
  }

  /** Place of the cluster if [offset, end), as far as it lies in it, may be overwritten there. */
  #writablePlace(spot: Spot, at: number, offset: number, end: number): number | undefined {
    const { clusterSize, subclusterSize, extended, external } = this.#image.geometry;
    const { view } = spot.slice;
    const word = extended ? at * 2 : at;
    const hi = entryHi(view, word);
    const lo = entryLo(view, word);
    if (hi < COPIED_HI || clusterKind(hi, lo, extended, external) !== ClusterKind.NORMAL) return undefined;
    const place = entryOffset(hi, lo);
    if (extended) {
      const start = offset % clusterSize;
      const touched = mask(Math.floor(start / subclusterSize), Math.ceil(Math.min(clusterSize, start + end - offset) / subclusterSize));
      if ((entryLo(view, word + 1) & touched) >>> 0 !== touched) return undefined;
      this.#checkBitmap(entryHi(view, word + 1), entryLo(view, word + 1), true, spot, at);
    }
    if (place % clusterSize !== 0 || external) this.#checkPlace(place, spot, offset - (offset % clusterSize));
    return place;
  }

  #mapSubclusters(spot: Spot, offset: number, length: number): LayerExtent {
    const { clusterSize, subclusterSize, sliceEntries } = this.#image.geometry;
    const first = this.#entry(spot, spot.at, true);
    if (first.kind === ClusterKind.COMPRESSED) {
      return { kind: 'data', length: Math.min(length, clusterSize - (offset % clusterSize)), compressed: true };
    }
    const start = offset - (offset % clusterSize);
    if (first.host !== 0) this.#checkPlace(first.host, spot, start);
    const kindAt = (entry: Entry, sub: number): 'data' | 'zero' | 'backing' =>
      (entry.allocated >>> sub) & 1 ? 'data' : (entry.zero >>> sub) & 1 ? 'zero' : 'backing';
    const kind = kindAt(first, Math.floor((offset - start) / subclusterSize));
    const placed = first.kind !== ClusterKind.UNALLOCATED;
    let end = offset - (offset % subclusterSize);
    let entry = first;
    for (let at = spot.at; end < offset + length;) {
      if (end % clusterSize === 0 && end > start) {
        if (++at === sliceEntries) break;
        entry = this.#entry(spot, at, true);
        if (entry.kind === ClusterKind.COMPRESSED || (entry.kind !== ClusterKind.UNALLOCATED) !== placed) break;
        if (placed && entry.host !== first.host + (end - start)) break;
      }
      if (kindAt(entry, (end % clusterSize) / subclusterSize) !== kind) break;
      end += subclusterSize;
    }
    const found = Math.min(length, end - offset);
    const host = placed ? { host: { child: this.#image.dataFile, offset: first.host + (offset - start) } } : undefined;
    if (kind === 'data') return { kind, length: found, ...host, recurse: this.#image.preallocated };
    if (kind === 'zero') return { kind, length: found, allocated: true, ...host };
    return { kind, length: found, ...host };
  }

  /** The entry for a guest offset if it is at hand; undefined where no L2 table covers it. */
  #peek(offset: number): Spot | undefined | AskAgain {
    const image = this.#image;
    const { clusterSize, l2Coverage, sliceEntries } = image.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const table = l1Index < image.header.l1Size ? image.l2Offset(l1Index) : 0;
    if (table === 0) return undefined;
    const index = Math.floor((offset % l2Coverage) / clusterSize);
    const place = image.sliceOffset(table, index);
    let slice = image.l2.get(place);
    if (slice === undefined) {
      const loading = image.fetchSlice(place);
      if (loading !== undefined) return loading;
      slice = image.l2.get(place)!;
    }
    return { table, slice, at: index % sliceEntries, index };
  }

  #untilNextTable(offset: number, length: number): number {
    const image = this.#image;
    const { l2Coverage } = image.geometry;
    let index = Math.floor(offset / l2Coverage) + 1;
    while (index * l2Coverage < offset + length && (index >= image.header.l1Size || image.l2Offset(index) === 0)) index++;
    return Math.min(length, index * l2Coverage - offset);
  }

  #entry(spot: Spot, at: number, reading = false): Entry {
    const { extended, external } = this.#image.geometry;
    const entry = readEntry(spot.slice.view, at, extended, external);
    if (extended && entry.kind !== ClusterKind.COMPRESSED) {
      this.#checkBitmap(entry.zero, entry.allocated, entry.kind === ClusterKind.NORMAL, spot, at, reading);
    }
    return entry;
  }

  // -- Checks ------------------------------------------------------------------------------------------------------------------

  #checkKind(kind: ClusterKind, spot: Spot): void {
    const image = this.#image;
    if (image.header.version < 3 && (kind === ClusterKind.ZERO_PLAIN || kind === ClusterKind.ZERO_ALLOCATED)) {
      throw image.signalCorruption(`Zero cluster entry found in pre-v3 image (L2 offset: ${hex(spot.table)}, L2 index: ${hex(spot.index)})`, { fatal: true });
    }
    if (kind === ClusterKind.COMPRESSED && image.geometry.external) {
      throw image.signalCorruption(
        `Compressed cluster entry found in image with external data file (L2 offset: ${hex(spot.table)}, L2 index: ${hex(spot.index)})`, { fatal: true });
    }
  }

  #checkPlace(place: number, spot: Spot, guest: number): void {
    const image = this.#image;
    if (place % image.geometry.clusterSize !== 0) {
      throw image.signalCorruption(
        `Cluster allocation offset ${hex(place)} unaligned (L2 offset: ${hex(spot.table)}, L2 index: ${hex(spot.index)})`, { fatal: true });
    }
    if (image.geometry.external && place !== guest) {
      throw image.signalCorruption(
        `External data file host cluster offset ${hex(place)} does not match guest cluster offset: ${hex(guest)}, L2 index: ${hex(spot.index)})`, { fatal: true });
    }
  }

  #checkBitmap(zero: number, allocated: number, placed: boolean, spot: Spot, at: number, reading = false): void {
    if ((zero & allocated) === 0 && (placed || allocated === 0)) return;
    throw this.#image.signalCorruption(
      `Invalid cluster entry found ${reading ? ' ' : ''}(L2 offset: ${hex(spot.table)}, L2 index: ${hex(spot.index + at - spot.at)})`, { fatal: true });
  }

  // -- Allocation --------------------------------------------------------------------------------------------------------------

  /** See {@link MappedFormat.allocate}. */
  *allocate(offset: number, length: number, after: number | undefined): Steps<Allocation> {
    const image = this.#image;
    const { clusterSize, sliceEntries, external } = image.geometry;
    const spot = yield* this.#spotForWriting(offset);
    const inCluster = offset % clusterSize;
    const guest = offset - inCluster;
    const wanted = Math.min(Math.ceil((inCluster + length) / clusterSize), sliceEntries - spot.at);
    const first = this.#entry(spot, spot.at);
    const fresh = needsRoom(first);
    if (!fresh) this.#checkReusable(first, spot, guest);

    let count = this.#areVacant(spot, wanted) ? wanted : 1;
    for (; count < wanted; count++) {
      const entry = this.#entry(spot, spot.at + count);
      if (needsRoom(entry) !== fresh || (!fresh && entry.host !== first.host + count * clusterSize)) break;
    }
    let host = first.host;
    if (fresh && external) {
      host = guest;
    } else if (fresh) {
      const granted = after === undefined || after % clusterSize !== 0 ? 0 : yield* image.refcounts.allocateAt(after, count);
      if (granted > 0) count = granted;
      host = granted > 0 ? after! : yield* image.refcounts.allocate(count * clusterSize);
    }
    const end = Math.min(offset + length, guest + count * clusterSize);
    const padBefore = this.#padBefore(first, fresh, inCluster);
    const padAfter = this.#padAfter(this.#entry(spot, spot.at + count - 1), fresh, end - (guest + (count - 1) * clusterSize));
    if (!external) image.checkOverlap(host + inCluster - padBefore, padBefore + end - offset + padAfter);
    const visible = { start: offset - padBefore, end: end + padAfter };
    return {
      child: image.dataFile, offset: host + inCluster, length: end - offset, padBefore, padAfter, inPlace: !fresh,
      commit: () => image.exclusive(() => run(this.#link(guest, count, host, fresh, visible))),
      cancel: () => (fresh && !external && !image.dead ? image.exclusive(() => run(image.refcounts.update(host, count * clusterSize, -1))) : undefined),
    };
  }

  /**
   * Gives up to `count` clusters from guest offset `guest` on a place ahead of being written: at `host`, whose clusters are counted
   * already, or else in new room. Runs inside `image.exclusive`; `edge` is needed where the first of them holds something, which stays
   * where it is or comes along.
   */
  *preallocate(guest: number, count: number, { host, visible = false, edge }: Room): Steps<{ host: number; count: number }> {
    const image = this.#image;
    const { clusterSize, sliceEntries, external, extended } = image.geometry;
    const spot = yield* this.#spotForWriting(guest);
    const first = this.#entry(spot, spot.at);
    if (host === undefined && edge !== undefined && !needsRoom(first)) return { host: first.host, count: 1 };
    const taken = Math.min(count, sliceEntries - spot.at);
    const place = external ? guest : host ?? (yield* image.refcounts.allocate(taken * clusterSize));
    const unpacks = extended && first.kind === ClusterKind.COMPRESSED;
    if (edge !== undefined) yield* this.#carry(first, guest, place, edge, visible || !extended || unpacks);
    yield* this.#link(guest, taken, place, true, { start: guest, end: visible ? guest + taken * clusterSize : unpacks ? guest + clusterSize : guest });
    return { host: place, count: taken };
  }

  /** Copies what a cluster holds to its new place: `all` of it, or the subclusters that are stored. */
  *#carry(entry: Entry, guest: number, place: number, { used, read }: Edge, all: boolean): Steps<void> {
    if (!all && entry.allocated === 0) return;
    const { subclusterSize } = this.#image.geometry;
    const start = all ? 0 : lowestBit(entry.allocated) * subclusterSize;
    const end = all ? used : Math.min(used, (highestBit(entry.allocated) + 1) * subclusterSize);
    if (start >= end) return;
    const bytes = new Uint8Array(end - start);
    yield* wait(read(guest + start, bytes));
    const cipher = this.#image.encryption?.cipher;
    yield* wait(this.#image.dataFile.write(place + start, cipher === undefined ? bytes : cipher.encrypt(guest + start, place + start, bytes)));
  }

  /** Padding in front of a write that starts `at` bytes into its cluster. */
  #padBefore(entry: Entry, fresh: boolean, at: number): number {
    const { subclusterSize, extended } = this.#image.geometry;
    const sub = Math.floor(at / subclusterSize);
    if (!fresh) return (entry.allocated >>> sub) & 1 ? 0 : at % subclusterSize;
    // A new place must take along all that lies at the old one.
    const lowest = entry.allocated === 0 || !extended ? sub : Math.min(sub, lowestBit(entry.allocated));
    return at - lowest * subclusterSize;
  }

  /** Padding behind a write that ends `at` bytes into its last cluster. */
  #padAfter(entry: Entry, fresh: boolean, at: number): number {
    const { subclusterSize, extended } = this.#image.geometry;
    const sub = Math.ceil(at / subclusterSize) - 1;
    if (!fresh) return (entry.allocated >>> sub) & 1 ? 0 : (sub + 1) * subclusterSize - at;
    const highest = entry.allocated === 0 || !extended ? sub : Math.max(sub, highestBit(entry.allocated));
    return (highest + 1) * subclusterSize - at;
  }

  #checkReusable(entry: Entry, spot: Spot, guest: number): void {
    if (entry.host % this.#image.geometry.clusterSize === 0) return;
    if (entry.kind === ClusterKind.ZERO_ALLOCATED || entry.allocated === 0) {
      throw this.#image.signalCorruption(
        `Preallocated zero cluster offset ${hex(entry.host)} unaligned (guest offset: ${hex(guest)})`, { fatal: true });
    }
    this.#checkPlace(entry.host, spot, guest);
  }

  /** Makes `count` clusters from guest offset `guest` live at `host`, of which [visible.start, visible.end) is filled. */
  *#link(guest: number, count: number, host: number, fresh: boolean, visible: { readonly start: number; readonly end: number }): Steps<void> {
    const image = this.#image;
    const { clusterSize, subclusterSize, extended } = image.geometry;
    yield* image.markDirty();
    const spot = yield* this.#spotForWriting(guest);
    const replaced: Entry[] = [];
    if (!extended && this.#areVacant(spot, count)) {
      const { view } = spot.slice;
      for (let at = 0, place = host; at < count; at++, place += clusterSize) setEntry(view, spot.at + at, (hiOf(place) | COPIED_HI) >>> 0, loOf(place));
      return image.l2.dirty(spot.slice);
    }
    let changed = false;
    for (let at = 0; at < count; at++) {
      const old = this.#entry(spot, spot.at + at);
      if (fresh && (old.kind === ClusterKind.COMPRESSED || hasPlace(old))) replaced.push(old);
      const place = host + at * clusterSize;
      const start = guest + at * clusterSize;
      const filled = !extended ? allOnes : mask(Math.max(0, Math.floor((visible.start - start) / subclusterSize)),
        Math.min(subclustersPerCluster, Math.ceil((visible.end - start) / subclusterSize)));
      const before = old.kind === ClusterKind.COMPRESSED ? 0 : old.allocated;
      const hi = (hiOf(place) | COPIED_HI) >>> 0;
      changed = writeEntry(spot.slice.view, spot.at + at, extended, hi, loOf(place), (old.zero & ~filled) >>> 0, (before | filled) >>> 0) || changed;
    }
    if (!changed) return;
    image.l2.dirty(spot.slice);
    for (const old of replaced) yield* this.#giveUp(old, 'never');
  }

  /** Whether `count` entries from the spot on are all zero. */
  #areVacant({ slice, at }: Spot, count: number): boolean {
    const { l2EntrySize } = this.#image.geometry;
    return isZero(slice.bytes, at * l2EntrySize, (at + count) * l2EntrySize);
  }

  /** Frees what an entry referred to. */
  *#giveUp(entry: Entry, reason: FreeReason): Steps<void> {
    const image = this.#image;
    const { clusterBits, clusterSize, external } = image.geometry;
    if (entry.kind === ClusterKind.COMPRESSED) {
      const offset = compressedOffset(entry.hi, entry.lo, clusterBits);
      yield* image.refcounts.free(offset, compressedLength(entry.hi, entry.lo, clusterBits), reason);
    } else if (external) {
      if (hasPlace(entry) && image.passesDiscard(reason)) yield* discardQuietly(image.dataFile, entry.host, clusterSize);
    } else if (entry.host % clusterSize !== 0) {
      try {
        image.signalCorruption(`Cannot free unaligned cluster ${hex(entry.host)}`, { fatal: false });
      } catch { /* reported; the cluster leaks */ }
    } else if (hasPlace(entry)) {
      yield* image.refcounts.free(entry.host, clusterSize, reason);
    }
  }

  /** The entry for a guest offset in a table that may be changed, which is made if need be. */
  *#spotForWriting(offset: number): Steps<Spot> {
    const image = this.#image;
    const { clusterSize, l2Coverage, sliceEntries } = image.geometry;
    if (image.dead) throw systemError(Errno.ENOMEDIUM);
    const l1Index = Math.floor(offset / l2Coverage);
    if (l1Index >= image.header.l1Size) yield* image.growL1(l1Index + 1);
    const index = Math.floor((offset % l2Coverage) / clusterSize);
    const table = entryHi(image.l1, l1Index) >= COPIED_HI ? image.l2Offset(l1Index) : yield* this.#makeTable(l1Index, index);
    const slice = image.l2.get(image.sliceOffset(table, index)) ?? (yield* image.loadSlice(table, index));
    return { table, slice, at: index % sliceEntries, index };
  }

  /** Gives an L1 entry an L2 table of its own: an empty one, or a copy of the one it shares. `index`: the entry needed next. */
  *#makeTable(l1Index: number, index: number): Steps<number> {
    const image = this.#image;
    const { clusterSize, sliceSize } = image.geometry;
    const old = image.l2Offset(l1Index);
    const table = yield* image.refcounts.allocate(clusterSize);
    if (table === 0) {
      throw image.signalCorruption('Preventing invalid allocation of L2 table at offset 0', { fatal: true, offset: 0, length: clusterSize });
    }
    const oldHi = entryHi(image.l1, l1Index);
    const oldLo = entryLo(image.l1, l1Index);
    let mayBeLinked = false;
    try {
      let bytes = this.#emptyTable;
      if (old === 0) {
        yield* image.writeRefcounts();
      } else {
        // The copy must not reach the disk before refcounts and data of what it refers to.
        yield* image.flushMetadata();
        bytes = new Uint8Array(clusterSize);
        yield* wait(image.debug('l2_alloc_cow_read'));
        yield* wait(image.file.read(old, bytes));
      }
      yield* wait(image.debug('l2_alloc_write'));
      yield* image.writeMetadata(table, bytes);
      yield* wait(image.file.flush());
      setEntry(image.l1, l1Index, (hiOf(table) | COPIED_HI) >>> 0, loOf(table));
      mayBeLinked = true;
      yield* image.writeL1(l1Index, 1, false);
      image.metadata.add(Structure.ACTIVE_L2, table, clusterSize);
      const slice = image.sliceOffset(table, index);
      image.l2.adopt(slice, bytes.slice(slice - table, slice - table + sliceSize));
    } catch (error) {
      setEntry(image.l1, l1Index, oldHi, oldLo);
      // After a failed write the L1 entry may or may not be on disk: rather leak the table than give it another use.
      if (!image.dead && !mayBeLinked) yield* image.refcounts.update(table, clusterSize, -1, 'always');
      throw error;
    }
    if (old !== 0) {
      image.metadata.remove(Structure.ACTIVE_L2, old, clusterSize);
      yield* image.refcounts.free(old, clusterSize, 'other');
    }
    return table;
  }

  // -- Zeroing and discarding --------------------------------------------------------------------------------------------------

  /** Makes a range read as zero; it is made of whole subclusters, but for the end of the disk. */
  *zero(offset: number, length: number, flags: number): Steps<void> {
    const image = this.#image;
    const { clusterSize, subclusterSize } = image.geometry;
    if (image.header.version < 3) {
      if (image.backing !== undefined || offset % clusterSize !== 0) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
      return yield* this.discard(offset, length, 'request', false);
    }
    // as the peer has it: subclusters that end with the disk take those behind it along
    const unit = (offset + length) % subclusterSize === 0 ? clusterSize : subclusterSize;
    yield* this.#forEachEntry(offset, length, unit, (spot, at, from, to) =>
      this.#zeroEntry(spot, at, from, to, (flags & Req.MAY_UNMAP) !== 0));
  }

  /** Zeroes bytes [from, to) of the cluster of an entry. Returns what is to be freed. */
  #zeroEntry(spot: Spot, at: number, from: number, to: number, mayUnmap: boolean): Change | undefined {
    const { extended, subclusterSize, clusterSize } = this.#image.geometry;
    const { view } = spot.slice;
    const old = this.#entry(spot, at);
    if (from === 0 && to === clusterSize) {
      const keeps = this.#image.settings.discardKeepsReference && old.kind !== ClusterKind.COMPRESSED;
      const unmaps = old.kind === ClusterKind.COMPRESSED || (mayUnmap && hasPlace(old));
      const drops = unmaps && !keeps;
      const hi = drops ? 0 : old.hi;
      const lo = drops ? 0 : old.lo;
      if (!writeEntry(view, at, extended, hi, extended ? lo : (lo | ZERO_LO) >>> 0, allOnes, 0)) return undefined;
      return unmaps ? { entry: old, reason: 'request', keeps } : unchangedPlace;
    }
    if (!extended || old.kind === ClusterKind.COMPRESSED) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes' });
    const zeroed = mask(Math.floor(from / subclusterSize), Math.ceil(to / subclusterSize));
    return writeEntry(view, at, extended, old.hi, old.lo, (old.zero | zeroed) >>> 0, (old.allocated & ~zeroed) >>> 0) ? unchangedPlace : undefined;
  }

  /** Gives up whole clusters. `full`: the backing file shows through again; else they read as zero. */
  *discard(offset: number, length: number, reason: FreeReason, full: boolean): Steps<void> {
    const image = this.#image;
    if (!full && image.header.version < 3 && image.backing !== undefined) return;
    yield* this.#forEachEntry(offset, length, image.geometry.clusterSize, (spot, at) => this.#discardEntry(spot, at, reason, full));
  }

  #discardEntry(spot: Spot, at: number, reason: FreeReason, full: boolean): Change | undefined {
    const image = this.#image;
    const { extended } = image.geometry;
    const { view } = spot.slice;
    const old = this.#entry(spot, at);
    const keeps = !full && image.settings.discardKeepsReference && old.kind !== ClusterKind.COMPRESSED;
    let { hi, lo, zero, allocated } = old;
    if (full) {
      hi = lo = zero = allocated = 0;
    } else if (image.backing !== undefined || old.kind === ClusterKind.COMPRESSED || hasPlace(old)) {
      if (!keeps) hi = lo = 0;
      if (!extended && image.header.version >= 3) lo = (lo | ZERO_LO) >>> 0;
      zero = allOnes;
      allocated = 0;
    }
    return writeEntry(view, at, extended, hi, lo, zero, allocated) ? { entry: old, reason, keeps } : undefined;
  }

  /** Changes the entries of a range, one slice after the other, and frees what they gave up. At the end of the disk it goes on to a whole `unit`. */
  *#forEachEntry(
    offset: number, length: number, unit: number, change: (spot: Spot, at: number, from: number, to: number) => Change | undefined,
  ): Steps<void> {
    const image = this.#image;
    const { sliceEntries } = image.geometry;
    const end = offset + length;
    const last = end >= image.size ? Math.ceil(end / unit) * unit : end;
    for (let position = offset; position < last;) {
      const start = position;
      position = yield* wait(image.exclusive(() => run(this.#changeSlice(start, last, sliceEntries, change))));
    }
  }

  *#changeSlice(
    start: number, last: number, sliceEntries: number, change: (spot: Spot, at: number, from: number, to: number) => Change | undefined,
  ): Steps<number> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    yield* image.markDirty();
    const spot = yield* this.#spotForWriting(start);
    const changes: Change[] = [];
    let position = start;
    let failure: unknown;
    for (let at = spot.at; at < sliceEntries && position < last; at++) {
      const cluster = position - (position % clusterSize);
      const next = Math.min(last, cluster + clusterSize);
      try {
        const done = change(spot, at, position - cluster, next - cluster);
        if (done !== undefined) changes.push(done);
      } catch (error) {
        failure = error;
        break;
      }
      position = next;
    }
    if (changes.length > 0) image.l2.dirty(spot.slice);
    for (const { entry, reason, keeps } of changes) {
      if (entry === undefined) continue;
      if (!keeps) yield* this.#giveUp(entry, reason);
      else if (hasPlace(entry) && image.passesDiscard(reason)) yield* discardQuietly(image.dataFile, entry.host, clusterSize);
    }
    if (failure !== undefined) throw failure;
    return position;
  }

  // -- Compressed data ---------------------------------------------------------------------------------------------------------

  /** A cluster may be written compressed only where nothing is stored yet. @throws EIO otherwise */
  *prepareCompressed(offset: number): Steps<void> {
    const spot = yield* this.#spotForWriting(offset);
    const entry = this.#entry(spot, spot.at);
    if (entry.kind === ClusterKind.COMPRESSED || hasPlace(entry)) throw systemError(Errno.EIO, { op: 'write', offset });
  }

  /** Makes a cluster refer to compressed data; nothing is stored there yet. */
  *linkCompressed(offset: number, hi: number, lo: number): Steps<void> {
    const image = this.#image;
    yield* image.markDirty();
    const spot = yield* this.#spotForWriting(offset);
    yield* wait(image.debug('l2_update_compressed'));
    const word = image.geometry.extended ? spot.at * 2 : spot.at;
    setEntry(spot.slice.view, word, hi, lo);
    if (image.geometry.extended) setEntry(spot.slice.view, word + 1, 0, 0);
    image.l2.dirty(spot.slice);
  }
}

/** What became of an entry: the former one if its place is given up (or merely discarded, where `keeps`). */
interface Change {
  readonly entry: Entry | undefined;
  readonly reason: FreeReason;
  readonly keeps: boolean;
}
const unchangedPlace: Change = { entry: undefined, reason: 'never', keeps: true };

function* discardQuietly(child: BlockChild, offset: number, length: number): Steps<void> {
  try {
    yield* wait(child.discard(offset, length));
  } catch { /* a favour to the host; the space stays with us */ }
}
