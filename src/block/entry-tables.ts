/** Tables that say, cluster by cluster, where guest data lies: one table, or tables found through a directory. */
import { andThen, type MaybePromise } from '../util/maybe.js';
import { wait, type Steps } from '../util/steps.js';
import type { BlockChild } from './child.js';
import { BlockError, Errno } from './errors.js';
import type { AskAgain } from './mapped-format.js';
import { TableCache, type CachedTable } from './table-cache.js';

/** An entry, and those that follow it in the same piece of table. */
export interface Spot {
  readonly table: CachedTable;
  /** Index of the entry within the piece. */
  readonly at: number;
  /** Entries from there to the end of the piece. */
  readonly left: number;
}

/** How a format finds and changes its entries. Changing runs under the format's lock. */
export interface EntryTables {
  /** The entry for a cluster (counted from the start of the disk), if it is at hand; undefined where there is no table. */
  lookup(cluster: number): Spot | undefined | AskAgain;
  /** The same for a change; a missing table is made. Call {@link EntryTables.changed} before waiting for anything. */
  lookupForWriting(cluster: number): Steps<Spot>;
  changed(spot: Spot): void;
  /** Clusters from `cluster` to the end of the piece of table they share. */
  span(cluster: number): number;
  /** Clusters from `cluster` on that no table covers, `limit` at most; asked where lookup() found none. */
  gap(cluster: number, limit: number): number;
  readonly dirty: boolean;
  /** So much has changed that it should be written back. */
  readonly crowded: boolean;
  /** Writes back what has changed, tables before what refers to them; whatever they refer to is durable. The last write is not flushed. */
  writeBack(): Steps<void>;
  /** Forgets everything, changed or not. */
  clear(): void;
}

/** A table as it lies in the file, cached in pieces. */
export interface TablePlace {
  readonly file: BlockChild;
  /** Host offset. */
  readonly offset: number;
  /** Length in bytes. */
  readonly length: number;
}

const pieceSize = 16 * 1024;
const piecesCached = 256;
const directoryPiecesCached = 64;

/** One table of entries of `entrySize` bytes. */
export class FlatTable implements EntryTables {
  readonly #place: TablePlace;
  readonly #cache: TableCache;
  readonly #perPiece: number;

  constructor(place: TablePlace, entrySize: number, announce: Announce) {
    this.#place = place;
    this.#perPiece = pieceSize / entrySize;
    this.#cache = piecesOf(() => place, pieceSize, piecesCached, announce, 'l2');
  }

  lookup(cluster: number): Spot | AskAgain {
    const offset = this.#pieceOf(cluster);
    const table = this.#cache.get(offset);
    if (table !== undefined) return this.#spot(table, cluster);
    const loading = this.#cache.fetch(offset);
    return loading instanceof Promise ? loading : this.#spot(this.#cache.get(offset)!, cluster);
  }

  *lookupForWriting(cluster: number): Steps<Spot> {
    return this.#spot(yield* this.#cache.load(this.#pieceOf(cluster)), cluster);
  }

  changed({ table }: Spot): void {
    this.#cache.dirty(table);
  }

  span(cluster: number): number {
    return this.#perPiece - (cluster % this.#perPiece);
  }

  gap(): number {
    return 0;
  }

  get dirty(): boolean {
    return this.#cache.dirtyCount > 0;
  }

  get crowded(): boolean {
    return this.#cache.crowded;
  }

  writeBack(): Steps<void> {
    return this.#cache.writeBack();
  }

  clear(): void {
    this.#cache.clear();
  }

  #pieceOf(cluster: number): number {
    return this.#place.offset + Math.floor(cluster / this.#perPiece) * pieceSize;
  }

  #spot(table: CachedTable, cluster: number): Spot {
    return { table, at: cluster % this.#perPiece, left: this.span(cluster) };
  }
}

/** What a format says of its two levels. Entries of both take 8 bytes. */
export interface TwoLevelLayout {
  /** The first level. It may move and grow. */
  readonly directory: TablePlace;
  /** Entries of each table of the second level. */
  readonly tableEntries: number;
  /** Host offset of a table that a directory entry names; 0: none. @throws BlockError where there can be none */
  tableOffset(view: DataView, at: number): number;
  setTableOffset(view: DataView, at: number, offset: number): void;
  /** Room at the end of the file, and giving it back when it was not used after all. */
  reserve(bytes: number): number;
  giveBack(offset: number, bytes: number): void;
}

/** Moments that blkdebug knows. */
export type Announce = (event: string) => Promise<void> | undefined;

/** Tables of equal size that a directory names. */
export class TwoLevelTables implements EntryTables {
  readonly #layout: TwoLevelLayout;
  readonly #directory: TableCache;
  readonly #tables: TableCache;
  readonly #perPiece: number;
  readonly #directoryPerPiece = pieceSize / 8;
  readonly #announce: Announce;

  constructor(layout: TwoLevelLayout, announce: Announce) {
    this.#layout = layout;
    this.#announce = announce;
    const size = Math.min(pieceSize, layout.tableEntries * 8);
    this.#perPiece = size / 8;
    this.#directory = piecesOf(() => layout.directory, pieceSize, directoryPiecesCached, announce, 'l1');
    this.#tables = piecesOf(() => ({ file: layout.directory.file, offset: 0, length: Infinity }), size, piecesCached * pieceSize / size, announce, 'l2');
  }

