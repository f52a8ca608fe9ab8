/**
 * Formats that find clusters through tables and put new ones at the end of the file: nothing is counted, and no space gets another use.
 *
 * Data comes first, then a flush, then the entries that show it: what a power cut leaves refers only to what is there.
 */
import { andThen, isPromise, type MaybePromise } from '../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../util/steps.js';
import type { BlockChild } from './child.js';
import { Req, unlimited, type BlockLimits, type LayerExtent, type OpenContext } from './driver.js';
import { BlockError, Errno, systemError } from './errors.js';
import type { EntryTables } from './entry-tables.js';
import type { Facets } from './facets.js';
import { MappedFormat, settled, type Allocation, type AskAgain, type HostRun } from './mapped-format.js';

/** What an entry says where it is not a host offset. */
export const Place = {
  /** Nothing here: the backing file, or zeroes. */
  NONE: -1,
  ZERO: -2,
  /** Stored, but not as the guest sees it. */
  ENCODED: -3,
} as const;

/** Reads and writes entries: host offsets, or one of {@link Place}. */
export interface EntryCodec {
  read(view: DataView, at: number): number;
  /** Never asked to write ENCODED. */
  write(view: DataView, at: number, place: number): void;
}

const zeroBuffer = 1 << 20;

export abstract class AppendingFormat extends MappedFormat {
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected readonly context: OpenContext<object>;
  protected readonly file: BlockChild;
  protected readonly cow: BlockChild | undefined;
  protected abstract readonly tables: EntryTables;
  protected abstract readonly entries: EntryCodec;
  /** Entries can say that a cluster reads as zero. */
  protected abstract readonly storesZero: boolean;
  protected abstract readonly facets: Partial<Facets>;
  /** Where the next cluster goes: the end of all that is used. */
  protected end = 0;
  /** New places begin at multiples of this many bytes. */
  protected alignment = 1;
  protected readOnly: boolean;
  readonly #mutex = new Mutex();
  /** Something was written, or a write has ended, since the last flush began. */
  #changed = true;
  readonly #mark = (): void => {
    this.#changed = true;
  };

  constructor(context: OpenContext<object>, file: BlockChild, cow: BlockChild | undefined, clusterSize: number, requestAlignment = 1) {
    super();
    this.context = context;
    this.file = file;
    this.cow = cow;
    this.clusterSize = clusterSize;
    this.limits = { ...unlimited, requestAlignment, writeZeroesAlignment: clusterSize, discardAlignment: clusterSize };
    this.readOnly = context.readOnly;
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.facets[name];
  }

  protected override debug(event: string): Promise<void> | undefined {
    return this.context.debugPoint(event);
  }

  /** Room for clusters or a table. */
  protected reserve(bytes: number, alignment = this.alignment): number {
    const offset = Math.ceil(this.end / alignment) * alignment;
    this.end = offset + bytes;
    return offset;
  }

  /** Takes back room at the very end; other room is lost. */
  protected giveBack(offset: number, bytes: number): void {
    if (this.end === offset + bytes) this.end = offset;
  }

  /** Whether a cluster may lie there. */
  protected abstract isPlace(offset: number): boolean;
  /** What comes before room is taken for a cluster, or its entry changed. */
  protected *claim(_cluster: number): Steps<void> {}
  /** What comes after all tables are durable, when writing ends. */
  protected *settle(): Steps<void> {}

  /** Runs `request` while no table changes beside it. */
  protected exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    return this.#mutex.run(() => andThen(request(), (result) =>
      (this.tables.crowded ? andThen(run(this.writeTables()), () => result) : result)));
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const { clusterSize } = this;
    const first = Math.floor(offset / clusterSize);
    const inCluster = offset - first * clusterSize;
    const wanted = Math.ceil((inCluster + length) / clusterSize);
    const spot = this.tables.lookup(first);
    if (spot instanceof Promise) return spot;
    if (spot === undefined) return this.extentOf(Place.NONE, 0, Math.min(length, this.tables.gap(first, wanted) * clusterSize - inCluster));
    const { place, count } = this.#runAt(spot.table.view, spot.at, Math.min(spot.left, wanted));
    return this.extentOf(place, inCluster, Math.min(length, count * clusterSize - inCluster));
  }

  /** What entries come to. `skip`: bytes into the first cluster. */
  protected extentOf(place: number, skip: number, length: number): LayerExtent {
    if (place === Place.NONE) return { kind: 'backing', length };
    if (place === Place.ZERO) return { kind: 'zero', length, allocated: true };
    if (place === Place.ENCODED) return { kind: 'data', length, compressed: true };
    return { kind: 'data', length, host: { child: this.file, offset: place + skip } };
  }

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    const extent = this.map(offset, length);
    if (extent instanceof Promise) return extent;
    if (extent.kind !== 'data' || extent.host === undefined) return undefined;
    return { child: this.file, offset: extent.host.offset, length: extent.length };
  }

  protected allocate(offset: number, length: number): MaybePromise<Allocation> {
    return this.exclusive(() => run(this.#allocate(offset, length)));
  }

  *#allocate(offset: number, length: number): Steps<Allocation> {
    const { clusterSize } = this;
    const present = yield* settled(() => this.writable(offset, length));
    if (present !== undefined) return { ...present, padBefore: 0, padAfter: 0, commit: () => undefined, cancel: () => undefined };
    const first = Math.floor(offset / clusterSize);
    yield* this.claim(first);
    const padBefore = offset - first * clusterSize;
    const wanted = Math.min(this.tables.span(first), Math.ceil((padBefore + length) / clusterSize));
    const spot = yield* settled(() => this.tables.lookup(first));
    const count = spot === undefined ? wanted : this.#freshFrom(spot.table.view, spot.at, wanted);
    const host = this.reserve(count * clusterSize);
    const taken = Math.min(length, count * clusterSize - padBefore);
    return {
      child: this.file, offset: host + padBefore, length: taken, padBefore, padAfter: count * clusterSize - padBefore - taken,
      commit: () => this.exclusive(() => run(this.#link(first, count, host))),
      cancel: () => this.giveBack(host, count * clusterSize),
    };
  }

  *#link(first: number, count: number, host: number): Steps<void> {
    const spot = yield* this.tables.lookupForWriting(first);
    for (let at = 0; at < count; at++) this.entries.write(spot.table.view, spot.at + at, host < 0 ? host : host + at * this.clusterSize);
    this.tables.changed(spot);
  }

  /** Entries from `at` on that say the same, or lie in a row. */
  #runAt(view: DataView, at: number, limit: number): { place: number; count: number } {
    const place = this.entries.read(view, at);
    if (place >= 0 && !this.isPlace(place)) throw new BlockError('CORRUPT_IMAGE', 'Invalid argument', { offset: place, errno: Errno.EINVAL });
    let count = 1;
    if (place === Place.ENCODED) return { place, count };
    while (count < limit && this.entries.read(view, at + count) === (place < 0 ? place : place + count * this.clusterSize)
      && (place < 0 || this.isPlace(place + count * this.clusterSize))) count++;
    return { place, count };
  }

  /** How many entries from `at` on name no place of plain data. */
  #freshFrom(view: DataView, at: number, limit: number): number {
    let count = 1;
    while (count < limit && this.entries.read(view, at + count) < 0) count++;
    return count;
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    this.#changed = true;
    const done = super.write(offset, source, flags);
    return isPromise(done) ? done.then(this.#mark) : done;
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    this.#changed = true;
    const done = super.writeZeroes(offset, length, flags);
    return isPromise(done) ? done.then(this.#mark) : done;
  }

  protected override zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return run(this.#zero(offset, offset + length, flags & (Req.MAY_UNMAP | Req.NO_FALLBACK)));
  }

  *#zero(start: number, end: number, flags: number): Steps<void> {
    for (let at = start; at < end;) {
      const extent = yield* settled(() => this.map(at, end - at));
      if (extent.kind === 'data' && extent.host !== undefined) yield* wait(this.file.writeZeroes(extent.host.offset, extent.length, flags));
      else if (extent.kind !== 'zero') yield* this.#zeroEntries(at, extent);
      at += extent.length;
    }
  }

  /** Clusters that hold nothing plain: nothing (shown through or not), or something encoded. */
  *#zeroEntries(offset: number, { kind, length }: LayerExtent): Steps<void> {
    const { clusterSize } = this;
    if (!this.storesZero && kind === 'backing' && this.cow === undefined) return;
    if (!this.storesZero && this.cow !== undefined) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    const place = this.storesZero ? Place.ZERO : Place.NONE;
    const end = Math.ceil((offset + length) / clusterSize);
    for (let first = Math.floor(offset / clusterSize); first < end;) {
      const from = first;
      const count = Math.min(this.tables.span(from), end - from);
      yield* wait(this.exclusive(() => run(this.#changeEntries(from, count, place))));
      first += count;
    }
  }

  *#changeEntries(first: number, count: number, place: number): Steps<void> {
    yield* this.claim(first);
    yield* this.#link(first, count, place);
  }

  override flush(): MaybePromise<void> {
    return this.readOnly ? undefined : this.exclusive(() => run(this.flushAll()));
  }

  /** Lets `look` read, and change, the tables on disk; nobody else changes any meanwhile. */
  protected lookAtDisk<T>(look: () => Promise<T>): MaybePromise<T> {
    return this.exclusive(async () => {
      if (!this.readOnly) await run(this.flushAll());
      const found = await look();
      this.tables.clear();
      return found;
    });
  }

  /** Brings changed tables to the disk, behind a flush of what they refer to. The caller holds {@link exclusive}. */
  protected *writeTables(): Steps<void> {
    if (!this.tables.dirty) return;
    yield* wait(this.file.flush());
    yield* this.tables.writeBack();
  }

  /** Makes everything durable. The caller holds {@link exclusive}. */
  protected *flushAll(): Steps<void> {
    if (!this.#changed && !this.tables.dirty) return;
    this.#changed = false;
    try {
      yield* this.writeTables();
      yield* wait(this.file.flush());
    } catch (error) {
      this.#changed = true;
      throw error;
    }
  }

  *#finish(): Steps<void> {
    yield* this.flushAll();
    yield* this.settle();
  }

  /** Makes a range read as zero by whatever means. */
  protected async zeroRange(start: number, end: number): Promise<void> {
    try {
      if (end > start) await this.writeZeroes(start, end - start, 0);
    } catch (error) {
      if (!(error instanceof BlockError) || error.code !== 'NOT_SUPPORTED') throw error;
      const zeroes = new Uint8Array(Math.min(zeroBuffer, end - start));
      for (let at = start; at < end; at += zeroes.length) await this.write(at, zeroes.subarray(0, Math.min(zeroes.length, end - at)), 0);
    }
  }

  override async reopen({ readOnly }: { readonly readOnly: boolean }): Promise<void> {
    if (readOnly && !this.readOnly) await this.exclusive(() => run(this.#finish()));
    this.readOnly = readOnly;
  }

  async close(): Promise<void> {
    if (!this.readOnly) await this.exclusive(() => run(this.#finish()));
  }
}
