/**
 * An open dynamic or differencing image: its table of blocks, their sector bitmaps, and the order in which both reach the disk.
 *
 * Methods that may wait are coroutines: `yield*` them. Whatever changes the table, a bitmap or the end of the file runs inside
 * {@link SparseImage.exclusive}; the other methods do not take it themselves.
 */
import type { BlockChild } from '../../block/child.js';
import { TableCache } from '../../block/table-cache.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { sectorSize } from './geometry.js';
import { footerSize, type DynamicHeader, type Footer } from './header.js';
import { absent, bitmapSize, tableSize } from './layout.js';

const pageSize = 4096;
const entriesPerPage = pageSize / 4;
/** Memory for table pages and for sector bitmaps. */
const cacheBytes = 2 * 1024 * 1024;

export interface ImageParts {
  readonly file: BlockChild;
  readonly footer: Footer;
  readonly header: DynamicHeader;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly parent: BlockChild | undefined;
  readonly readOnly: boolean;
  /** Where the next block goes. */
  readonly end: number;
  /** Where the footer belongs, behind all that. */
  readonly footerOffset: number;
  /** It is there. */
  readonly footerInPlace: boolean;
}

export class SparseImage {
  readonly file: BlockChild;
  readonly parent: BlockChild | undefined;
  readOnly: boolean;
  footer: Footer;
  header: DynamicHeader;
  size: number;
  /** Where the next block goes: behind everything else. */
  end: number;
  readonly blockSize: number;
  readonly bitmapSize: number;
  /** Cached pages, keyed by their offset in the table. */
  table: TableCache;
  /** Cached sector bitmaps, keyed by block number times their size. */
  bitmaps: TableCache;
  /** From here on the file reads as zero. */
  #zeroFrom: number;
  #footerOffset: number;
  #footerInPlace: boolean;
  /** A bit for each block whose sectors are known to be all there. */
  #full: Uint8Array;
  readonly #mutex = new Mutex();

