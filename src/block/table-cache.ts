/** Bounded caches of a format's metadata tables. */
import { isPromise, type MaybePromise } from '../util/maybe.js';
import { Lru } from '../util/lru.js';
import { wait, type Steps } from '../util/steps.js';
import { viewOf } from '../util/view.js';

/**
 * A table (or a slice of one) held in memory. Whoever changes it does so under its format's lock, and calls
 * {@link TableCache.dirty} before waiting for anything: a clean table may be dropped while its user waits.
 */
export interface CachedTable {
  /** Host offset. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** How a cache reaches the disk. */
export interface TableStore {
  load(offset: number, target: Uint8Array): MaybePromise<void>;
  store(table: CachedTable): MaybePromise<void>;
}

type Memory = Pick<CachedTable, 'bytes' | 'view'>;

/** Memory of tables that were given up is kept for other tables up to so many bytes. */
const spareBytes = 256 * 1024;

/** Write-back cache of tables of one size, by host offset. Only clean tables are given up; who makes tables dirty bounds their number. */
export class TableCache {
  readonly tableSize: number;
  readonly #store: TableStore;
  readonly #tables = new Lru<number, CachedTable>();
  readonly #dirty = new Set<CachedTable>();
  /** Loads under way; one that is no longer listed here came too late and is thrown away. */
  readonly #loads = new Map<number, Promise<void>>();
  #capacity: number;
  #last: CachedTable | undefined;
  /** Memory that nobody uses. */
  readonly #spare: Memory[] = [];
  /** Memory of tables given up since {@link reuse}, which somebody may still hold; undefined where nobody ever calls it. */
  #givenUp: Memory[] | undefined;

  /** @param capacity tables held, at least 2 */
  constructor(tableSize: number, capacity: number, store: TableStore) {
    this.tableSize = tableSize;
    this.#capacity = Math.max(2, capacity);
    this.#store = store;
  }

  get capacity(): number {
    return this.#capacity;
  }
  set capacity(tables: number) {
    this.#capacity = Math.max(2, tables);
    this.#shrink();
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /** Changed tables in the order of their offsets: for a format that writes them back itself and says so with {@link clean}. */
  get dirtyTables(): readonly CachedTable[] {
    return [...this.#dirty].sort((a, b) => a.offset - b.offset);
  }

  /** So many tables are dirty that they should be written back. */
  get crowded(): boolean {
    return this.#dirty.size > this.#capacity / 2;
  }

  /** The table, if it is at hand. */
  get(offset: number): CachedTable | undefined {
    const last = this.#last;
    if (last !== undefined && last.offset === offset) return last;
    const table = this.#tables.get(offset);
    if (table !== undefined) this.#last = table;
    return table;
  }

  /** The table, loaded if need be. */
  *load(offset: number): Steps<CachedTable> {
    for (;;) {
      const table = this.get(offset);
      if (table !== undefined) return table;
      yield* wait(this.fetch(offset));
    }
  }

  /** Brings the table here if it is not; undefined at once if that needed no waiting. */
  fetch(offset: number): MaybePromise<void> {
    if (this.#tables.peek(offset) !== undefined) return undefined;
    const underWay = this.#loads.get(offset);
    if (underWay !== undefined) return underWay;
    const memory = this.#spare.pop() ?? memoryOf(new Uint8Array(this.tableSize));
    const loading = this.#store.load(offset, memory.bytes);
    if (!isPromise(loading)) {
      this.#insert(offset, memory);
      return undefined;
    }
    const load: Promise<void> = loading.then(
      () => {
        if (this.#loads.get(offset) !== load) return;
        this.#loads.delete(offset);
        this.#insert(offset, memory);
      },
      (error: unknown) => {
        if (this.#loads.get(offset) === load) this.#loads.delete(offset);
        throw error;
      });
    this.#loads.set(offset, load);
    return load;
  }

  /** Takes in a table as it is on disk. */
  adopt(offset: number, bytes: Uint8Array): void {
    this.drop(offset, this.tableSize);
    this.#insert(offset, memoryOf(bytes));
  }

  /** A table of zeroes in place of whatever is there; dirty. */
  create(offset: number): CachedTable {
    this.drop(offset, this.tableSize);
    const table = this.#insert(offset, memoryOf(new Uint8Array(this.tableSize)));
    this.dirty(table);
    return table;
  }

  /**
   * Says that nobody holds a table across a wait right now: memory of those given up is used again. Without it the memory is left to
   * the garbage collector, which lets much of it pile up where tables come and go quickly.
   */
  reuse(): void {
    this.#givenUp ??= [];
    while (this.#givenUp.length > 0) this.#spare.push(this.#givenUp.pop()!);
  }

  /** The table was changed and must be written back. */
  dirty(table: CachedTable): void {
    if (this.#tables.peek(table.offset) !== table) {
      this.#givenUp &&= this.#givenUp.filter(({ bytes }) => bytes !== table.bytes);
      this.drop(table.offset, this.tableSize);
      this.#tables.set(table.offset, table);
    }
    this.#dirty.add(table);
  }

  /** The table is as on disk again. */
  clean(table: CachedTable): void {
    this.#dirty.delete(table);
  }

  /** Forgets tables in a range of the host that has another use now, changed or not. */
  drop(offset: number, length: number): void {
    for (let at = offset - (offset % this.tableSize); at < offset + length; at += this.tableSize) {
      this.#loads.delete(at);
      const table = this.#tables.peek(at);
      if (table === undefined) continue;
      this.#tables.delete(at);
      this.#dirty.delete(table);
      if (this.#last === table) this.#last = undefined;
    }
  }

  /** Forgets everything, changed or not. */
  clear(): void {
    this.#loads.clear();
    this.#tables.clear();
    this.#dirty.clear();
    this.#last = undefined;
  }

  /** Forgets tables not used since the last call (nor changed since). */
  dropUnused(): void {
    for (const table of this.#tables.unused()) if (!this.#dirty.has(table)) this.drop(table.offset, this.tableSize);
  }

  /** Writes changed tables back, in the order of their offsets. What fails stays dirty. */
  *writeBack(): Steps<void> {
    if (this.#dirty.size === 0) return;
    for (const table of this.dirtyTables) {
      if (!this.#dirty.has(table)) continue;
      yield* wait(this.#store.store(table));
      this.clean(table);
    }
    this.#shrink();
  }

  #insert(offset: number, { bytes, view }: Memory): CachedTable {
    const table: CachedTable = { offset, bytes, view };
    this.#tables.set(offset, table);
    this.#last = table;
    this.#shrink();
    return table;
  }

  #shrink(): void {
    while (this.#tables.size > this.#capacity && this.#tables.size > this.#dirty.size) {
      const found = this.#tables.coldest((table) => table !== this.#last && !this.#dirty.has(table));
      if (found === undefined) return;
      this.#tables.delete(found[0]);
      if (this.#givenUp !== undefined && (this.#givenUp.length + this.#spare.length) * this.tableSize < spareBytes) this.#givenUp.push(found[1]);
    }
  }
}

function memoryOf(bytes: Uint8Array): Memory {
  return { bytes, view: viewOf(bytes) };
}
