/** Internal snapshots: creating, applying, deleting, looking at them. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import type { InternalSnapshot, SnapshotFacet } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { hex } from './geometry.js';
import { maxL1Bytes, maxRefcountTableBytes } from './header.js';
import type { FreeReason, Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import { resizeQcow2, type ResizeParts } from './resize.js';
import { writeSnapshotTable } from './snapshot-table.js';
import { clusterKind, ClusterKind, compressedLength, compressedOffset, COPIED_HI, entryHi, entryLo, entryOffset, maxSnapshots, setEntry, type SnapshotEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

type NewSnapshot = Parameters<SnapshotFacet['create']>[0];

/** Internal snapshots of an open image. Requests to the guest's disk must not run beside create, apply, delete and load. */
export class Qcow2Snapshots implements SnapshotFacet {
  readonly #parts: ResizeParts;
  readonly #image: Qcow2Image;

  constructor(parts: ResizeParts) {
    this.#parts = parts;
    this.#image = parts.image;
  }

  list(): readonly InternalSnapshot[] {
    return this.#image.snapshots.entries.map((entry) => describe(entry, this.#image.size));
  }

  async create(snapshot: NewSnapshot): Promise<InternalSnapshot> {
    const image = this.#image;
    this.#refuseDataFile();
    const { entries } = image.snapshots;
    if (entries.length >= maxSnapshots) throw systemError(Errno.EFBIG);
    const id = snapshot.id ?? String(Math.max(0, ...entries.map((entry) => Number.parseInt(entry.id, 10) || 0)) + 1);
    if (entries.some((entry) => entry.id === id)) throw systemError(Errno.EEXIST);
    const date = (snapshot.date ?? new Date()).getTime();
    const entry: SnapshotEntry = {
      l1Offset: 0, l1Size: image.header.l1Size, id, name: snapshot.name, dateSec: Math.floor(date / 1000), dateNsec: (date % 1000) * 1e6,
      vmClockNs: snapshot.vmClockNs ?? 0n, vmStateSize: snapshot.vmStateSize ?? 0, diskSize: image.size, icount: snapshot.icount ?? 0n,
      unknownExtra: new Uint8Array(), extraSize: 24,
    };
    await image.exclusive(() => run(this.#create(entry)));
    return describe(entry, image.size);
  }

  async apply(id: string): Promise<void> {
    const image = this.#image;
    // They would not tell what changes now, and belong to a disk of this size.
    if (this.#parts.bitmaps.some) throw new BlockError('IN_USE', 'Device has active dirty bitmaps', { errno: Errno.ENOTSUP });
    this.#refuseDataFile();
    const entry = this.#find(id);
    this.#checkTable(entry);
    const size = entry.diskSize ?? image.size;
    if (size !== image.size) await resizeQcow2(this.#parts, size, { preallocation: 'off', exact: true, zeroNew: false });
    await image.exclusive(() => run(this.#apply(entry)));
  }

  async delete(id: string): Promise<void> {
    const entry = this.#find(id);
    this.#checkTable(entry);
    await this.#image.exclusive(() => run(this.#delete(entry)));
  }

  async load(id: string): Promise<void> {
    const image = this.#image;
    const entry = this.#find(id);
    this.#checkTable(entry);
    await run(showTable(image, entry));
  }

  #find(id: string): SnapshotEntry {
    const entry = this.#image.snapshots.entries.find((candidate) => candidate.id === id);
    if (entry === undefined) throw new BlockError('NOT_FOUND', "Can't find snapshot", { errno: Errno.ENOENT });
    return entry;
  }

  #refuseDataFile(): void {
    if (this.#image.geometry.external) throw systemError(Errno.ENOTSUP);
  }

  #checkTable(entry: SnapshotEntry): void {
    if (entry.l1Size * 8 > maxL1Bytes) throw new BlockError('CORRUPT_IMAGE', 'Snapshot L1 table too large', { errno: Errno.EFBIG });
    if (entry.l1Offset % this.#image.geometry.clusterSize !== 0 || entry.l1Offset > Number.MAX_SAFE_INTEGER) {
      throw new BlockError('CORRUPT_IMAGE', 'Snapshot L1 table offset invalid', { errno: Errno.EINVAL });
    }
  }

  *#create(entry: SnapshotEntry): Steps<void> {
    const image = this.#image;
    yield* image.markDirty();
    yield* image.flushMetadata();
    const table = copyOf(image.l1);
    if (table.length > 0) {
      entry.l1Offset = yield* image.refcounts.allocate(table.length);
      yield* image.writeMetadata(entry.l1Offset, table);
    }
    yield* shareTables(image, image.l1, 1);
    yield* image.flushMetadata();
    yield* image.writeL1(0, image.header.l1Size);
    yield* writeSnapshotTable(image, [...image.snapshots.entries, entry]);
    yield* image.flush();
  }

  *#apply(entry: SnapshotEntry): Steps<void> {
    const image = this.#image;
    yield* image.markDirty();
    yield* image.growL1(entry.l1Size, true);
    yield* image.flushMetadata();
    const table = new Uint8Array(image.header.l1Size * 8);
    yield* readL1(image, entry, table);
    yield* shareTables(image, viewOf(table), 1);
    yield* image.flushMetadata();
    // The snapshot does not own its tables alone any more.
    yield* image.writeMetadata(entry.l1Offset, table.subarray(0, entry.l1Size * 8), Structure.INACTIVE_L1);
    yield* wait(image.file.flush());
    const former = viewOf(copyOf(image.l1));
    yield* image.writeMetadata(image.header.l1Offset, table, Structure.ACTIVE_L1);
    yield* wait(image.file.flush());
    yield* image.replaceL1(image.header.l1Offset, table);
    yield* shareTables(image, former, -1, 'snapshot');
    yield* shareTables(image, image.l1, 0);
    yield* image.flushMetadata();
    yield* image.writeL1(0, image.header.l1Size);
    yield* image.flush();
  }

  *#delete(entry: SnapshotEntry): Steps<void> {
    const image = this.#image;
    yield* image.markDirty();
    const table = new Uint8Array(entry.l1Size * 8);
    yield* readL1(image, entry, table);
    yield* named('Failed to remove snapshot from snapshot list', writeSnapshotTable(image, image.snapshots.entries.filter((candidate) => candidate !== entry)));
    yield* named('Failed to free the cluster and L1 table', free(image, entry, table));
    yield* named('Failed to update snapshot status in disk', shareTables(image, image.l1, 0));
    yield* image.flushMetadata();
    yield* image.writeL1(0, image.header.l1Size);
    yield* image.flush();
  }
}

function* free(image: Qcow2Image, { l1Offset }: SnapshotEntry, table: Uint8Array): Steps<void> {
  yield* shareTables(image, viewOf(table), -1, 'snapshot');
  if (table.length > 0) yield* image.refcounts.update(l1Offset, table.length, -1, 'snapshot');
}

/** A part of the work with its name before what goes wrong in it. */
function* named(name: string, steps: Steps<void>): Steps<void> {
  try {
    yield* steps;
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, `${name}: ${strerror(error.errno)}`, error.context, error);
  }
}

function copyOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}

function describe(entry: SnapshotEntry, size: number): InternalSnapshot {
  const { id, name, vmStateSize, dateSec, dateNsec, vmClockNs, icount } = entry;
  return { id, name, vmStateSize, diskSize: entry.diskSize ?? size, dateSec, dateNsec, vmClockNs, ...(icount !== undefined && { icount }) };
}

function* readL1(image: Qcow2Image, entry: SnapshotEntry, target: Uint8Array): Steps<void> {
  try {
    yield* wait(image.file.read(entry.l1Offset, target.subarray(0, entry.l1Size * 8)));
  } catch (error) {
    const errno = error instanceof BlockError ? error.errno : Errno.EIO;
    throw new BlockError('IO_ERROR', `Failed to read l1 table for snapshot: ${strerror(errno)}`, { errno }, error);
  }
}

/** Makes the open, read-only image show a snapshot's tables. */
function* showTable(image: Qcow2Image, entry: SnapshotEntry): Steps<void> {
  if (!image.readOnly) throw new BlockError('INVALID_ARGUMENT', 'Device is not readonly', { errno: Errno.EINVAL });
  const table = new Uint8Array(entry.l1Size * 8);
  yield* readL1(image, entry, table);
  image.l2.clear();
  image.header = { ...image.header, l1Offset: entry.l1Offset, l1Size: entry.l1Size };
  image.l1 = viewOf(table);
}

