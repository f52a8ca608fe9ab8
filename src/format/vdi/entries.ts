/** Entries of the block map: the number of a block's place in the file. */
import { Place, type EntryCodec } from '../../block/appending-format.js';
import type { VdiHeader } from './header.js';

export const entrySize = 4;
/** The parent's content, or nothing. */
export const absent = 0xffff_ffff;
/** Given up: reads as zero. */
const discarded = 0xffff_fffe;

/** Whether an entry names a place. */
export function isAllocated(entry: number): boolean {
  return entry < discarded;
}

/** Bytes that a block takes in the file. */
export function strideOf({ blockSize, blockExtra }: VdiHeader): number {
  return blockSize + blockExtra;
}

/** Blocks that a file of so many bytes has at least the beginning of. */
export function blocksInFile(header: VdiHeader, fileSize: number): number {
  return Math.max(0, Math.ceil((fileSize - header.dataOffset) / strideOf(header)));
}

/** Host offset of the guest's bytes of block `index` of the file. */
export function placeOf(header: VdiHeader, index: number): number {
  return header.dataOffset + index * strideOf(header) + header.blockExtra;
}

export function blockEntries(header: VdiHeader): EntryCodec {
  const stride = strideOf(header);
  const start = placeOf(header, 0);
  return {
    read(view, at) {
      const entry = view.getUint32(at * entrySize, true);
      return entry === absent ? Place.NONE : entry === discarded ? Place.ZERO : start + entry * stride;
    },
    write(view, at, place) {
      view.setUint32(at * entrySize, place === Place.NONE ? absent : place === Place.ZERO ? discarded : (place - start) / stride, true);
    },
  };
}