  constructor(parts: ImageParts) {
    this.file = parts.file;
    this.parent = parts.parent;
    this.readOnly = parts.readOnly;
    this.footer = parts.footer;
    this.header = parts.header;
    this.size = parts.size;
    this.end = parts.end;
    this.blockSize = parts.header.blockSize;
    this.bitmapSize = bitmapSize(this.blockSize);
    this.#zeroFrom = parts.file.size;
    this.#footerOffset = parts.footerOffset;
    this.#footerInPlace = parts.footerInPlace;
    this.#full = new Uint8Array(Math.ceil(parts.header.maxEntries / 8));
    this.table = new TableCache(pageSize, cacheBytes / pageSize, {
      load: (key, target) => this.#loadPage(key, target),
      store: ({ offset, bytes }) => this.file.write(this.header.tableOffset + offset, bytes.subarray(0, this.#pageLength(offset))),
    });
    this.bitmaps = new TableCache(this.bitmapSize, cacheBytes / this.bitmapSize, {
      load: (key, target) => run(this.#loadBitmap(key / this.bitmapSize, target)),
      store: ({ offset, bytes }) => run(this.#storeBitmap(offset / this.bitmapSize, bytes)),
    });
  }

  /** Runs `request` while no block is added and no table written beside it. Guest writes in place go on. */
  exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    return this.#mutex.run(() => andThen(request(), (result) =>
      this.table.crowded || this.bitmaps.crowded ? andThen(run(this.flush()), () => result) : result));
  }

  // -- Blocks ------------------------------------------------------------------------------------------------------------------

  /** What the table says of a block (a sector number, or {@link absent}); undefined: its page has to be loaded first. */
  entry(block: number): number | undefined {
    const page = this.table.get(this.pageOf(block));
    return page?.view.getUint32((block % entriesPerPage) * 4);
  }

  /** The key of the page with a block's entry. */
  pageOf(block: number): number {
    return Math.floor(block / entriesPerPage) * pageSize;
  }

  *loadEntry(block: number): Steps<number> {
    const page = yield* this.table.load(this.pageOf(block));
    return page.view.getUint32((block % entriesPerPage) * 4);
  }

  *setEntry(block: number, value: number): Steps<void> {
    const page = yield* this.table.load(this.pageOf(block));
    page.view.setUint32((block % entriesPerPage) * 4, value);
    this.table.dirty(page);
  }

  /** How many blocks from `first` on, at most `limit`, are absent; as far as the page at hand tells. `first` is. */
  absentRun(first: number, limit: number): number {
    const { view } = this.table.get(this.pageOf(first))!;
    const start = first % entriesPerPage;
    const most = Math.min(limit, entriesPerPage - start);
    let count = 1;
    while (count < most && view.getUint32((start + count) * 4) === absent) count++;
    return count;
  }

  /** Where a block's data begins in the file, given its entry. */
  dataOffset(entry: number): number {
    return entry * sectorSize + this.bitmapSize;
  }

  /** Whether a block can lie there. */
  isInside(entry: number): boolean {
    return entry * sectorSize + this.bitmapSize + this.blockSize <= this.end;
  }

  isFull(block: number): boolean {
    return (this.#full[block >> 3]! & (1 << (block & 7))) !== 0;
  }

  markFull(block: number): void {
    this.#full[block >> 3]! |= 1 << (block & 7);
  }

  /** Forgets what is known of blocks and their bitmaps; the table has been flushed. */
  forget(maxEntries: number): void {
    this.#full = new Uint8Array(Math.ceil(maxEntries / 8));
    this.table.clear();
    this.bitmaps.clear();
  }

  /** Reserves room for a block behind everything else; returns its offset. */
  reserve(): number {
    const offset = this.end;
    this.extend(offset + this.bitmapSize + this.blockSize);
    return offset;
  }

  /** Everything up to `end` is taken; the footer makes way. */
  extend(end: number): void {
    this.end = Math.max(this.end, end);
    if (this.end <= this.#footerOffset) return;
    this.#footerOffset = this.end;
    this.#footerInPlace = false;
  }

  /** Whether the file reads as zero from there on, being longer than it ever was. */
  isFresh(offset: number): boolean {
    return offset >= this.#zeroFrom;
  }

  // -- Order of writes ---------------------------------------------------------------------------------------------------------

  /**
   * Makes everything durable: guest data and the footer behind it, then the bitmaps that show the data, then the table that shows
   * the blocks.
   */
  *flush(): Steps<void> {
    if (!this.#footerInPlace) {
      yield* wait(this.file.write(this.#footerOffset, this.footer.bytes));
      this.#footerInPlace = true;
    }
    yield* wait(this.file.flush());
    if (this.bitmaps.dirtyCount > 0) {
      yield* this.bitmaps.writeBack();
      yield* wait(this.file.flush());
    }
    if (this.table.dirtyCount > 0) {
      yield* this.table.writeBack();
      yield* wait(this.file.flush());
    }
  }

  /** Writes back what is pending, if anything can be. */
  *flushIfWritable(): Steps<void> {
    if (!this.readOnly) yield* this.flush();
  }

  /** A footer lies behind everything else. */
  get footerInPlace(): boolean {
    return this.#footerInPlace;
  }

  /** Where the footer belongs. */
  get footerOffset(): number {
    return this.#footerOffset;
  }

  /** Gives up what lies between `end`, behind which there is no block, and the footer. */
  *cutAt(end: number): Steps<void> {
    yield* this.flush();
    yield* wait(this.file.write(end, this.footer.bytes));
    yield* wait(this.file.flush());
    yield* wait(this.file.resize(end + footerSize));
    this.end = end;
    this.#footerOffset = end;
    this.#zeroFrom = this.file.size;
  }

  /** Replaces both copies of the footer, the one in front last: it is what counts. */
  *writeFooter(footer: Footer): Steps<void> {
    yield* wait(this.file.write(this.#footerOffset, footer.bytes));
    yield* wait(this.file.flush());
    yield* wait(this.file.write(0, footer.bytes));
    yield* wait(this.file.flush());
    this.footer = footer;
    this.#footerInPlace = true;
  }

  #pageLength(key: number): number {
    return Math.min(pageSize, tableSize(this.header.maxEntries) - key);
  }

  #loadPage(key: number, target: Uint8Array): MaybePromise<void> {
    const length = this.#pageLength(key);
    target.fill(0xff, length);
    return this.file.read(this.header.tableOffset + key, target.subarray(0, length));
  }

  *#loadBitmap(block: number, target: Uint8Array): Steps<void> {
    const entry = yield* this.loadEntry(block);
    if (entry !== absent) yield* wait(this.file.read(entry * sectorSize, target));
  }

  *#storeBitmap(block: number, bytes: Uint8Array): Steps<void> {
    const entry = yield* this.loadEntry(block);
    yield* wait(this.file.write(entry * sectorSize, bytes));
  }
}
