/** Sizes that follow from a header and never change while an image is open. */
import { hasFeature, Incompatible, type Qcow2Header } from './header.js';
import { subclustersPerCluster } from './tables.js';

export interface Geometry {
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** L2 entries have a second word that describes subclusters. */
  readonly extended: boolean;
  /** Bytes per L2 entry: 8, or 16 with extended entries. */
  readonly l2EntrySize: number;
  readonly l2Entries: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2Coverage: number;
  /** Unit of allocation and zeroing: a 32nd of a cluster with extended entries, else a cluster. */
  readonly subclusterSize: number;
  /** Bytes of an L2 table that are cached as one. */
  readonly sliceSize: number;
  readonly sliceEntries: number;
  /** Refcounts are 2^order bits wide. */
  readonly refcountOrder: number;
  /** Guest data lies in another file, each cluster where the guest sees it. */
  readonly external: boolean;
}

export function geometryOf(header: Qcow2Header, sliceSize?: number): Geometry {
  const clusterSize = 2 ** header.clusterBits;
  const extended = hasFeature(header, Incompatible.EXTENDED_L2);
  const l2EntrySize = extended ? 16 : 8;
  const l2Entries = clusterSize / l2EntrySize;
  const slice = sliceSize ?? Math.min(clusterSize, 4096);
  return {
    clusterBits: header.clusterBits, clusterSize, extended, l2EntrySize, l2Entries, l2Coverage: l2Entries * clusterSize,
    subclusterSize: extended ? clusterSize / subclustersPerCluster : clusterSize,
    sliceSize: slice, sliceEntries: slice / l2EntrySize,
    refcountOrder: header.refcountOrder, external: hasFeature(header, Incompatible.DATA_FILE),
  };
}

/** A number as the peer prints offsets and indices: 0x for all but zero. */
export function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
