/**
 * An open qcow2 image: header, tables in memory, caches, children, and the order in which they reach the disk.
 *
 * Methods that may wait are coroutines ({@link Steps}): `yield*` them, or `run()` them for a MaybePromise.
 * Everything that changes tables runs inside {@link Qcow2Image.exclusive}; the methods here do not take it themselves.
 */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import type { MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import type { CachedTable, TableCache } from './cache.js';
import { hasFeature, Incompatible, serialiseHeader, type Qcow2Header } from './header.js';
import type { Refcounts } from './refcount.js';
import type { SnapshotTable } from './snapshot-table.js';
import { viewOf } from './tables.js';

/** Options of opening, as far as they concern a running image (others are consumed while opening). */
export interface Qcow2OpenOptions {
  readonly 'lazy-refcounts'?: boolean;
  readonly 'pass-discard-request'?: boolean;
  readonly 'pass-discard-snapshot'?: boolean;
  readonly 'pass-discard-other'?: boolean;
  readonly 'discard-no-unref'?: boolean;
}

/** Why clusters are given up; decides (by option) whether the host hears of it. */
export type FreeReason = 'never' | 'request' | 'snapshot' | 'other' | 'always';

/** Sizes that follow from the header and never change while the image is open. */
export interface Geometry {
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly extended: boolean;
  /** Bytes per L2 entry: 8, or 16 with extended entries. */
  readonly l2EntrySize: number;
  readonly l2Entries: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2Coverage: number;
  /** Unit of allocation and zeroing: clusterSize / 32 with extended entries, else clusterSize. */
  readonly subclusterSize: number;
  readonly subclusters: number;
  readonly sliceSize: number;
  readonly sliceEntries: number;
  readonly refcountOrder: number;
}

export interface Qcow2Image {
  readonly context: OpenContext<object>;
  readonly geometry: Geometry;
  /** Current header; change it with {@link updateHeader}. */
  readonly header: Qcow2Header;
  readonly readOnly: boolean;
  /** Holds all metadata. */
  readonly file: BlockChild;
  /** Holds guest data: `file`, or the external data file. */
  readonly dataFile: BlockChild;
  readonly backing: BlockChild | undefined;
  /** Virtual size in bytes. */
  readonly size: number;
  /** The active L1 table as on disk (big endian), header.l1Size * 8 bytes. Write it back with {@link writeL1}. */
  readonly l1: DataView;
  readonly l2: TableCache;
  readonly refcounts: Refcounts;
  /** Internal snapshots, as last read (readSnapshotTable, at open and by {@link reload}) or written; the parts that change them keep it current. */
  snapshots: SnapshotTable;

  /** Runs `request` while no allocation, no table update and no metadata flush runs beside it. Guest writes in place go on. */
  exclusive<T>(request: () => MaybePromise<T>): MaybePromise<T>;

  /** Whether the slice of the L2 table at host offset `table` is at hand; loads it if not. `index`: entry within the table. */
  loadSlice(table: number, index: number): Steps<CachedTable>;
  /** Writes L1 entries [first, first + count) from {@link l1} to disk (whole sectors), after everything they refer to. */
  writeL1(first: number, count: number): Steps<void>;
  /** Replaces the active L1 table by a larger one; the header is switched and the old table freed. */
  growL1(entries: number): Steps<void>;
  /** Switches to another active L1 table (already on disk at `offset`), in memory and in the header. Nothing is freed. */
  replaceL1(offset: number, bytes: Uint8Array): Steps<void>;

  /**
   * Brings all changed metadata to the disk in order: refcounts, flush (guest data too), L2 tables; then takes freed clusters out of
   * the refcounts. The last writes are not flushed.
   */
  flushMetadata(): Steps<void>;
  /** flushMetadata, then makes everything durable. */
  flush(): Steps<void>;
  /** Writes metadata at a host offset after the overlap check; `allowed` names the structures that may lie there. */
  writeMetadata(offset: number, bytes: Uint8Array, allowed?: number): Steps<void>;
  /** Fails with the peer's message (and sets the corrupt bit) where a write to [offset, offset + length) would hit metadata. */
  checkOverlap(offset: number, length: number, allowed?: number): Steps<void>;

  /** Rewrites the header cluster with `patch` applied. The change is not flushed. */
  updateHeader(patch: Partial<Qcow2Header>): Steps<void>;
  /** Sets the dirty bit and flushes, before the first change of refcounts that is not written through (lazy refcounts). */
  markDirty(): Steps<void>;
  /** Flushes, then clears the dirty bit. */
  markClean(): Steps<void>;
  /** Reports corruption: sets the corrupt bit if `fatal`, and throws. */
  signalCorruption(message: string, options: { readonly fatal: boolean; readonly offset?: number; readonly length?: number }): never;
  /** Forgets all cached tables (after a repair rewrote them) and reads header, L1 and refcount table anew. */
  reload(): Steps<void>;
}
