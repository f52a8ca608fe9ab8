/** Bounded caches of metadata tables: slices of L2 tables, refcount blocks. */

/** A piece of a table held in memory. Change `bytes` inside {@link Qcow2Image.exclusive} only, then call {@link TableCache.dirty}. */
export interface CachedTable {
  /** Host offset. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}
