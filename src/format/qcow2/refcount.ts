/** Reference counts of host clusters: reading, changing, allocating, and growth of their own tables. */
import type { Steps } from '../../util/steps.js';
import type { FreeReason } from './image.js';

export interface Refcounts {
  /** Refcount table in memory, as on disk (big endian, 8 bytes per entry). */
  readonly table: DataView;
  /** Highest value a refcount can take. */
  readonly max: number;
  /** Where the search for free clusters starts (cluster number). */
  firstFree: number;

  /** Refcount of a host cluster, by cluster number; clusters that no block covers have 0. */
  get(cluster: number): Steps<number>;
  /**
   * Adds `delta` to the refcount of every cluster that [offset, offset + length) touches, at once (in the cache). Lowering is only for
   * what no table on disk refers to any more, or never did; otherwise use {@link free}.
   * Undone as a whole if it fails. Clusters that come to 0 are free, and are discarded according to `reason`.
   */
  update(offset: number, length: number, delta: number, reason?: FreeReason): Steps<void>;
  /** Room for `bytes` in consecutive clusters with refcount 1. Returns the host offset. */
  allocate(bytes: number): Steps<number>;
  /** Takes up to `clusters` free clusters lying exactly at `offset`; returns how many. */
  allocateAt(offset: number, clusters: number): Steps<number>;
  /** Room for compressed data, sharing host clusters with earlier compressed data. Every cluster touched is counted. */
  allocateBytes(length: number): Steps<number>;
  /**
   * Lowers refcounts of the clusters that [offset, offset + length) touches, but only after the tables that no longer refer to them
   * are durable: until then they are not reused.
   */
  free(offset: number, length: number, reason: FreeReason): void;
  /** Host offset behind the last cluster in use. */
  endOfUse(): Steps<number>;
}
