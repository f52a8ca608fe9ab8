/** Entries of a qcow image's tables: big-endian host offsets, or the place and length of compressed data. */
import { Place, type EntryCodec } from '../../block/appending-format.js';

const compressedBit = 0x8000_0000;

export function entryAt(view: DataView, at: number): number {
  return view.getUint32(at * 8) * 2 ** 32 + view.getUint32(at * 8 + 4);
}

export function setEntry(view: DataView, at: number, value: number): void {
  view.setUint32(at * 8, Math.floor(value / 2 ** 32));
  view.setUint32(at * 8 + 4, value % 2 ** 32);
}

export function isCompressed(view: DataView, at: number): boolean {
  return view.getUint32(at * 8) >= compressedBit;
}

/** Where compressed data lies; to be asked only where {@link isCompressed} holds. */
export function compressedPlace(view: DataView, at: number, clusterBits: number): { offset: number; length: number } {
  const hi = view.getUint32(at * 8);
  const offsetBits = 31 - clusterBits;
  return { offset: (hi & (2 ** offsetBits - 1)) * 2 ** 32 + view.getUint32(at * 8 + 4), length: (hi >>> offsetBits) & (2 ** clusterBits - 1) };
}

/** `length` is less than a cluster. */
export function setCompressedPlace(view: DataView, at: number, clusterBits: number, { offset, length }: { offset: number; length: number }): void {
  view.setUint32(at * 8, (compressedBit | (length << (31 - clusterBits)) | Math.floor(offset / 2 ** 32)) >>> 0);
  view.setUint32(at * 8 + 4, offset % 2 ** 32);
}

/** Entries of L2 tables. */
export const clusterEntries: EntryCodec = {
  read(view, at) {
    if (isCompressed(view, at)) return Place.ENCODED;
    const value = entryAt(view, at);
    return value === 0 ? Place.NONE : value;
  },
  write(view, at, place) {
    setEntry(view, at, place === Place.NONE ? 0 : place);
  },
};
