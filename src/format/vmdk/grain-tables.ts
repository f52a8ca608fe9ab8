/** Directory and grain tables: where each grain lies. Held by sectors, in bounded memory. */
import type { BlockChild } from '../../block/child.js';
import type { AskAgain } from '../../block/mapped-format.js';
import { TableCache, type CachedTable } from '../../block/table-cache.js';
import { isPromise, type MaybePromise } from '../../util/maybe.js';
import { wait, type Steps } from '../../util/steps.js';
import { corrupt, sectorSize } from './header.js';

/** Nothing here: the parent shows. */
export const absent = 0;
/** Reads as zero. */
export const zeroed = 1;

/** How a kind of extent keeps its tables. Places in bytes. */
export interface TableShape {
  readonly directory: number;
  /** Place of the directory of the redundant copy. */
  readonly redundant?: number;
  readonly tableCount: number;
  readonly tableEntries: number;
  readonly entrySize: 4 | 8;
  /** Place of a table in the file; 0: there is none. @throws BlockError CORRUPT_IMAGE */
  tableAt(directory: DataView, at: number): number;
  /** Place of a grain in the file, {@link absent} or {@link zeroed}. @throws BlockError CORRUPT_IMAGE */
  grainAt(table: DataView, at: number): number;
}

/** 32-bit entries that count sectors. `knowsZeroes`: entry 1 stands for zeroes. */
export function sectorShape(shape: Pick<TableShape, 'directory' | 'redundant' | 'tableCount' | 'tableEntries'>, knowsZeroes: boolean): TableShape {
  return {
    ...shape,
    entrySize: 4,
    tableAt: (directory, at) => directory.getUint32(at, true) * sectorSize,
    grainAt(table, at) {
      const entry = table.getUint32(at, true);
      return entry === 1 && knowsZeroes ? zeroed : entry * sectorSize;
    },
  };
}

/** SESPARSE: 64-bit entries of indices with the state on top. `tables` and `grains` are places in bytes. */
export function seSparseShape(
  shape: Pick<TableShape, 'directory' | 'tableCount' | 'tableEntries'>, tables: number, tableBytes: number, tablesEnd: number,
  grains: number, grainBytes: number, grainsEnd: number,
): TableShape {
  return {
    ...shape,
    entrySize: 8,
    tableAt(directory, at) {
      const high = directory.getUint32(at + 4, true);
      const low = directory.getUint32(at, true);
      if (high === 0 && low === 0) return 0;
      const place = tables + low * tableBytes;
      if (high !== 0x1000_0000 || place + tableBytes > tablesEnd) throw corrupt('Invalid grain directory entry');
      return place;
    },
    grainAt(table, at) {
      const high = table.getUint32(at + 4, true);
      const low = table.getUint32(at, true);
      switch (high >>> 28) {
        case 0: return absent;
        case 1:
        case 2: return zeroed;
        case 3: {
          const index = (high >>> 16 & 0xfff) + ((high & 0xffff) * 2 ** 32 + low) * 4096;
          const place = grains + index * grainBytes;
          if (place + grainBytes <= grainsEnd) return place;
        }
      }
      throw corrupt('Invalid grain table entry');
    },
  };
}

/** Sectors of tables held: 8 MiB, which speak of 128 GiB of a usual disk. */
const tableCapacity = 16 * 1024;
const directoryCapacity = 1024;

export class GrainTables {
  /** It changes when the extent grows: nothing is dirty then, and the tables that were there stay where they are. */
  shape: TableShape;
  readonly #directory: TableCache;
  readonly #tables: TableCache;
  /** Sectors of redundant tables, by those they copy. */
  readonly #twins = new Map<number, number>();

  constructor(file: BlockChild, shape: TableShape) {
    this.shape = shape;
    const load = (offset: number, target: Uint8Array): MaybePromise<void> => file.read(offset, target);
    const store = ({ offset, bytes }: CachedTable): MaybePromise<void> => {
      const twin = this.#twins.get(offset);
      const done = file.write(offset, bytes);
      if (twin === undefined) return done;
      this.#twins.delete(offset);
      return isPromise(done) ? done.then(() => file.write(twin, bytes)) : file.write(twin, bytes);
    };
    this.#directory = new TableCache(sectorSize, directoryCapacity, { load, store });
    this.#tables = new TableCache(sectorSize, tableCapacity, { load, store });
  }

