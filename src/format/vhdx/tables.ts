/** The block allocation table: what its entries say, and which of them stands for which block. */

/** States of payload blocks. */
export const State = { NOT_PRESENT: 0, UNDEFINED: 1, ZERO: 2, UNMAPPED: 3, UNMAPPED_OLD: 5, FULLY_PRESENT: 6, PARTIALLY_PRESENT: 7 } as const;
/** Of no meaning in any table: stands for entries that make no sense. */
export const invalidEntry = 4;

export const entrySize = 8;
/** Tables are cached, and logged, in pages of this size. */
export const pageSize = 4096;
export const entriesPerPage = pageSize / entrySize;
/** Sector bits in one page of a sector bitmap block. */
export const bitsPerPage = pageSize * 8;
export const bitmapBlockSize = 1 << 20;

/** An entry as a number: the block's place in the file (a multiple of 1 MiB) plus its state. A block that is there cannot lie further than numbers go. */
export function readEntry(view: DataView, index: number): number {
  const lo = view.getUint32(index * entrySize, true);
  const hi = view.getUint32(index * entrySize + 4, true);
  if (hi < 0x200000) return hi * 2 ** 32 + ((lo & 0xfff00007) >>> 0);
  return lo % 8 < State.FULLY_PRESENT ? lo % 8 : invalidEntry;
}

export function writeEntry(view: DataView, index: number, entry: number): void {
  view.setUint32(index * entrySize, entry % 2 ** 32, true);
  view.setUint32(index * entrySize + 4, Math.floor(entry / 2 ** 32), true);
}

export function stateOf(entry: number): number {
  return entry % 8;
}

export function placeOf(entry: number): number {
  return entry - (entry % 8);
}

/** How the disk is cut up. */
export interface Geometry {
  readonly blockSize: number;
  readonly sectorSize: number;
  /** Payload blocks for each sector bitmap block. */
  readonly chunkRatio: number;
}

export function geometryOf({ blockSize, logicalSectorSize }: { readonly blockSize: number; readonly logicalSectorSize: number }): Geometry {
  return { blockSize, sectorSize: logicalSectorSize, chunkRatio: 2 ** 23 * logicalSectorSize / blockSize };
}

/** Index of a payload block's entry: each chunk is followed by the entry of its bitmap. */
export function payloadIndex({ chunkRatio }: Geometry, block: number): number {
  return block + Math.floor(block / chunkRatio);
}

/** Index of the entry for the sector bitmap of a payload block's chunk. */
export function bitmapIndex({ chunkRatio }: Geometry, block: number): number {
  return (Math.floor(block / chunkRatio) + 1) * (chunkRatio + 1) - 1;
}

/** Entries in the table of a disk of that size. */
export function entryCount(geometry: Geometry, size: number, hasParent: boolean): number {
  const blocks = Math.ceil(size / geometry.blockSize);
  if (blocks === 0) return 0;
  return hasParent ? Math.ceil(blocks / geometry.chunkRatio) * (geometry.chunkRatio + 1) : payloadIndex(geometry, blocks - 1) + 1;
}
