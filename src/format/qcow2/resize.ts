/** Growing and shrinking the guest's disk. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import type { Preallocation, ResizeOptions } from '../../block/driver.js';
import { isZero } from '../../platform/bytes.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { Qcow2Bitmaps } from './bitmap.js';
import { hex } from './geometry.js';
import { Autoclear, l1EntriesFor } from './header.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import { preallocateArea, preallocateTables, type PreallocateParts } from './preallocate.js';
import { entryHi, entryLo, entryOffset, readRefcount, setEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

export interface ResizeParts extends PreallocateParts {
  readonly bitmaps: Qcow2Bitmaps;
  /** Writes zeroes over guest bytes within one cluster. */
  readonly writeZeroes: (offset: number, length: number) => Promise<void>;
}

/**
 * Changes the virtual size. Shrinking expects that no other request runs.
 * @throws BlockError with the peer's text
 */
export async function resizeQcow2(parts: ResizeParts, size: number, options: ResizeOptions): Promise<void> {
  const { image, bitmaps } = parts;
  if (size >= 2 ** 63) throw new BlockError('INVALID_ARGUMENT', 'Image size cannot be negative', { errno: Errno.EINVAL });
  if (size % 512 !== 0) throw new BlockError('INVALID_ARGUMENT', 'The new size must be a multiple of 512', { errno: Errno.EINVAL });
  if (image.snapshots.entries.length > 0 && image.header.version < 3) {
    throw new BlockError('NOT_SUPPORTED', "Can't resize a v2 image which has snapshots", { errno: Errno.ENOTSUP });
  }
  bitmaps.assertResizable();
  if (size < image.size) await shrink(parts, size, options);
  else await grow(parts, size, options);
  await step('Failed to update the image size', () => run(image.updateHeader({ size })));
  await image.file.flush();
}

/** Runs a step; its failure is told as `text: reason`. */
async function step<T>(text: string, action: () => T | Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, `${text}: ${strerror(error.errno)}`, error.context, error);
  }
}

async function shrink(parts: ResizeParts, size: number, options: ResizeOptions): Promise<void> {
  const { image, clusters } = parts;
  const { clusterSize, l2Coverage } = image.geometry;
  if (options.preallocation !== 'off') {
    throw new BlockError('INVALID_ARGUMENT', "Preallocation can't be used for shrinking an image", { errno: Errno.EINVAL });
  }
  const cut = Math.ceil(size / clusterSize) * clusterSize;
  const end = Math.ceil(image.size / clusterSize) * clusterSize;
  if (cut > size) await blank(parts, size, Math.min(cut, image.size));
  await step('Failed to discard cropped clusters', async () => {
    if (cut < end) await run(clusters.discard(cut, end - cut, 'always', true));
    await image.exclusive(() => run(image.flushMetadata()));
  });
  await step('Failed to reduce the number of L2 tables', () => image.exclusive(() => run(cutL1(image, Math.ceil(size / l2Coverage)))));
  await step('Failed to discard unused refblocks', () => image.exclusive(() => run(dropRefcountBlocks(image))));
  if (image.geometry.external) {
    await step('Failed to resize underlying file', () => image.dataFile.resize(size, { exact: false }));
  }
  const last = await step('Failed to find the last cluster', () => image.exclusive(() => run(image.refcounts.endOfUse())));
  if (last * clusterSize < image.file.size) {
    await step('Failed to truncate the tail of the image', () => image.file.resize(last * clusterSize, { exact: false }));
  }
}

/** What is cut off within the last cluster must not come back when the disk grows. Where nothing shows, nothing is written. */
async function blank({ read, writeZeroes }: ResizeParts, from: number, to: number): Promise<void> {
  const bytes = new Uint8Array(to - from);
  await read(from, bytes);
  if (!isZero(bytes)) await writeZeroes(from, bytes.length);
}

/** Gives up the L2 tables behind the first `entries`. */
function* cutL1(image: Qcow2Image, entries: number): Steps<void> {
  const { l1, geometry: { clusterSize } } = image;
  const tables: number[] = [];
  for (let index = entries; index < l1.byteLength / 8; index++) {
    const offset = entryOffset(entryHi(l1, index), entryLo(l1, index));
    if (offset !== 0) tables.push(offset);
    setEntry(l1, index, 0, 0);
  }
  if (tables.length === 0) return;
  yield* image.writeL1(entries, l1.byteLength / 8 - entries);
  for (const offset of tables) yield* image.refcounts.update(offset, clusterSize, -1, 'always');
  yield* image.flushMetadata();
}

