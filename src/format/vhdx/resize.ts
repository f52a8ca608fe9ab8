/** Growing and shrinking a disk. */
import type { ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { reservedRanges, tableEntries } from './check.js';
import { batGuid, MiB, regionTableOffsets, serialiseRegionTable, writeSize } from './header.js';
import { maxVirtualSize } from './metadata.js';
import type { VhdxOps } from './ops.js';
import type { VhdxImage } from './image.js';
import { giveUpBitmaps } from './sector-bitmaps.js';
import { entryCount, entrySize, pageSize, payloadIndex, placeOf, State, stateOf } from './tables.js';

const zeroBuffer = MiB;

/** @throws BlockError INVALID_ARGUMENT | NOT_SUPPORTED with the peer's kind of text */
export async function resizeVhdx(ops: VhdxOps, size: number, { preallocation, zeroNew }: ResizeOptions): Promise<void> {
  const { image } = ops;
  if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${preallocation}'`, { errno: Errno.ENOTSUP });
  const old = image.size;
  const rounded = Math.ceil(size / image.geometry.sectorSize) * image.geometry.sectorSize;
  if (rounded > maxVirtualSize) throw new BlockError('INVALID_ARGUMENT', 'Image size too large; max of 64TB', { errno: Errno.EINVAL });
  if (rounded === old) return;
  await image.beforeChange();
  if (rounded < old) return shrink(image, rounded);
  await image.exclusive(() => run(prepareTable(image, rounded)));
  image.setSize(rounded);
  try {
    await image.exclusive(() => run(addBlocks(image, old, rounded, ops.growsZeroed)));
    if (zeroNew && image.hasParent) await writeZeroes(ops, old, rounded - old);
    await image.exclusive(() => run(storeSize(image, rounded)));
  } catch (error) {
    image.setSize(old);
    throw error;
  }
}

/** The size comes first: whatever is cut off, no block within it is lost. */
async function shrink(image: VhdxImage, size: number): Promise<void> {
  const old = image.size;
  image.setSize(size);
  try {
    await image.exclusive(() => run(storeSize(image, size)));
  } catch (error) {
    image.setSize(old);
    throw error;
  }
  await image.exclusive(() => run(dropBlocks(image, old, size)));
  if (image.file.node.ops.capabilities.resize === 'any') await image.exclusive(() => run(cutFile(image)));
}

function* dropBlocks(image: VhdxImage, old: number, size: number): Steps<void> {
  const { geometry, geometry: { blockSize } } = image;
  for (let block = Math.ceil(size / blockSize); block * blockSize < old; block++) {
    const index = payloadIndex(geometry, block);
    const entry = yield* image.loadEntry(index);
    if (entry === State.NOT_PRESENT) continue;
    yield* image.setEntry(index, State.NOT_PRESENT);
    if (stateOf(entry) >= State.FULLY_PRESENT) image.release(placeOf(entry), blockSize);
    if (image.pages.crowded) yield* image.writeBack();
  }
  yield* image.writeBack();
  const { chunkRatio } = geometry;
  if (image.hasParent) yield* giveUpBitmaps(image, Math.ceil(Math.ceil(size / blockSize) / chunkRatio) * chunkRatio, old);
}

/** Takes off what lies behind everything that is in use. */
function* cutFile(image: VhdxImage): Steps<void> {
  const { geometry: { blockSize } } = image;
  let end = Math.max(...reservedRanges(image).map(({ offset, length }) => offset + length));
  yield* tableEntries(image, ({ place, length }) => { end = Math.max(end, place + length); }, { spare: (place) => { end = Math.max(end, place + blockSize); } });
  if (end < image.file.size) yield* image.cutAt(end);
}

/** Makes room in the table for a disk of that size; what it held for later sizes is forgotten. */
function* prepareTable(image: VhdxImage, size: number): Steps<void> {
  const { geometry, hasParent } = image;
  const before = entryCount(geometry, image.size, hasParent);
  const after = entryCount(geometry, size, hasParent);
  const { length } = image.bat;
  if (after * entrySize > length) yield* moveTable(image, Math.ceil(after * entrySize / MiB) * MiB);
  const end = Math.min(after, Math.floor(length / entrySize));
  for (let index = before; index < end; index++) {
    if ((yield* image.loadEntry(index)) !== State.NOT_PRESENT) yield* image.setEntry(index, State.NOT_PRESENT);
  }
  yield* image.writeBack();
}

/** Moves the table to a longer place: both region tables change at once. */
function* moveTable(image: VhdxImage, length: number): Steps<void> {
  yield* image.writeBack();
  const { bat, file, regions } = image;
  const { offset } = yield* image.newRoom(length, 1);
  yield* wait(file.writeZeroes(offset, length));
  for (let at = 0; at < bat.length; at += MiB) {
    const bytes = new Uint8Array(Math.min(MiB, bat.length - at));
    yield* wait(file.read(bat.offset + at, bytes));
    yield* wait(file.write(offset + at, bytes));
  }
  const moved = regions.map((region) => (region.guid === batGuid ? { ...region, offset, length } : region));
  // only the first page of a region table can have changed, unless it lists hundreds
  const table = serialiseRegionTable(moved);
  const used = Math.ceil((16 + 32 * moved.length) / pageSize) * pageSize;
  yield* image.editMetadata(regionTableOffsets.map((at) => ({ offset: at, bytes: table.subarray(0, used) })));
  image.regions = moved;
  image.pages.clear();
}

/** What lies in the file behind the former end of the disk reads as zero; a fixed disk gets all its room. */
function* addBlocks(image: VhdxImage, old: number, size: number, growsZeroed: boolean): Steps<void> {
  const { file, geometry, geometry: { blockSize } } = image;
  const last = Math.floor(old / blockSize);
  if (old % blockSize !== 0) {
    const entry = yield* image.loadEntry(payloadIndex(geometry, last));
    if (stateOf(entry) >= State.FULLY_PRESENT) {
      yield* image.growFile(placeOf(entry) + blockSize);
      yield* wait(file.writeZeroes(placeOf(entry) + (old % blockSize), blockSize - (old % blockSize)));
    }
  }
  if (!image.parameters.fixed) return;
  const first = Math.ceil(old / blockSize);
  const count = Math.ceil(size / blockSize) - first;
  if (count <= 0) return;
  const { offset, fresh } = yield* image.newRoom(blockSize, count);
  if (!(fresh && growsZeroed)) yield* wait(file.writeZeroes(offset, count * blockSize));
  for (let index = 0; index < count; index++) {
    yield* image.setEntry(payloadIndex(geometry, first + index), offset + index * blockSize + State.FULLY_PRESENT);
    if (image.pages.crowded) yield* image.writeBack();
  }
}

/** Hides what a longer parent has there. */
async function writeZeroes(ops: VhdxOps, offset: number, length: number): Promise<void> {
  const { blockSize } = ops.image.geometry;
  const head = Math.min(length, (blockSize - (offset % blockSize)) % blockSize);
  for (let done = 0; done < head; done += zeroBuffer) await ops.write(offset + done, new Uint8Array(Math.min(zeroBuffer, head - done)), 0);
  if (length > head) await ops.writeZeroes(offset + head, length - head, 0);
}

function* storeSize(image: VhdxImage, size: number): Steps<void> {
  yield* image.writeBack();
  const bytes = new Uint8Array(8);
  writeSize(viewOf(bytes), 0, size);
  yield* image.editMetadata([{ offset: image.metadataRegion.offset + image.metadata.sizeAt, bytes }]);
}
