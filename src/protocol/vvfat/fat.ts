/** File allocation tables: made from a layout, sector by sector, and read as chains. */
import { BlockError } from '../../block/errors.js';
import { endOfChain, mediaByte, sectorSize, type FatGeometry } from './geometry.js';
import type { Extent } from './tree.js';

/** The sector of a FAT in which all extents are chains of their own. */
export function fatEntries(geometry: FatGeometry, extents: readonly Extent[], sector: number): Uint8Array {
  const { fatType } = geometry;
  const bytes = new Uint8Array(sectorSize);
  const firstBit = sector * sectorSize * 8;
  const from = Math.floor(firstBit / fatType);
  const to = Math.ceil((firstBit + sectorSize * 8) / fatType);
  for (let cluster = from; cluster < to; cluster++) {
    const value = entryFor(geometry, extents, cluster);
    if (value !== 0) putBits(bytes, cluster * fatType - firstBit, value, fatType);
  }
  return bytes;
}

function entryFor(geometry: FatGeometry, extents: readonly Extent[], cluster: number): number {
  const end = endOfChain[geometry.fatType];
  if (cluster === 0) return end - 0xff + mediaByte(geometry);
  if (cluster === 1) return end;
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (extents[middle]!.firstCluster <= cluster) low = middle + 1;
    else high = middle;
  }
  const extent = extents[low - 1];
  if (extent === undefined || cluster >= extent.firstCluster + extent.clusters) return 0;
  return cluster === extent.firstCluster + extent.clusters - 1 ? end : cluster + 1;
}

/** Little-endian bits; parts outside the sector are left out. All positions and widths are multiples of 4. */
function putBits(bytes: Uint8Array, at: number, value: number, width: number): void {
  for (let bit = 0; bit < width; bit += 4) {
    const index = (at + bit) >> 3;
    if (at + bit < 0 || index >= bytes.length) continue;
    bytes[index] = bytes[index]! | (((value >>> bit) & 0xf) << ((at + bit) & 4));
  }
}

/** A whole FAT, as its guest wrote it. */
export class FatTable {
  readonly #geometry: FatGeometry;
  readonly #bytes: Uint8Array;

  constructor(geometry: FatGeometry, bytes: Uint8Array) {
    this.#geometry = geometry;
    this.#bytes = bytes;
  }

  /** The clusters of a chain, in order. @throws IO_ERROR where it leaves the volume, ends in free space or does not end. */
  chain(first: number, what: string): number[] {
    const { clusterCount } = this.#geometry;
    const clusters: number[] = [];
    for (let cluster = first; !this.#isEnd(cluster); cluster = this.#entry(cluster)) {
      if (cluster < 2 || cluster >= clusterCount + 2) throw broken(`the chain of ${what} leads to cluster ${cluster}`);
      clusters.push(cluster);
      if (clusters.length > clusterCount) throw broken(`the chain of ${what} has no end`);
    }
    return clusters;
  }

  #isEnd(value: number): boolean {
    return value >= endOfChain[this.#geometry.fatType] - 7;
  }

  #entry(cluster: number): number {
    const { fatType } = this.#geometry;
    const bit = cluster * fatType;
    let value = 0;
    for (let i = 0; i < fatType; i += 4) value += ((this.#bytes[(bit + i) >> 3]! >> ((bit + i) & 4)) & 0xf) * 2 ** i;
    return fatType === 32 ? value % 0x1000_0000 : value;
  }
}

/** The folder is left as it is. */
export function broken(what: string): BlockError {
  return new BlockError('IO_ERROR', `The FAT file system is not consistent, nothing was stored: ${what}`, { driver: 'vvfat', op: 'flush' });
}