/** Gives up refcount blocks that count nothing but themselves: they go from the table on disk first, then from the refcounts. */
function* dropRefcountBlocks(image: Qcow2Image): Steps<void> {
  const { refcounts, file, header } = image;
  yield* image.flushMetadata();
  const bytes = new Uint8Array(refcounts.table.buffer, refcounts.table.byteOffset, refcounts.table.byteLength).slice();
  const unused: number[] = [];
  for (let index = 0; index < refcounts.tableSize; index++) {
    if (refcounts.blockOffset(index) === 0 || !(yield* countsNothing(image, index))) continue;
    unused.push(index);
    setEntry(viewOf(bytes), index, 0, 0);
  }
  if (unused.length === 0) return;
  yield* wait(file.write(header.refcountTableOffset, bytes));
  yield* wait(file.flush());
  for (const index of unused) yield* releaseBlock(image, index);
  yield* refcounts.cache.writeBack();
}

/** Whether a refcount block holds only zeroes, apart from its own count. */
function* countsNothing(image: Qcow2Image, index: number): Steps<boolean> {
  const { refcounts, geometry: { clusterSize, refcountOrder } } = image;
  const offset = refcounts.blockOffset(index);
  if (offset % clusterSize !== 0) {
    throw image.signalCorruption(`Cannot get entry from refcount block cache: Offset ${hex(offset)} is unaligned`, { fatal: true });
  }
  const { bytes } = yield* refcounts.cache.load(offset);
  const own = offset / clusterSize - index * refcounts.perBlock;
  for (let at = 0; at < refcounts.perBlock; at++) {
    if (at !== own && readRefcount(bytes, at, refcountOrder) !== 0) return false;
  }
  return true;
}

/** Frees the cluster of a refcount block that is not in the table on disk any more, and takes it out of the table in memory. */
function* releaseBlock(image: Qcow2Image, index: number): Steps<void> {
  const { refcounts, metadata, geometry: { clusterSize } } = image;
  const offset = refcounts.blockOffset(index);
  const cluster = offset / clusterSize;
  if (refcounts.blockOffset(Math.floor(cluster / refcounts.perBlock)) === 0) {
    throw image.signalCorruption(`Refblock at ${hex(offset)} is not covered by the refcount structures`, { fatal: true, offset, length: clusterSize });
  }
  const refcount = yield* refcounts.get(cluster);
  if (refcount !== 1) {
    const covering = refcounts.blockOffset(Math.floor(cluster / refcounts.perBlock));
    throw image.signalCorruption(`Invalid refcount: refblock offset ${hex(covering)}, reftable index ${Math.floor(cluster / refcounts.perBlock)}, `
      + `block offset ${hex(offset)}, refcount ${hex(refcount)}`, { fatal: true, offset, length: clusterSize });
  }
  yield* refcounts.update(offset, clusterSize, -1, 'other');
  setEntry(refcounts.table, index, 0, 0);
  refcounts.cache.drop(offset, clusterSize);
  metadata.remove(Structure.REFCOUNT_BLOCK, offset, clusterSize);
}

async function grow(parts: ResizeParts, size: number, options: ResizeOptions): Promise<void> {
  const { image } = parts;
  const { clusterBits, extended, external } = image.geometry;
  const from = image.size;
  const entries = l1EntriesFor(size, clusterBits, extended);
  await step('Failed to grow the L1 table', () => image.exclusive(() => run(image.growL1(entries, true))));
  const rawData = external && (image.header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n;
  const preallocation: Preallocation = rawData && options.preallocation === 'off' ? 'metadata' : options.preallocation;
  const inOnePiece = !external && (preallocation === 'falloc' || preallocation === 'full') && size > from;
  if (inOnePiece) {
    await provideArea(parts, from, size, options.zeroNew, preallocation);
  } else if (preallocation !== 'off' && size > from) {
    await preallocateTables(parts, from, size, preallocation === 'metadata' ? 'off' : preallocation);
  }
  if (external && image.dataFile.size < size) await image.dataFile.resize(size, { exact: false });
  if (options.zeroNew && size > from && !inOnePiece) await zeroNew(parts, from, size);
  if (preallocation !== 'off') {
    await step('Failed to flush the preallocated area to disk', () => image.exclusive(() => run(image.flush())));
  }
}

function provideArea(parts: ResizeParts, from: number, to: number, visible: boolean, preallocation: Preallocation): Promise<void> {
  const { image } = parts;
  return preallocateArea(parts, from, to, visible, (end) => step('Failed to resize underlying file', async () => {
    await image.exclusive(() => run(image.flushMetadata()));
    await image.file.resize(end, { preallocation });
  }));
}

/** Makes the new range read as zero where the backing file would show. */
async function zeroNew({ image, clusters, writeZeroes }: ResizeParts, from: number, to: number): Promise<void> {
  const { clusterSize, subclusterSize } = image.geometry;
  const aligned = Math.min(to, Math.ceil(from / subclusterSize) * subclusterSize);
  if (aligned > from) await step('Failed to zero out the new area', () => writeZeroes(from, aligned - from));
  if (to === aligned) return;
  if (image.header.version < 3) throw systemError(Errno.ENOTSUP, {}, 'Failed to zero out new clusters');
  await step('Failed to zero out new clusters', () => run(clusters.zero(aligned, Math.ceil(to / clusterSize) * clusterSize - aligned, 0)));
}
