/** Sector bitmap blocks of a differencing disk: which sectors of partly present blocks lie here. One bit per sector, the lowest first. */
import { isPromise } from '../../util/maybe.js';
import { wait, type Steps } from '../../util/steps.js';
import type { AskAgain } from '../../block/mapped-format.js';
import type { CachedTable } from '../../block/table-cache.js';
import { invalid, type VhdxImage } from './image.js';
import { bitmapBlockSize, bitmapIndex, bitsPerPage, entrySize, pageSize, placeOf, State, stateOf } from './tables.js';

const FULLY_PRESENT = State.FULLY_PRESENT;

export class SectorBitmaps {
  readonly #image: VhdxImage;

  constructor(image: VhdxImage) {
    this.#image = image;
  }

  /** Whether the sectors from `offset` on are here, and how many bytes (at most `length`, all in that block) have the same answer. */
  run(block: number, offset: number, length: number): { readonly present: boolean; readonly length: number } | AskAgain {
    const image = this.#image;
    const { sectorSize } = image.geometry;
    const index = bitmapIndex(image.geometry, block);
    const entry = image.entry(index);
    if (entry === undefined) {
      const loading = image.fetchEntry(index);
      return isPromise(loading) ? loading : this.run(block, offset, length);
    }
    const { pageOffset, bit } = this.#locate(block, offset, entry);
    const page = image.pages.get(pageOffset);
    if (page === undefined) {
      const loading = image.pages.fetch(pageOffset);
      return isPromise(loading) ? loading : this.run(block, offset, length);
    }
    const last = Math.min(bitsPerPage, bit + Math.ceil(length / sectorSize));
    const present = isSet(page, bit);
    const uniform = present ? 0xff : 0;
    let end = bit + 1;
    while (end < last) {
      if (end % 8 === 0 && page.bytes[end >> 3] === uniform) end += 8;
      else if (isSet(page, end) === present) end++;
      else break;
    }
    return { present, length: Math.min(length, (Math.min(end, last) - bit) * sectorSize) };
  }

  /** Makes sure the block's chunk has a bitmap block. */
  *provide(block: number): Steps<void> {
    const image = this.#image;
    const index = bitmapIndex(image.geometry, block);
    if (stateOf(yield* image.loadEntry(index)) === FULLY_PRESENT) return;
    const { offset } = yield* image.newRoom(bitmapBlockSize, 1);
    yield* wait(image.file.writeZeroes(offset, bitmapBlockSize));
    image.pages.drop(offset, bitmapBlockSize);
    yield* image.setEntry(index, offset + FULLY_PRESENT);
  }

  /** Says of a range within a block that its sectors are here. */
  *set(block: number, offset: number, length: number): Steps<void> {
    yield* this.#change(block, offset, length, true);
  }

  /** Says of a block that all its sectors are in the parent. */
  *clear(block: number): Steps<void> {
    const { blockSize } = this.#image.geometry;
    yield* this.#change(block, block * blockSize, blockSize, false);
  }

  *#change(block: number, offset: number, length: number, present: boolean): Steps<void> {
    const image = this.#image;
    const { sectorSize } = image.geometry;
    const entry = yield* image.loadEntry(bitmapIndex(image.geometry, block));
    for (let at = offset; at < offset + length;) {
      const { pageOffset, bit } = this.#locate(block, at, entry);
      const page = yield* image.pages.load(pageOffset);
      const end = Math.min(bitsPerPage, bit + Math.ceil((offset + length - at) / sectorSize));
      fill(page, bit, end, present);
      image.pages.dirty(page);
      at += (end - bit) * sectorSize;
    }
  }

  /** Page and bit within it for the sector at a guest offset. @throws BlockError where the bitmap is not there */
  #locate(block: number, offset: number, entry: number): { readonly pageOffset: number; readonly bit: number } {
    const { geometry, fileSize } = this.#image;
    const place = placeOf(entry);
    if (stateOf(entry) !== FULLY_PRESENT || place === 0 || place + bitmapBlockSize > fileSize) throw invalid(`VHDX sector bitmap of block ${block} is missing`);
    const chunkStart = Math.floor(block / geometry.chunkRatio) * geometry.chunkRatio * geometry.blockSize;
    const bit = Math.floor((offset - chunkStart) / geometry.sectorSize);
    return { pageOffset: place + Math.floor(bit / bitsPerPage) * pageSize, bit: bit % bitsPerPage };
  }
}

/** Gives up the bitmaps of all chunks from that of `firstBlock` on, for a disk of `size` bytes. */
export function* giveUpBitmaps(image: VhdxImage, firstBlock: number, size: number): Steps<void> {
  const { geometry, geometry: { blockSize, chunkRatio } } = image;
  for (let block = firstBlock; block * blockSize < size; block += chunkRatio) {
    const index = bitmapIndex(geometry, block);
    if ((index + 1) * entrySize > image.bat.length) return;
    const entry = yield* image.loadEntry(index);
    if (stateOf(entry) !== FULLY_PRESENT) continue;
    yield* image.setEntry(index, State.NOT_PRESENT);
    image.pages.drop(placeOf(entry), bitmapBlockSize);
    image.release(placeOf(entry), bitmapBlockSize);
  }
  yield* image.writeBack();
}

function isSet(page: CachedTable, bit: number): boolean {
  return (page.bytes[bit >> 3]! & (1 << (bit & 7))) !== 0;
}

function fill({ bytes }: CachedTable, start: number, end: number, value: boolean): void {
  for (let bit = start; bit < end;) {
    if (bit % 8 === 0 && end - bit >= 8) {
      const lastByte = end >> 3;
      bytes.fill(value ? 0xff : 0, bit >> 3, lastByte);
      bit = lastByte * 8;
      continue;
    }
    if (value) bytes[bit >> 3]! |= 1 << (bit & 7);
    else bytes[bit >> 3]! &= ~(1 << (bit & 7));
    bit++;
  }
}
