/**
 * An open VHDX image: header, tables in memory, and the order in which changes reach the disk.
 *
 * Guest data is written where a table will say it lies, then the page of the table is changed in memory. Changed pages reach the
 * disk together: flush (the data is durable), write a log entry with them, flush (now they hold), write them to their places.
 * Every entry is a sequence by itself, since the flush before it made the pages of the one before durable; entries use the two
 * halves of the log in turn, so that a torn one leaves the one before.
 *
 * Methods that may wait are coroutines ({@link Steps}). All that changes tables runs inside {@link VhdxImage.exclusive}.
 */
import type { BlockChild } from '../../block/child.js';
import { BlockError, Errno } from '../../block/errors.js';
import { TableCache, type CachedTable } from '../../block/table-cache.js';
import { andThen, isPromise, type MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { newGuid, nilGuid } from './guid.js';
import { batGuid, headerOffsets, metadataGuid, MiB, serialiseHeader, type Region, type VhdxHeader } from './header.js';
import { applyUpdates, buildEntry, maxPagesPerEntry, type PendingLog } from './log.js';
import type { DiskParameters, Metadata } from './metadata.js';
import { Space, type NewRoom } from './space.js';
import { entriesPerPage, entrySize, geometryOf, pageSize, readEntry, writeEntry, type Geometry } from './tables.js';

/** Pages cached: their tables map at least 512 GiB. */
const cachedPages = 1024;

/** Room in the file that was given up. */
interface Release {
  readonly offset: number;
  readonly length: number;
}

export interface ImageParts {
  readonly file: BlockChild;
  readonly readOnly: boolean;
  readonly header: VhdxHeader;
  /** Which of the two copies of the header holds. */
  readonly copy: 0 | 1;
  readonly regions: readonly Region[];
  readonly metadata: Metadata;
  /** Changes that the log holds: {@link VhdxImage.replay} applies them, until then they are put over what is read. */
  readonly pending: PendingLog | undefined;
  /** The log holds entries that cannot be used. */
  readonly logBroken: boolean;
  /** Where a region table is not what it was when it was written; the other one holds. */
  readonly damagedRegionTables: readonly number[];
}

export class VhdxImage {
  readonly file: BlockChild;
  readonly geometry: Geometry;
  readonly pages: TableCache;
  readonly space: Space;
  /** The log held changes, which were applied. */
  replayed = false;
  readOnly: boolean;
  header: VhdxHeader;
  regions: readonly Region[];
  metadata: Metadata;
  pending: PendingLog | undefined;
  logBroken: boolean;
  damagedRegionTables: readonly number[];
  /** The DataWriteGuid that the first change gives: children can be told of it before. */
  readonly nextDataWriteGuid = newGuid();
  /** Resolves when reads of guest data that are under way are done; set by the data path. */
  readsSettled: () => MaybePromise<void> = () => undefined;
  #copy: 0 | 1;
  /** The last write of a header may not be durable yet. */
  #headerFloats = false;
  #logSequence = 0n;
  #logHalf = 0;
  #changed = false;
  #changing: Promise<void> | undefined;
  #released: Release[] = [];
  readonly #mutex = new Mutex();

  constructor(parts: ImageParts) {
    this.file = parts.file;
    this.readOnly = parts.readOnly;
    this.header = parts.header;
    this.#copy = parts.copy;
    this.regions = parts.regions;
    this.metadata = parts.metadata;
    this.pending = parts.pending;
    this.logBroken = parts.logBroken;
    this.damagedRegionTables = parts.damagedRegionTables;
    this.geometry = geometryOf(parts.metadata.parameters);
    this.space = new Space(Math.ceil(this.fileSize / MiB) * MiB);
    this.pages = new TableCache(pageSize, cachedPages, {
      load: (offset, target) => this.readMetadata(offset, target),
      store: (page) => this.file.write(page.offset, page.bytes),
    });
  }

  get parameters(): DiskParameters {
    return this.metadata.parameters;
  }

  get size(): number {
    return this.parameters.size;
  }

  /** Changes the size in memory. */
  setSize(size: number): void {
    this.metadata = { ...this.metadata, parameters: { ...this.parameters, size } };
  }

  get hasParent(): boolean {
    return this.parameters.parent !== undefined;
  }

  /** Length of the file with the log applied. */
  get fileSize(): number {
    return Math.max(this.file.size, this.pending?.fileSize ?? 0);
  }

  get bat(): Region {
    return this.#region(batGuid);
  }

  get metadataRegion(): Region {
    return this.#region(metadataGuid);
  }

  #region(guid: string): Region {
    return this.regions.find((region) => region.guid === guid)!;
  }

  /** Runs `request` while no table changes and nothing is written back beside it. Guest writes in place go on. */
  exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    return this.#mutex.run(() => andThen(request(), (result) =>
      this.pages.crowded ? andThen(run(this.writeBack()), () => result) : result));
  }

  /** Reads from the file as it is with the log applied. */
  readMetadata(offset: number, target: Uint8Array): MaybePromise<void> {
    const { pending } = this;
    const done = this.file.read(offset, target);
    return pending === undefined ? done : andThen(done, () => applyUpdates(pending.updates, offset, target));
  }

  // -- Tables ------------------------------------------------------------------------------------------------------------------

  /** Entry of the block allocation table as a number (see {@link readEntry}), if its page is at hand. */
  entry(index: number): number | undefined {
    const page = this.pages.get(this.#entryPage(index));
    return page === undefined ? undefined : readEntry(page.view, index % entriesPerPage);
  }

  /** Brings the page of an entry here. */
  fetchEntry(index: number): MaybePromise<void> {
    return this.pages.fetch(this.#entryPage(index));
  }

  *loadEntry(index: number): Steps<number> {
    return readEntry((yield* this.pages.load(this.#entryPage(index))).view, index % entriesPerPage);
  }

  /** Changes an entry in memory. */
  *setEntry(index: number, entry: number): Steps<void> {
    const page = yield* this.pages.load(this.#entryPage(index));
    writeEntry(page.view, index % entriesPerPage, entry);
    this.pages.dirty(page);
  }

  #entryPage(index: number): number {
    return this.bat.offset + Math.floor(index / entriesPerPage) * entriesPerPage * entrySize;
  }

  // -- Order of writes ---------------------------------------------------------------------------------------------------------

  /** What comes before the first change that a guest can see: new identities of the file and its content. Undefined at once later on. */
  beforeChange(): MaybePromise<void> {
    if (this.#changed) return undefined;
    if (this.#changing !== undefined) return this.#changing;
    const done = this.exclusive(() => run(this.announceChange()));
    if (!isPromise(done)) return undefined;
    this.#changing = done.finally(() => { this.#changing = undefined; });
    return this.#changing;
  }

  /** The same for who holds the image already. */
  *announceChange(): Steps<void> {
    if (this.#changed) return;
    yield* this.updateHeader({ fileWriteGuid: newGuid(), dataWriteGuid: this.nextDataWriteGuid });
    this.#changed = true;
  }

  /** Writes both copies of the header, one after the other: one is sound at any time. The second write is not flushed. */
  *updateHeader(patch: Partial<VhdxHeader>): Steps<void> {
    if (this.#headerFloats) yield* wait(this.file.flush());
    this.#headerFloats = false;
    for (let written = 0; written < 2; written++) {
      const header = { ...this.header, ...patch, sequence: this.header.sequence + 1n };
      const copy = this.#copy === 0 ? 1 : 0;
      this.#headerFloats = true;
      yield* wait(this.file.write(headerOffsets[copy], serialiseHeader(header)));
      this.#copy = copy;
      this.header = header;
      if (written === 0) yield* wait(this.file.flush());
    }
  }

  /** Room that a block had. It gets another content when the table that gave it up is durable. */
  release(offset: number, length: number): void {
    this.#released.push({ offset, length });
  }

  /** Makes everything durable. */
  flush(): MaybePromise<void> {
    if (this.pages.dirtyCount === 0 && !this.#mutex.locked) return this.file.flush();
    return this.exclusive(() => run(this.#flush()));
  }

  *#flush(): Steps<void> {
    if (this.pages.dirtyCount === 0) yield* wait(this.file.flush());
    else yield* this.writeBack();
  }

  /** Brings changed pages to the disk. Those that others refer to go first: sector bitmaps before the table. */
  *writeBack(): Steps<void> {
    while (this.pages.dirtyCount > 0) {
      const { offset, length } = this.bat;
      const inTable = ({ offset: at }: CachedTable): boolean => at >= offset && at < offset + length;
      const dirty = this.pages.dirtyTables;
      const ordered = [...dirty.filter((page) => !inTable(page)), ...dirty.filter(inTable)];
      const pages = ordered.slice(0, this.#entryCapacity());
      yield* this.logPages(pages);
      for (const page of pages) this.pages.clean(page);
    }
    yield* this.#settleReleases();
  }

  #entryCapacity(): number {
    return Math.min(maxPagesPerEntry, Math.floor(this.header.logLength / pageSize / 2) - 1);
  }

  /** Makes new contents of pages of metadata durable, all of them or none, and writes them to their places. At most {@link maxPagesPerEntry}. */
  *logPages(pages: readonly { readonly offset: number; readonly bytes: Uint8Array }[]): Steps<void> {
    const { file } = this;
    const size = Math.floor(file.size / MiB) * MiB;
    yield* wait(file.flush());
    this.#headerFloats = false;
    const guid = this.header.logGuid === nilGuid ? newGuid() : this.header.logGuid;
    const at = this.#logHalf * Math.floor(this.header.logLength / pageSize / 2) * pageSize;
    const entry = buildEntry({ at, guid, sequence: ++this.#logSequence, flushedSize: size, fileSize: size, pages });
    yield* wait(file.write(this.header.logOffset + at, entry));
    yield* wait(file.flush());
    this.#logHalf = 1 - this.#logHalf;
    if (guid !== this.header.logGuid) yield* this.updateHeader({ logGuid: guid });
    for (const { offset, bytes } of pages) yield* wait(file.write(offset, bytes));
  }

  /** Changes bytes of metadata that is not cached, all of them or none. */
  *editMetadata(edits: readonly { readonly offset: number; readonly bytes: Uint8Array }[]): Steps<void> {
    const pages = new Map<number, Uint8Array>();
    for (const { offset, bytes } of edits) {
      for (let at = offset - (offset % pageSize); at < offset + bytes.length; at += pageSize) {
        let page = pages.get(at);
        if (page === undefined) {
          page = new Uint8Array(pageSize);
          yield* wait(this.file.read(at, page));
          pages.set(at, page);
        }
        applyUpdates([{ offset, length: bytes.length, bytes }], at, page);
      }
    }
    yield* this.logPages([...pages].map(([offset, bytes]) => ({ offset, bytes })));
  }

  /** The tables no longer refer to what was given up, whatever happens: it may be used again. */
  *#settleReleases(): Steps<void> {
    if (this.#released.length === 0) return;
    yield* wait(this.readsSettled());
    for (const { offset, length } of this.#released.splice(0)) {
      try {
        yield* wait(this.file.discard(offset, length));
      } catch (error) {
        if (!(error instanceof BlockError)) throw error;
      }
      this.space.give(offset, length);
    }
  }

  /** Brings everything to its place and empties the log. */
  *settle(): Steps<void> {
    if (this.readOnly) return;
    yield* this.#flush();
    yield* this.#settleReleases();
    if (this.header.logGuid === nilGuid) return;
    yield* wait(this.file.flush());
    this.#headerFloats = false;
    yield* this.updateHeader({ logGuid: nilGuid });
    yield* wait(this.file.flush());
    this.#headerFloats = false;
  }

  /** Room for `count` units of `unit` bytes in a row; the file is long enough for it. */
  *newRoom(unit: number, count: number): Steps<NewRoom> {
    const room = this.space.take(unit, count);
    try {
      yield* this.growFile(room.offset + unit * count);
    } catch (error) {
      this.space.give(room.offset, unit, count);
      throw error;
    }
    return room;
  }

  /** Makes the file at least that long. */
  *growFile(size: number): Steps<void> {
    if (this.file.size < size) yield* wait(this.file.resize(size, { exact: false }));
  }

  /** Cuts off the file at `end`, behind which nothing lies: first the log, which demands its length, is emptied. */
  *cutAt(end: number): Steps<void> {
    yield* this.settle();
    yield* wait(this.file.resize(end, { exact: false }));
    yield* wait(this.file.flush());
    this.space.cutAt(end);
  }

  /** Writes what the log holds to its places and empties it. */
  *replay(): Steps<void> {
    const { file, pending } = this;
    for (const { offset, length, bytes } of pending?.updates ?? []) {
      if (bytes === undefined) yield* wait(file.writeZeroes(offset, length));
      else yield* wait(file.write(offset, bytes));
    }
    yield* this.growFile(this.fileSize);
    yield* wait(file.flush());
    this.pending = undefined;
    this.replayed = pending !== undefined;
    this.logBroken = false;
    yield* this.updateHeader({ logGuid: nilGuid });
    yield* wait(file.flush());
    this.#headerFloats = false;
  }
}

export function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