  lookup(cluster: number): Spot | undefined | AskAgain {
    const { tableEntries } = this.#layout;
    const table = this.#tableOf(Math.floor(cluster / tableEntries));
    if (table === 0) return undefined;
    if (table instanceof Promise) return table;
    const piece = this.#pieceOf(table, cluster);
    const found = this.#tables.get(piece);
    if (found !== undefined) return this.#spot(found, cluster);
    const loading = this.#tables.fetch(piece);
    return loading instanceof Promise ? loading : this.#spot(this.#tables.get(piece)!, cluster);
  }

  *lookupForWriting(cluster: number): Steps<Spot> {
    const index = Math.floor(cluster / this.#layout.tableEntries);
    const directory = yield* this.#directory.load(this.#directoryPiece(index));
    let table = this.#layout.tableOffset(directory.view, index % this.#directoryPerPiece);
    if (table === 0) table = yield* this.#makeTable(index);
    return this.#spot(yield* this.#tables.load(this.#pieceOf(table, cluster)), cluster);
  }

  changed({ table }: Spot): void {
    this.#tables.dirty(table);
  }

  span(cluster: number): number {
    return this.#perPiece - (cluster % this.#perPiece);
  }

  gap(cluster: number, limit: number): number {
    const { tableEntries } = this.#layout;
    let index = Math.floor(cluster / tableEntries);
    // What is not at hand is asked for by the next lookup.
    do index++;
    while (index * tableEntries - cluster < limit && this.#tableAtHand(index) === 0);
    return Math.min(limit, index * tableEntries - cluster);
  }

  get dirty(): boolean {
    return this.#tables.dirtyCount > 0 || this.#directory.dirtyCount > 0;
  }

  get crowded(): boolean {
    return this.#tables.crowded || this.#directory.crowded;
  }

  *writeBack(): Steps<void> {
    yield* this.#tables.writeBack();
    if (this.#directory.dirtyCount === 0) return;
    yield* wait(this.#layout.directory.file.flush());
    yield* this.#directory.writeBack();
  }

  clear(): void {
    this.#tables.clear();
    this.#directory.clear();
  }

  #tableOf(index: number): number | AskAgain {
    const loading = this.#directory.fetch(this.#directoryPiece(index));
    return loading instanceof Promise ? loading : this.#tableAtHand(index)!;
  }

  #tableAtHand(index: number): number | undefined {
    const { directory } = this.#layout;
    if (index * 8 >= directory.length) return 0;
    const piece = this.#directory.get(this.#directoryPiece(index));
    return piece === undefined ? undefined : this.#layout.tableOffset(piece.view, index % this.#directoryPerPiece);
  }

  *#makeTable(index: number): Steps<number> {
    const { directory: { file }, tableEntries } = this.#layout;
    const offset = this.#layout.reserve(tableEntries * 8);
    try {
      yield* wait(this.#announce('l2_alloc_write'));
      yield* wait(file.writeZeroes(offset, tableEntries * 8));
    } catch (error) {
      this.#layout.giveBack(offset, tableEntries * 8);
      throw error;
    }
    const directory = yield* this.#directory.load(this.#directoryPiece(index));
    this.#layout.setTableOffset(directory.view, index % this.#directoryPerPiece, offset);
    this.#directory.dirty(directory);
    return offset;
  }

  #directoryPiece(index: number): number {
    return this.#layout.directory.offset + Math.floor(index / this.#directoryPerPiece) * pieceSize;
  }

  #pieceOf(table: number, cluster: number): number {
    const { tableEntries } = this.#layout;
    return table + Math.floor((cluster % tableEntries) / this.#perPiece) * this.#perPiece * 8;
  }

  #spot(table: CachedTable, cluster: number): Spot {
    return { table, at: cluster % this.#perPiece, left: this.span(cluster) };
  }
}

/** A cache of a table's pieces. What a last piece has too much is neither read nor written. */
function piecesOf(place: () => TablePlace, size: number, capacity: number, announce: Announce, level: 'l1' | 'l2'): TableCache {
  const part = (offset: number, bytes: Uint8Array): Uint8Array => bytes.subarray(0, Math.max(0, Math.min(bytes.length, place().offset + place().length - offset)));
  return new TableCache(size, capacity, {
    load: (offset, target) => {
      const pause = announce(`${level}_load`);
      const read = (): MaybePromise<void> => place().file.read(offset, part(offset, target));
      return pause === undefined ? read() : pause.then(read);
    },
    store: ({ offset, bytes }) => andThen(announce(`${level}_update`), () => place().file.write(offset, part(offset, bytes))),
  });
}

/** Calls `visit` for all entries of a table, in order. Reads piece by piece, past all caches. */
export async function scanTable({ file, offset, length }: TablePlace, visit: (view: DataView, at: number, index: number) => void, entrySize = 8): Promise<void> {
  const buffer = new Uint8Array(Math.min(length, 1 << 20));
  for (let done = 0; done < length; done += buffer.length) {
    const bytes = buffer.subarray(0, Math.min(buffer.length, length - done));
    await file.read(offset + done, bytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at < bytes.length / entrySize; at++) visit(view, at, done / entrySize + at);
  }
}

/** Fails as the peer does where a table names a place that cannot be. */
export function misplaced(what: string, offset: number): BlockError {
  return new BlockError('CORRUPT_IMAGE', 'Invalid argument', { op: `look up ${what}`, offset, errno: Errno.EINVAL });
}
