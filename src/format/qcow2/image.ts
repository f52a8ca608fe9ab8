/**
 * An open qcow2 image: header, tables in memory, caches, children, and the order in which they reach the disk.
 *
 * Methods that may wait are coroutines ({@link Steps}): `yield*` them, or `run()` them for a MaybePromise.
 * Everything that changes tables runs inside {@link Qcow2Image.exclusive}; the other methods do not take it themselves.
 */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import { andThen, isPromise, type MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { TableCache, type CachedTable } from '../../block/table-cache.js';
import type { Qcow2Encryption } from './encryption.js';
import { geometryOf, hex, type Geometry } from './geometry.js';
import { hasFeature, Incompatible, maxL1Bytes, serialiseHeader, type Qcow2Header } from './header.js';
import { MetadataMap, Structure, structureName } from './overlap.js';
import { Refcounts } from './refcount.js';
import { readSnapshotTable, type SnapshotTable } from './snapshot-table.js';
import { entryHi, entryLo, entryOffset } from './tables.js';
import { viewOf } from '../../util/view.js';

/** Why clusters are given up; decides (by option) whether the host hears of it. */
export type FreeReason = 'never' | 'request' | 'snapshot' | 'other' | 'always';

/** Choices that hold while the image is open. */
export interface ImageSettings {
  lazyRefcounts: boolean;
  /** Whether the host hears of space that became free, by reason. */
  passDiscard: Readonly<Record<FreeReason, boolean>>;
  /** A discarded cluster keeps its place in the file (and reads as zero). */
  discardKeepsReference: boolean;
  /** Structures that no write may hit (mask of Structure). */
  overlapCheck: number;
  /** Tables cached. */
  l2Slices: number;
  refcountBlocks: number;
  sliceSize: number;
}

export interface ImageParts {
  readonly context: OpenContext<object>;
  readonly header: Qcow2Header;
  readonly file: BlockChild;
  readonly dataFile: BlockChild;
  readonly backing: BlockChild | undefined;
  readonly settings: ImageSettings;
  readonly encryption?: Qcow2Encryption | undefined;
}

export class Qcow2Image {
  readonly context: OpenContext<object>;
  geometry: Geometry;
  settings: ImageSettings;
  /** Current header; change it with {@link updateHeader}. */
  header: Qcow2Header;
  readOnly: boolean;
  /** Holds all metadata. */
  readonly file: BlockChild;
  /** Holds guest data: `file`, or the external data file. */
  readonly dataFile: BlockChild;
  readonly backing: BlockChild | undefined;
  /** Of guest data; metadata is never encrypted. */
  readonly encryption: Qcow2Encryption | undefined;
  /** The active L1 table as on disk (big endian), header.l1Size * 8 bytes. Write it back with {@link writeL1}. */
  l1: DataView = new DataView(new ArrayBuffer(0));
  l2: TableCache;
  refcounts: Refcounts;
  readonly metadata: MetadataMap;
  /** Clusters were allocated ahead of being written: the file may know that parts of them are holes. */
  preallocated = false;
  /** Resolves when reads of guest data that are under way are done; set by the data path. */
  readsSettled: () => MaybePromise<void> = () => undefined;
  readonly #mutex = new Mutex();
  #snapshots: SnapshotTable = { entries: [], size: 0 };
  #dead = false;
  #reportedHarmless = false;
  #marking: MaybePromise<void> = undefined;
  /** Where metadata lies that {@link metadata} does not know by cluster: few and possibly long, or invented by a hostile image. */
  #ranges: (readonly [structure: number, offset: number, length: number])[] = [];
  #inactiveTables: number[] = [];
  #inactiveStale = true;

  /** Nothing is read yet: {@link reload} does. */
  constructor(parts: ImageParts) {
    this.context = parts.context;
    this.header = parts.header;
    this.settings = parts.settings;
    this.geometry = geometryOf(parts.header, parts.settings.sliceSize);
    this.readOnly = parts.context.readOnly;
    this.file = parts.file;
    this.dataFile = parts.dataFile;
    this.backing = parts.backing;
    this.encryption = parts.encryption;
    this.metadata = new MetadataMap(this.geometry.clusterSize);
    this.l2 = this.#newL2Cache();
    this.refcounts = new Refcounts(this, new DataView(new ArrayBuffer(0)), parts.settings.refcountBlocks);
  }

  /** Virtual size in bytes. */
  get size(): number {
    return this.header.size;
  }

  /** The image was found corrupt while it was written to: it takes no more requests. */
  get dead(): boolean {
    return this.#dead;
  }

  /** Internal snapshots; the parts that change them keep this current. */
  get snapshots(): SnapshotTable {
    return this.#snapshots;
  }
  set snapshots(table: SnapshotTable) {
    this.#snapshots = table;
    this.#mapRanges();
    this.#inactiveStale = true;
  }

  /** Runs `request` while no allocation, no table update and no metadata flush runs beside it. Guest writes in place go on. */
  exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    return this.#mutex.run(() => {
      this.l2.reuse();
      return andThen(request(), (result) =>
        this.l2.crowded || this.refcounts.crowded ? andThen(run(this.flushMetadata()), () => result) : result);
    });
  }

  /** Changes settings of the open image. */
  *change(settings: ImageSettings): Steps<void> {
    if (!this.readOnly) {
      yield* this.flush();
      if (!settings.lazyRefcounts) yield* this.markClean();
    }
    const newSlices = settings.sliceSize !== this.settings.sliceSize;
    this.settings = settings;
    this.refcounts.cache.capacity = settings.refcountBlocks;
    this.l2.capacity = settings.l2Slices;
    this.#inactiveStale = true;
    if (!newSlices) return;
    this.geometry = geometryOf(this.header, settings.sliceSize);
    this.l2 = this.#newL2Cache();
  }

  #newL2Cache(): TableCache {
    return new TableCache(this.geometry.sliceSize, this.settings.l2Slices, {
      load: (offset, target) => this.announced('l2_load', () => this.file.read(offset, target)),
      store: (slice) => this.announced('l2_update', () => run(this.writeMetadata(slice.offset, slice.bytes, Structure.ACTIVE_L2))),
    });
  }

  debug(event: string): Promise<void> | undefined {
    return this.context.debugPoint(event);
  }

  /** Runs `request` after the moment `event` has passed. */
  announced(event: string, request: () => MaybePromise<void>): MaybePromise<void> {
    const pause = this.context.debugPoint(event);
    return pause === undefined ? request() : pause.then(request);
  }

  /** A line for people that belongs to no request. */
  report(line: string, kind: 'note' | 'error' = 'note'): void {
    this.context.report(line, kind);
  }

  passesDiscard(reason: FreeReason): boolean {
    return this.settings.passDiscard[reason];
  }

  // -- L1 and L2 ---------------------------------------------------------------------------------------------------------------

  /** Brings the slice at a host offset into memory; undefined at once if that needed no waiting. For lookups, which hold it no longer than that. */
  fetchSlice(place: number): MaybePromise<void> {
    if (!this.#mutex.locked) this.l2.reuse();
    return this.l2.fetch(place);
  }

  /** The slice that holds entry `index` of the L2 table at host offset `table`. */
  *loadSlice(table: number, index: number): Steps<CachedTable> {
    return yield* this.l2.load(this.sliceOffset(table, index));
  }

  sliceOffset(table: number, index: number): number {
    return table + Math.floor(index / this.geometry.sliceEntries) * this.geometry.sliceSize;
  }

  /** Host offset of the L2 table that an L1 entry names; 0: none. @throws where it is not aligned */
  l2Offset(l1Index: number): number {
    const offset = entryOffset(entryHi(this.l1, l1Index), entryLo(this.l1, l1Index));
    if (offset % this.geometry.clusterSize !== 0) {
      throw this.signalCorruption(`L2 table offset ${hex(offset)} unaligned (L1 index: ${hex(l1Index)})`, { fatal: true });
    }
    return offset;
  }

  /** Writes L1 entries [first, first + count) from {@link l1} to disk, in whole sectors, and makes them durable unless told not to. */
  *writeL1(first: number, count: number, durably = true): Steps<void> {
    const start = first - (first % 64);
    const end = Math.min(Math.ceil((first + count) / 64) * 64, this.l1.byteLength / 8);
    const bytes = new Uint8Array(this.l1.buffer, this.l1.byteOffset + start * 8, (end - start) * 8);
    yield* wait(this.debug('l1_update'));
    yield* this.writeMetadata(this.header.l1Offset + start * 8, bytes, Structure.ACTIVE_L1);
    if (durably) yield* wait(this.file.flush());
  }

  /** Makes room for at least `entries` L1 entries: the header is switched to a larger table, the old one is freed. */
  *growL1(entries: number, exact = false): Steps<void> {
    const old = { offset: this.header.l1Offset, size: this.header.l1Size };
    if (entries <= old.size) return;
    let size = exact ? entries : Math.max(old.size, 1);
    while (size < entries) size = Math.ceil(size * 3 / 2);
    if (size * 8 > maxL1Bytes) throw systemError(Errno.EFBIG);
    const bytes = new Uint8Array(size * 8);
    bytes.set(new Uint8Array(this.l1.buffer, this.l1.byteOffset, old.size * 8));
    yield* wait(this.debug('l1_grow_alloc_table'));
    const offset = yield* this.refcounts.allocate(bytes.length);
    try {
      yield* this.refcounts.cache.writeBack();
      yield* wait(this.debug('l1_grow_write_table'));
      yield* this.writeMetadata(offset, bytes);
      yield* wait(this.file.flush());
      yield* wait(this.debug('l1_grow_activate_table'));
      yield* this.replaceL1(offset, bytes);
      yield* wait(this.file.flush());
    } catch (error) {
      yield* this.refcounts.update(offset, bytes.length, -1, 'other');
      throw error;
    }
    if (old.size > 0) yield* this.refcounts.update(old.offset, old.size * 8, -1, 'other');
  }

  /** Switches to another active L1 table (already on disk at `offset`), in memory and in the header. Nothing is freed. */
  *replaceL1(offset: number, bytes: Uint8Array): Steps<void> {
    const { l1Offset, l1Size } = this.header;
    yield* this.updateHeader({ l1Offset: offset, l1Size: bytes.length / 8 });
    this.metadata.remove(Structure.ACTIVE_L1, l1Offset, l1Size * 8);
    this.#mapL2('remove');
    this.l1 = viewOf(bytes);
    this.metadata.add(Structure.ACTIVE_L1, offset, bytes.length);
    this.#mapL2('add');
  }

  // -- Order of writes ---------------------------------------------------------------------------------------------------------

  /**
   * Brings changed metadata to the disk in order: refcounts, flush (guest data too), L2 tables; then lowers refcounts of clusters that
   * were given up. The last writes are not flushed.
   */
  *flushMetadata(): Steps<void> {
    yield* this.#writeBack();
    if (this.refcounts.hasReleases) {
      yield* this.settleReleases();
      yield* this.writeRefcounts();
    }
  }

  /** Makes clusters that were given up available: the tables that gave them up are made durable first. */
  *settleReleases(): Steps<void> {
    yield* this.#writeBack();
    yield* wait(this.file.flush());
    yield* wait(this.readsSettled());
    yield* this.refcounts.release();
  }

  /** Makes everything durable. */
  *flush(): Steps<void> {
    yield* this.flushMetadata();
    yield* this.#flushChildren();
  }

  *#writeBack(): Steps<void> {
    if (this.#dead) throw systemError(Errno.ENOMEDIUM);
    yield* this.writeRefcounts();
    if (this.l2.dirtyCount === 0) return;
    yield* this.#flushChildren();
    yield* this.l2.writeBack();
  }

  /** Writes changed refcounts. Lazy ones wait until the image is closed: until then the dirty bit says that they are stale. */
  *writeRefcounts(): Steps<void> {
    if (!hasFeature(this.header, Incompatible.DIRTY) || this.refcounts.crowded) yield* this.refcounts.cache.writeBack();
  }

  *#flushChildren(): Steps<void> {
    if (this.dataFile !== this.file) yield* wait(this.dataFile.flush());
    yield* wait(this.file.flush());
  }

  /** Nothing more is read or written: what is in memory is not what the file holds. The dirty bit lets the next writer mend it. */
  abandon(): void {
    this.#dead = true;
  }

  /** Brings everything to the disk for the last time, as far as possible. What failed is reported, and the first failure thrown. */
  *shutDown(): Steps<void> {
    yield* wait(this.#marking);
    if (this.#dead || this.readOnly) return;
    let failure: unknown;
    const attempt = function* (image: Qcow2Image, cache: string, steps: () => Steps<void>): Steps<void> {
      try {
        yield* steps();
        yield* wait(image.file.flush());
      } catch (error) {
        failure ??= error;
        image.report(`Failed to flush the ${cache} cache: ${strerror(error instanceof BlockError ? error.errno : Errno.EIO)}`, 'error');
      }
    };
    const pending = this.l2.dirtyCount > 0 || this.refcounts.hasReleases;
    yield* attempt(this, 'L2 table', () => (pending ? this.flushMetadata() : nothing()));
    yield* attempt(this, 'refcount block', () => this.refcounts.cache.writeBack());
    if (failure !== undefined) throw failure;
    try {
      yield* this.markClean();
    } catch { /* the dirty bit stays: the next writer looks the image over */ }
  }

  /** Sets the dirty bit, durably, where lazy refcounts (or `always`) ask for it. Comes before the first table update that depends on it. */
  *markDirty(always = false): Steps<void> {
    if (!(always || this.settings.lazyRefcounts) || hasFeature(this.header, Incompatible.DIRTY)) return;
    yield* this.#writeFeatures(this.header.incompatible | BigInt(Incompatible.DIRTY));
    yield* wait(this.file.flush());
  }

  /** Clears the dirty bit, after everything else is durable. */
  *markClean(): Steps<void> {
    yield* this.refcounts.cache.writeBack();
    if (!hasFeature(this.header, Incompatible.DIRTY)) return;
    yield* this.flush();
    yield* this.#writeFeatures(this.header.incompatible & ~BigInt(Incompatible.DIRTY));
    yield* wait(this.file.flush());
  }

  *#writeFeatures(incompatible: bigint): Steps<void> {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, incompatible);
    yield* wait(this.file.write(72, bytes));
    this.header = { ...this.header, incompatible };
  }

  /** Rewrites the header cluster with `patch` applied. The change is not flushed. */
  *updateHeader(patch: Partial<Qcow2Header>): Steps<void> {
    const header = { ...this.header, ...patch };
    yield* wait(this.file.write(0, serialiseHeader(header)));
    this.header = header;
    this.#mapRanges();
  }

  // -- Damage ------------------------------------------------------------------------------------------------------------------

  /** Writes metadata at a host offset after the overlap check; `allowed` names the structures that may lie there. */
  *writeMetadata(offset: number, bytes: Uint8Array, allowed = 0): Steps<void> {
    if (this.#dead) throw systemError(Errno.ENOMEDIUM);
    yield* this.writeNewMetadata(offset, bytes, allowed);
  }

  /** The same for structures that a repair makes anew, even if it was what found the image {@link dead}. */
  *writeNewMetadata(offset: number, bytes: Uint8Array, allowed = 0): Steps<void> {
    if (this.#inactiveStale) yield* this.#mapInactiveL2();
    this.#guard(offset, bytes.length, allowed);
    yield* wait(this.file.write(offset, bytes));
  }

  /** Fails with the peer's message (and sets the corrupt bit) where a write to [offset, offset + length) would hit metadata. */
  checkOverlap(offset: number, length: number, allowed = 0): void {
    if (this.#dead) throw systemError(Errno.ENOMEDIUM);
    this.#guard(offset, length, allowed);
  }

  #guard(offset: number, length: number, allowed: number): void {
    let hit = this.metadata.find(offset, length);
    for (const [structure, start, bytes] of this.#ranges) if (start < offset + length && offset < start + bytes) hit |= structure;
    hit &= this.settings.overlapCheck & ~allowed;
    if (hit === 0) return;
    throw this.signalCorruption(`Preventing invalid write on metadata (overlaps with ${structureName(hit)})`, { fatal: true, offset, length });
  }

  /** Notes where L2 tables of snapshots lie, if the overlap check is to guard them. */
  *#mapInactiveL2(): Steps<void> {
    const { clusterSize } = this.geometry;
    for (const offset of this.#inactiveTables) this.metadata.remove(Structure.INACTIVE_L2, offset, clusterSize);
    this.#inactiveTables = [];
    const guarded = (this.settings.overlapCheck & Structure.INACTIVE_L2) !== 0;
    for (const { l1Offset, l1Size } of guarded ? this.#snapshots.entries : []) {
      if (l1Size * 8 > maxL1Bytes) throw systemError(Errno.EFBIG);
      if (l1Offset % clusterSize !== 0) throw systemError(Errno.EINVAL);
      const bytes = new Uint8Array(l1Size * 8);
      const view = viewOf(bytes);
      yield* wait(this.file.read(l1Offset, bytes));
      for (let index = 0; index < l1Size; index++) {
        const offset = entryOffset(entryHi(view, index), entryLo(view, index));
        if (offset !== 0) this.#inactiveTables.push(offset);
      }
    }
    for (const offset of this.#inactiveTables) this.metadata.add(Structure.INACTIVE_L2, offset, clusterSize);
    this.#inactiveStale = false;
  }

  #mapRanges(): void {
    const { bitmaps, snapshotsOffset } = this.header;
    const { entries, size } = this.#snapshots;
    this.#ranges = entries.map(({ l1Offset, l1Size }) => [Structure.INACTIVE_L1, l1Offset, l1Size * 8]);
    if (size > 0) this.#ranges.push([Structure.SNAPSHOT_TABLE, snapshotsOffset, size]);
    if (bitmaps !== undefined) this.#ranges.push([Structure.BITMAP_DIRECTORY, bitmaps.directoryOffset, bitmaps.directorySize]);
  }

  /**
   * Reports damage. `fatal`: the image is marked corrupt and takes no more requests (not where it is read-only).
   * @throws always, EIO; the cause says what is wrong
   */
  signalCorruption(message: string, options: { readonly fatal: boolean; readonly offset?: number; readonly length?: number }): never {
    const { offset, length } = options;
    const fatal = options.fatal && !this.readOnly;
    if (fatal && !this.#dead) {
      this.report(`qcow2: Marking image as corrupt: ${message}; further corruption events will be suppressed`);
      this.#dead = true;
      this.#marking = this.#markCorrupt();
    } else if (!fatal && !this.#dead && !this.#reportedHarmless) {
      this.#reportedHarmless = true;
      this.report(`qcow2: Image is corrupt: ${message}; further non-fatal corruption events will be suppressed`);
    }
    throw new BlockError('CORRUPT_IMAGE', strerror(Errno.EIO), {
      node: this.context.nodeName, errno: Errno.EIO, ...(offset !== undefined && { offset }), ...(length !== undefined && { length }),
    }, new Error(message));
  }

  #markCorrupt(): MaybePromise<void> {
    try {
      const marked = run(this.updateHeader({ incompatible: this.header.incompatible | BigInt(Incompatible.CORRUPT) }));
      return isPromise(marked) ? marked.catch(() => undefined) : undefined;
    } catch {
      return undefined;
    }
  }

  // -- Reading the tables ------------------------------------------------------------------------------------------------------

  /** Forgets all cached tables and reads L1, refcount table and snapshot table anew. */
  *reload(): Steps<void> {
    this.l2.clear();
    this.refcounts.cache.clear();
    this.refcounts.firstFree = 0;
    this.refcounts.nextByte = 0;
    const { header, file, metadata } = this;
    const { clusterSize } = this.geometry;
    metadata.clear();
    metadata.add(Structure.MAIN_HEADER, 0, clusterSize);
    const table = new Uint8Array(header.refcountTableClusters * clusterSize);
    yield* wait(file.read(header.refcountTableOffset, table));
    this.refcounts.table = viewOf(table);
    metadata.add(Structure.REFCOUNT_TABLE, header.refcountTableOffset, table.length);
    for (const index of this.refcounts.blocks()) metadata.add(Structure.REFCOUNT_BLOCK, this.refcounts.blockOffset(index), clusterSize);
    const l1 = new Uint8Array(header.l1Size * 8);
    yield* wait(file.read(header.l1Offset, l1));
    this.l1 = viewOf(l1);
    metadata.add(Structure.ACTIVE_L1, header.l1Offset, l1.length);
    this.#mapL2('add');
    this.snapshots = header.snapshotCount > 0 && !this.context.mode.check ? yield* readSnapshotTable(file, header) : { entries: [], size: 0 };
    try {
      yield* this.#mapInactiveL2();
    } catch { /* damaged snapshots: told when something is written */ }
  }

  /** Takes on refcount structures of another width, which are on disk already: the header is switched to them. */
  *switchRefcounts(patch: Pick<Qcow2Header, 'refcountOrder' | 'refcountTableOffset' | 'refcountTableClusters'>): Steps<void> {
    yield* this.updateHeader(patch);
    yield* wait(this.file.flush());
    this.geometry = geometryOf(this.header, this.settings.sliceSize);
    this.refcounts = new Refcounts(this, new DataView(new ArrayBuffer(0)), this.settings.refcountBlocks);
    yield* this.reload();
  }

  /** The host clusters have another use now. */
  forgetTables(offset: number, length: number): void {
    const found = this.metadata.find(offset, length);
    if ((found & Structure.ACTIVE_L2) !== 0) {
      this.l2.drop(offset, length);
      this.metadata.remove(Structure.ACTIVE_L2, offset, length);
    }
    if ((found & Structure.REFCOUNT_BLOCK) !== 0) this.refcounts.cache.drop(offset, length);
  }

  #mapL2(change: 'add' | 'remove'): void {
    const { clusterSize } = this.geometry;
    for (let index = 0; index < this.l1.byteLength / 8; index++) {
      const offset = entryOffset(entryHi(this.l1, index), entryLo(this.l1, index));
      if (offset !== 0) this.metadata[change](Structure.ACTIVE_L2, offset, clusterSize);
    }
  }
}

function* nothing(): Steps<void> { /* a step that does nothing */ }
