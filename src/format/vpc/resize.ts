/** Changing the size of a disk. */
import type { ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { addressableSectors, geometryOf, largestGeometry, maxSectors, sectorSize } from './geometry.js';
import { changedDynamicHeader, changedFooter, type Footer } from './header.js';
import type { SparseImage } from './image.js';
import { absent, blockCount, tableSize } from './layout.js';
import { countsByGeometry, forcedCreator } from './options.js';

const copyChunk = 256 * 1024;

/** @throws BlockError with the texts that other formats have for it */
export async function resizeSparse(image: SparseImage, size: number, { preallocation }: ResizeOptions): Promise<void> {
  requireSize(size);
  if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${preallocation}'`, { errno: Errno.ENOTSUP });
  await image.exclusive(() => run(size > image.size ? grow(image, size) : shrink(image, size)));
}

/** @throws BlockError INVALID_ARGUMENT */
export function requireSize(size: number): void {
  if (size % sectorSize !== 0) throw new BlockError('INVALID_ARGUMENT', 'The new size must be a multiple of 512');
  if (size / sectorSize > maxSectors) throw new BlockError('INVALID_ARGUMENT', 'The new size is too large for a VHD', { errno: Errno.EFBIG });
}

/** A disk counted by geometry goes on to be, if it can; else it gets the mark of those that are not. */
export function footerForSize(footer: Footer, size: number): Footer {
  const geometry = geometryOf(size / sectorSize);
  const exact = addressableSectors(geometry) * sectorSize === size;
  const forced = footer.creator === forcedCreator || (countsByGeometry.has(footer.creator) && !exact);
  return changedFooter(footer.bytes, { creator: forced ? forcedCreator : footer.creator, currentSize: size, geometry: forced ? largestGeometry : geometry });
}

function* grow(image: SparseImage, size: number): Steps<void> {
  const { blockSize, header } = image;
  const from = image.size;
  const had = blockCount(from, blockSize);
  const needed = blockCount(size, blockSize);
  for (let block = had; block < Math.min(needed, header.maxEntries); block++) {
    if ((yield* image.loadEntry(block)) !== absent) yield* image.setEntry(block, absent);
  }
  yield* image.flush();
  if (needed > header.maxEntries) yield* moveTable(image, needed);
  yield* zeroTail(image, from, Math.min(size, had * blockSize));
  yield* image.writeFooter(footerForSize(image.footer, size));
  image.size = size;
}

/** Whatever lies in the last block behind the former end becomes visible as zeroes. */
function* zeroTail(image: SparseImage, from: number, to: number): Steps<void> {
  if (to <= from) return;
  const entry = yield* image.loadEntry(Math.floor(from / image.blockSize));
  if (entry !== absent) yield* wait(image.file.writeZeroes(image.dataOffset(entry) + (from % image.blockSize), to - from));
}

/** Lays a longer table behind the blocks, unless the former has room. The header is switched to it when it is there, durably. */
function* moveTable(image: SparseImage, entries: number): Steps<void> {
  const { file, header, footer } = image;
  const length = tableSize(entries);
  const place = length === tableSize(header.maxEntries) ? header.tableOffset : image.end;
  const copied = header.maxEntries * 4;
  for (let done = 0; done < length; done += copyChunk) {
    const chunk = new Uint8Array(Math.min(copyChunk, length - done));
    const old = Math.max(0, Math.min(chunk.length, copied - done));
    chunk.fill(0xff, old);
    if (old > 0) yield* wait(file.read(header.tableOffset + done, chunk.subarray(0, old)));
    yield* wait(file.write(place + done, chunk));
  }
  image.extend(place + length);
  yield* image.flush();
  const next = changedDynamicHeader(header.bytes, { tableOffset: place, maxEntries: entries });
  yield* wait(file.write(footer.dataOffset!, next.bytes));
  yield* wait(file.flush());
  image.header = next;
  image.forget(entries);
}

function* shrink(image: SparseImage, size: number): Steps<void> {
  const { blockSize } = image;
  const freed: number[] = [];
  for (let block = blockCount(size, blockSize); block < blockCount(image.size, blockSize); block++) {
    const entry = yield* image.loadEntry(block);
    if (entry === absent) continue;
    freed.push(entry * sectorSize);
    yield* image.setEntry(block, absent);
  }
  yield* image.flush();
  image.size = size;
  image.forget(image.header.maxEntries);
  const end = endWithout(freed, image);
  yield* image.writeFooter(footerForSize(image.footer, size));
  if (end < image.end && image.footerOffset === image.end) yield* image.cutAt(end);
}

/** Where the file could end: the last blocks of all may have been given up. */
function endWithout(freed: readonly number[], image: SparseImage): number {
  let { end } = image;
  for (const offset of [...freed].sort((a, b) => b - a)) {
    if (offset + image.bitmapSize + image.blockSize !== end) break;
    end = offset;
  }
  return end;
}