  /** Place of a grain, {@link absent} or {@link zeroed}. */
  lookup(grain: number): number | AskAgain {
    const table = this.tableOf(Math.floor(grain / this.shape.tableEntries));
    return typeof table !== 'number' || table === 0 ? table : this.entryOf(table, grain % this.shape.tableEntries);
  }

  /** Place of the grain that an entry of the table at `table` (in bytes) names. */
  entryOf(table: number, index: number): number | AskAgain {
    const at = index * this.shape.entrySize;
    const sector = sectorAt(this.#tables, table + at - at % sectorSize);
    return sector instanceof Promise ? sector : this.shape.grainAt(sector.view, at % sectorSize);
  }

  /** Place of a grain table; 0: there is none. */
  tableOf(index: number): number | AskAgain {
    return this.#directoryEntry(this.shape.directory, index);
  }

  /** Place of the redundant copy of a table; 0: there is none. */
  twinOf(index: number): number | AskAgain {
    return this.shape.redundant === undefined ? 0 : this.#directoryEntry(this.shape.redundant, index);
  }

  /** The redundant copy of a table is written anew. */
  *copyTable(index: number): Steps<void> {
    const table = yield* known(() => this.tableOf(index));
    const twin = yield* known(() => this.twinOf(index));
    for (let at = 0; at < this.shape.tableEntries * 4; at += sectorSize) {
      const sector = yield* this.#tables.load(table + at);
      this.#twins.set(table + at, twin + at);
      this.#tables.dirty(sector);
    }
  }

  #directoryEntry(directory: number, index: number): number | AskAgain {
    const at = index * this.shape.entrySize;
    const sector = sectorAt(this.#directory, directory + at - at % sectorSize);
    return sector instanceof Promise ? sector : this.shape.tableAt(sector.view, at % sectorSize);
  }

  /** Says where `count` grains from `first` on lie now: `host` is the first one's place, the others follow it. The tables exist. */
  *assign(first: number, count: number, host: number, grainSize: number): Steps<void> {
    const { tableEntries } = this.shape;
    for (let grain = first; grain < first + count;) {
      const index = Math.floor(grain / tableEntries);
      const at = (grain % tableEntries) * 4;
      const table = yield* known(() => this.tableOf(index));
      const twin = yield* known(() => this.twinOf(index));
      const place = table + at - at % sectorSize;
      const sector = yield* this.#tables.load(place);
      const end = Math.min(first + count, grain + (sectorSize - at % sectorSize) / 4, (index + 1) * tableEntries);
      for (let entry = at % sectorSize; grain < end; grain++, entry += 4) {
        sector.view.setUint32(entry, host === zeroed ? 1 : (host + (grain - first) * grainSize) / sectorSize, true);
      }
      if (twin !== 0) this.#twins.set(place, twin + place - table);
      this.#tables.dirty(sector);
    }
  }

  /** Enters a new table, whose place in the file is unused, into the directory. */
  *addTable(index: number, place: number): Steps<void> {
    const { tableEntries } = this.shape;
    for (let at = 0; at < tableEntries * 4; at += sectorSize) this.#tables.create(place + at);
    const at = index * 4;
    const sector = yield* this.#directory.load(this.shape.directory + at - at % sectorSize);
    sector.view.setUint32(at % sectorSize, place / sectorSize, true);
    this.#directory.dirty(sector);
  }

  get dirty(): boolean {
    return this.#tables.dirtyCount > 0 || this.#directory.dirtyCount > 0;
  }

  /** So much has changed that it should be written back. */
  get crowded(): boolean {
    return this.#tables.crowded || this.#directory.crowded;
  }

  /** Data that the tables speak of is durable already. `barrier` makes tables durable before the directory names them. */
  *writeBack(barrier: () => MaybePromise<void>): Steps<void> {
    yield* this.#tables.writeBack();
    if (this.#directory.dirtyCount === 0) return;
    yield* wait(barrier());
    yield* this.#directory.writeBack();
  }

  /** Forgets what is known: the file was changed by other means. Nothing is dirty. */
  forget(): void {
    this.#tables.clear();
    this.#directory.clear();
  }
}

function sectorAt(cache: TableCache, offset: number): CachedTable | Promise<void> {
  const held = cache.get(offset);
  if (held !== undefined) return held;
  const loading = cache.fetch(offset);
  return isPromise(loading) ? loading : cache.get(offset)!;
}

/** Asks until the number is known. It holds until the caller next waits. */
export function* known(ask: () => number | AskAgain): Steps<number> {
  for (;;) {
    const answer = ask();
    if (typeof answer === 'number') return answer;
    yield* wait(answer);
  }
}
