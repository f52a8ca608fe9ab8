/**
 * An open image: header, block allocation table, space, and the order in which they reach the disk.
 *
 * Data is flushed before the table entries that refer to it are written. Space given up is punched out, and used again, only when the
 * table without it is on disk. The mark of use is on disk before anything else changes.
 *
 * Methods that may wait are coroutines ({@link Steps}). What changes anything runs inside {@link ParallelsImage.exclusive}.
 */
import type { BlockChild } from '../../block/child.js';
import type { Preallocation } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { TableCache, type CachedTable } from '../../block/table-cache.js';
import { isZero } from '../../platform/bytes.js';
import { andThen, isPromise, type MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { dataStart, headerSize, inUseMark, sectorSize, serialiseHeader, type ParallelsHeader } from './header.js';
import { Space, type Clusters } from './space.js';

const pageSize = 4096;
const cachedPages = 2048;
const scanSize = 1 << 20;
/** Freed space waits for a flush; beyond this much it is made to come. */
const mostFreedBytes = 64 * 1024 * 1024;

export interface Growth { readonly step: number; readonly mode: Preallocation }

/** What a look at the whole table found. */
export interface Survey {
  readonly space: Space;
  /** Numbers of entries that point outside the data area, and of those that point where an earlier one does. */
  readonly outside: readonly number[];
  readonly duplicates: readonly number[];
  readonly allocated: number;
  /** Entries that do not follow their predecessor on disk. */
  readonly fragmented: number;
  /** Byte behind the last cluster in use. */
  readonly end: number;
  /** Entry of the guest's last cluster on disk, if it has any. */
  readonly last: number | undefined;
}

export class ParallelsImage {
  readonly file: BlockChild;
  readonly clusterSize: number;
  readonly growth: Growth;
  /** Byte where clusters begin. */
  start: number;
  /** The header says so, too. */
  startStated: boolean;
  /** The last writer did not close the image. */
  unclean: boolean;
  /** Byte ranges of the file's data area taken by the format extension. */
  readonly reserved: { offset: number; length: number }[] = [];
  header: ParallelsHeader;
  /** Present while the image is open for writing. */
  space: Space | undefined;
  /** Resolves when reads that began earlier are done. */
  readsSettled: () => MaybePromise<void> = () => undefined;
  readonly #pages: TableCache;
  readonly #mutex = new Mutex();
  readonly #entryUnit: number;
  #claimed = false;
  #freed: Clusters[] = [];
  #freedBytes = 0;

  constructor(file: BlockChild, header: ParallelsHeader, growth: Growth) {
    this.file = file;
    this.header = header;
    this.growth = growth;
    this.clusterSize = header.clusterSectors * sectorSize;
    this.unclean = header.inUse === inUseMark;
    this.#entryUnit = header.countsClusters ? this.clusterSize : sectorSize;
    const { sector, stated } = dataStart(header, file.size);
    this.start = sector * sectorSize;
    this.startStated = stated;
    this.#pages = new TableCache(pageSize, cachedPages, {
      load: (offset, target) => this.file.read(offset, target),
      store: (page) => this.#storePage(page),
    });
  }

  /** Bytes of the disk. */
  get size(): number { return this.header.sectors * sectorSize; }

  get #tableBytes(): number { return headerSize + this.header.tableEntries * 4; }

  /** The image is marked as being written to. */
  get claimed(): boolean { return this.#claimed; }

  /** Runs `request` while no allocation and no flush of tables runs beside it. */
  exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    return this.#mutex.run(() => andThen(request(), (result) =>
      this.#pages.crowded || this.#freedBytes > mostFreedBytes ? andThen(run(this.flushTables()), () => result) : result));
  }

  /** Byte of the file where a cluster lies; 0: nowhere. A promise: ask again when it resolves. */
  hostOf(cluster: number): number | Promise<void> {
    if (cluster >= this.header.tableEntries) return 0;
    const at = headerSize + cluster * 4;
    const place = at - (at % pageSize);
    let page = this.#pages.get(place);
    if (page === undefined) {
      const loading = this.#pages.fetch(place);
      if (isPromise(loading)) return loading;
      page = this.#pages.get(place)!;
    }
    const host = page.view.getUint32(at - place, true) * this.#entryUnit;
    if (host > Number.MAX_SAFE_INTEGER) throw systemError(Errno.EIO);
    return host;
  }

  /** Lets `count` clusters from `cluster` on lie at `host` one behind the other, or nowhere (0). */
  *link(cluster: number, count: number, host: number): Steps<void> {
    for (let index = cluster; index < cluster + count; index++) {
      const at = headerSize + index * 4;
      const page = yield* this.#pages.load(at - (at % pageSize));
      page.view.setUint32(at % pageSize, host === 0 ? 0 : (host + (index - cluster) * this.clusterSize) / this.#entryUnit, true);
      this.#pages.dirty(page);
    }
  }

  /** Marks the image as written to, before the first change. The format extension, which does not follow, is gone then. */
  *claim(): Steps<void> {
    if (this.#claimed) return;
    this.space ??= (yield* this.survey()).space;
    this.header = { ...this.header, inUse: inUseMark, extensionOffset: 0 };
    yield* this.writeHeader();
    this.#claimed = true;
    for (const { offset, length } of this.reserved.splice(0).sort((a, b) => b.offset - a.offset)) {
      yield* wait(offset + length === this.file.size ? this.file.resize(offset) : this.file.discard(offset, length));
      this.space.free(this.clustersOf(offset, length));
    }
  }

  *writeHeader(): Steps<void> {
    yield* wait(this.file.write(0, serialiseHeader(this.header)));
    yield* wait(this.file.flush());
  }

  /** Room for up to `count` clusters in a row. */
  *allocate(count: number, after: number | undefined): Steps<{ host: number; count: number }> {
    const space = this.space!;
    const next = after === undefined || (after - this.start) % this.clusterSize !== 0 ? undefined : (after - this.start) / this.clusterSize;
    const taken = space.take(count, next);
    const host = this.start + taken.first * this.clusterSize;
    const end = host + taken.count * this.clusterSize;
    if (end / this.#entryUnit > 0xffff_ffff) {
      space.free(taken);
      throw systemError(Errno.EFBIG);
    }
    if (end > this.file.size) yield* this.#growFile(end, taken);
    return { host, count: taken.count };
  }

  *#growFile(end: number, taken: Clusters): Steps<void> {
    const { step, mode } = this.growth;
    try {
      yield* wait(this.file.resize(end + step, { preallocation: mode, exact: false }));
    } catch (error) {
      // A host that cannot reserve so much, or at all, still has room for what is needed.
      if (!(error instanceof BlockError)) throw error;
      yield* wait(this.file.resize(end, { exact: false }).catch((failure: unknown) => {
        this.space!.free(taken);
        throw failure;
      }));
    }
  }

  /** Gives a cluster that lies somewhere another place, `at` if that is free, with what it holds. The old one is not freed. */
  *moveCluster(cluster: number, at?: number): Steps<void> {
    const from = yield* this.hostOfNow(cluster);
    const bytes = new Uint8Array(Math.min(this.clusterSize, 1 << 20));
    const { host } = yield* this.allocate(1, at);
    try {
      for (let done = 0; done < this.clusterSize; done += bytes.length) {
        const piece = bytes.subarray(0, Math.min(bytes.length, this.clusterSize - done));
        yield* wait(this.file.read(from + done, piece));
        yield* wait(this.file.write(host + done, piece));
      }
      yield* wait(this.file.flush());
    } catch (error) {
      this.cancel(host, 1);
      throw error;
    }
    yield* this.link(cluster, 1, host);
  }

  /** {@link hostOf}, waited for. */
  *hostOfNow(cluster: number): Steps<number> {
    for (;;) {
      const host = this.hostOf(cluster);
      if (typeof host === 'number') return host;
      yield* wait(host);
    }
  }

  /** Gives room back that was never linked. */
  cancel(host: number, count: number): void {
    this.space!.free({ first: (host - this.start) / this.clusterSize, count });
  }

  /** Unlinks up to `count` clusters from `cluster` on; their room is free after the next flush. */
  *unlink(cluster: number, count: number): Steps<void> {
    for (let index = cluster; index < Math.min(cluster + count, this.header.tableEntries); index++) {
      const host = yield* this.hostOfNow(index);
      if (host === 0) continue;
      yield* this.link(index, 1, 0);
      this.free(this.clustersOf(host, this.clusterSize));
    }
  }

  /** Room that nothing refers to any more; it is used again after the next flush. */
  free(clusters: Clusters): void {
    const last = this.#freed.at(-1);
    if (last !== undefined && last.first + last.count === clusters.first) this.#freed[this.#freed.length - 1] = { first: last.first, count: last.count + clusters.count };
    else this.#freed.push(clusters);
    this.#freedBytes += clusters.count * this.clusterSize;
  }

  /** Clusters that a range of the file touches. */
  clustersOf(offset: number, length: number): Clusters {
    const first = Math.floor((offset - this.start) / this.clusterSize);
    return { first, count: Math.ceil((offset + length - this.start) / this.clusterSize) - first };
  }

  /** Everything acknowledged is durable. */
  *flush(): Steps<void> {
    if (this.#pages.dirtyCount > 0 || this.#freed.length > 0) yield* this.flushTables();
    else yield* wait(this.file.flush());
  }

  /** Forgets pages of the table, which must all be written back. */
  forgetPages(): void {
    this.#pages.clear();
  }

  *flushTables(): Steps<void> {
    yield* wait(this.file.flush());
    yield* this.#pages.writeBack();
    yield* wait(this.file.flush());
    if (this.#freed.length === 0) return;
    const freed = this.#freed.splice(0);
    this.#freedBytes = 0;
    yield* wait(this.readsSettled());
    for (const clusters of freed) {
      const offset = this.start + clusters.first * this.clusterSize;
      yield* wait(this.file.discard(offset, Math.min(clusters.count * this.clusterSize, Math.max(0, this.file.size - offset))));
      this.space?.free(clusters);
    }
  }

  /** Writes everything back, cuts the file behind the last cluster and takes the mark off. */
  *shutDown(): Steps<void> {
    if (!this.#claimed) return;
    yield* this.flushTables();
    const end = this.start + this.space!.end * this.clusterSize;
    if (this.file.size > end) yield* wait(this.file.resize(end));
    this.header = { ...this.header, inUse: 0 };
    yield* this.writeHeader();
    this.#claimed = false;
    this.unclean = false;
  }

  /** Looks at every entry of the table, which must not be changing. */
  *survey(): Steps<Survey> {
    const { file, clusterSize, start } = this;
    const space = new Space();
    const firsts = new Space();
    const outside: number[] = [];
    const duplicates: number[] = [];
    for (const { offset, length } of this.reserved) space.use(this.clustersOf(offset, length));
    let allocated = 0;
    let fragmented = 0;
    let end = start + space.end * clusterSize;
    let previous = 0;
    let last: number | undefined;
    let lastHost = 0;
    yield* this.#pages.writeBack();
    const tableEnd = Math.min(this.#tableBytes, file.size - (file.size % 4));
    for (let at = headerSize; at < tableEnd; at += scanSize) {
      const chunk = new Uint8Array(Math.min(scanSize, tableEnd - at));
      yield* wait(file.read(at, chunk));
      if (isZero(chunk)) {
        previous = 0;
        continue;
      }
      const view = viewOf(chunk);
      for (let byte = 0; byte < chunk.length; byte += 4) {
        const host = view.getUint32(byte, true) * this.#entryUnit;
        if (host === 0) {
          previous = 0;
          continue;
        }
        const entry = (at + byte - headerSize) / 4;
        allocated++;
        if (previous !== 0 && host !== previous + clusterSize) fragmented++;
        previous = host;
        if (host < start || host + clusterSize > file.size) {
          outside.push(entry);
          continue;
        }
        end = Math.max(end, host + clusterSize);
        if (host > lastHost) [last, lastHost] = [entry, host];
        const clusters = this.clustersOf(host, clusterSize);
        if (firsts.isUsed(clusters.first)) duplicates.push(entry);
        firsts.use({ first: clusters.first, count: 1 });
        space.use(clusters);
      }
    }
    return { space, outside, duplicates, allocated, fragmented, end, last };
  }

  #storePage({ offset, bytes }: CachedTable): MaybePromise<void> {
    const from = Math.max(offset, headerSize);
    const to = Math.min(offset + pageSize, this.#tableBytes);
    return this.file.write(from, bytes.subarray(from - offset, to - offset));
  }
}