/**
 * Adds `delta` to the refcounts of everything an L1 table refers to, L2 tables included, and sets the COPIED marks in the table and its L2
 * tables to what is true then. The L1 table is changed in memory only.
 */
function* shareTables(image: Qcow2Image, l1: DataView, delta: -1 | 0 | 1, reason: FreeReason = 'never'): Steps<void> {
  const { clusterSize, l2Entries, sliceEntries } = image.geometry;
  for (let index = 0; index < l1.byteLength / 8; index++) {
    const hi = entryHi(l1, index);
    const lo = entryLo(l1, index);
    const table = entryOffset(hi, lo);
    if (table === 0) continue;
    if (table % clusterSize !== 0) {
      throw image.signalCorruption(`L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`, { fatal: true });
    }
    requireBlock(image, table);
    const dying = delta < 0 && (yield* image.refcounts.get(table / clusterSize)) === 1;
    for (let first = 0; first < l2Entries; first += sliceEntries) yield* shareSlice(image, table, first, delta, dying, reason);
    if (delta !== 0) yield* image.refcounts.update(table, clusterSize, delta, reason);
    if (dying) {
      image.l2.drop(table, clusterSize);
      continue;
    }
    const sole = (yield* image.refcounts.get(table / clusterSize)) === 1;
    setEntry(l1, index, sole ? (hi | COPIED_HI) >>> 0 : (hi & ~COPIED_HI) >>> 0, lo);
    if (image.l2.crowded || image.refcounts.crowded) yield* image.flushMetadata();
  }
}

/** {@link shareTables} for one slice of an L2 table. `dying`: nobody will look at the table any more, so it stays as it is. */
function* shareSlice(image: Qcow2Image, table: number, first: number, delta: -1 | 0 | 1, dying: boolean, reason: FreeReason): Steps<void> {
  const { clusterBits, clusterSize, extended, external, sliceEntries } = image.geometry;
  const { refcounts } = image;
  let slice = yield* image.loadSlice(table, first);
  for (let at = 0; at < sliceEntries; at++) {
    const word = extended ? at * 2 : at;
    const hi = entryHi(slice.view, word);
    const lo = entryLo(slice.view, word);
    if (hi === 0 && lo <= 1) continue;
    const kind = clusterKind(hi, lo, extended, external);
    if (kind === ClusterKind.COMPRESSED) {
      if (delta !== 0) {
        yield* refcounts.update(compressedOffset(hi, lo, clusterBits), compressedLength(hi, lo, clusterBits), delta, reason);
        slice = yield* image.loadSlice(table, first);
      }
      continue;
    }
    if (kind !== ClusterKind.NORMAL && kind !== ClusterKind.ZERO_ALLOCATED) continue;
    const place = entryOffset(hi, lo);
    if (place % clusterSize !== 0) {
      throw image.signalCorruption(
        `Cluster allocation offset ${hex(place)} unaligned (L2 offset: ${hex(table)}, L2 index: ${hex(first + at)})`, { fatal: true });
    }
    if (delta > 0) requireBlock(image, place);
    if (delta !== 0) yield* refcounts.update(place, clusterSize, delta, reason);
    if (dying) continue;
    const sole = (yield* refcounts.get(place / clusterSize)) === 1;
    if (sole === (hi >= COPIED_HI)) continue;
    slice = yield* image.loadSlice(table, first);
    setEntry(slice.view, word, sole ? (hi | COPIED_HI) >>> 0 : (hi & ~COPIED_HI) >>> 0, lo);
    image.l2.dirty(slice);
  }
}

/** What a table refers to must be counted somewhere: making refcount blocks for wild references would only spread the damage. */
function requireBlock(image: Qcow2Image, offset: number): void {
  const index = Math.floor(offset / image.geometry.clusterSize / image.refcounts.perBlock);
  if (image.refcounts.blockOffset(index) === 0) throw systemError(index * 8 >= maxRefcountTableBytes ? Errno.EFBIG : Errno.EAGAIN);
}
