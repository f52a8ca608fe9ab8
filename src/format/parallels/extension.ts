/** The format extension: a cluster that describes what else the image holds. Of all features only dirty bitmaps are known. */
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError, Errno } from '../../block/errors.js';
import { md5 } from '../../platform/digest.js';
import { wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { sectorSize } from './header.js';
import type { ParallelsImage } from './image.js';

const extensionMagic = 0xab23_4cef_23dc_ea87n;
const bitmapMagic = 0x2038_5fae_252c_b34an;
const clusterHeaderSize = 24;
const featureHeaderSize = 24;
const bitmapHeaderSize = 32;
const largestExtension = 64 << 20;
/** Whoever does not know the feature must leave the image alone. */
const necessary = 1n;
/** Entries of a bitmap's table: 0 all clean, 1 all dirty, else the sector where its piece lies. */
const allDirty = 1n;
/** A longer table of a bitmap is refused. */
const mostPieces = 1 << 22;

interface Feature { readonly magic: bigint; readonly flags: bigint; readonly data: Uint8Array }

interface BitmapFeature {
  readonly name: string;
  /** Bytes per bit. */
  readonly granularity: number;
  readonly table: DataView;
}

/**
 * The bitmaps stored in an image, all of them and nothing else. The places that the extension takes are reserved.
 * @throws BlockError CORRUPT_IMAGE | UNSUPPORTED_FEATURE with the peer's texts
 */
export function* readBitmaps(image: ParallelsImage): Steps<DirtyBitmap[]> {
  const bitmaps: DirtyBitmap[] = [];
  reserve(image, image.header.extensionOffset * sectorSize);
  for (const { magic, flags, data } of yield* readFeatures(image)) {
    if (flags !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', 'Flags for extension feature are unsupported');
    if (magic !== bitmapMagic) throw new BlockError('UNSUPPORTED_FEATURE', `Unknown feature: 0x${magic.toString(16)}`);
    bitmaps.push(yield* loadBitmap(data, image, bitmaps));
  }
  return bitmaps;
}

/**
 * The bitmaps that a writer keeps, and whether it keeps all there is: other features, and whatever is broken, the first write gives up.
 * The places that the extension takes are reserved until then, as far as it can be read.
 * @throws BlockError UNSUPPORTED_FEATURE where it holds something that must not be ignored
 */
export function* readKeptBitmaps(image: ParallelsImage): Steps<{ bitmaps: DirtyBitmap[]; complete: boolean }> {
  const bitmaps: DirtyBitmap[] = [];
  let complete = true;
  reserve(image, image.header.extensionOffset * sectorSize);
  try {
    for (const { magic, flags, data } of yield* readFeatures(image)) {
      if ((flags & necessary) !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', 'Flags for extension feature are unsupported');
      if (magic !== bitmapMagic || flags !== 0n) complete = false;
      else bitmaps.push(yield* loadBitmap(data, image, bitmaps));
    }
    return { bitmaps, complete };
  } catch (error) {
    if (!(error instanceof BlockError) || error.code !== 'CORRUPT_IMAGE') throw error;
    return { bitmaps: [], complete: false };
  }
}

function reserve({ clusterSize, start, file, reserved }: ParallelsImage, offset: number): void {
  if (offset >= start && offset + clusterSize <= file.size) reserved.push({ offset, length: clusterSize });
}

/**
 * Writes an extension with these bitmaps to new clusters. The header in memory names it then; it is not written.
 * @throws BlockError where there is no room; nothing is taken then
 */
export function* writeExtension(image: ParallelsImage, bitmaps: readonly DirtyBitmap[]): Steps<void> {
  const { clusterSize } = image;
  const places: number[] = [];
  const allocate = function* (): Steps<number> {
    const { host } = yield* image.allocate(1, undefined);
    places.push(host);
    return host;
  };
  const cluster = new Uint8Array(clusterSize);
  const view = viewOf(cluster);
  try {
    let at = clusterHeaderSize;
    for (const bitmap of bitmaps) {
      const pieces = Math.ceil(bitmap.storedBytes / clusterSize);
      const length = bitmapHeaderSize + pieces * 8;
      if (at + featureHeaderSize + length + featureHeaderSize > clusterSize) {
        throw new BlockError('NO_SPACE', 'The format extension has no room for so large bitmaps', { errno: Errno.ENOSPC });
      }
      view.setBigUint64(at, bitmapMagic, true);
      view.setUint32(at + 16, length, true);
      at += featureHeaderSize;
      view.setBigUint64(at, BigInt(bitmap.size / sectorSize), true);
      cluster.set(uuidBytes(bitmap.name), at + 8);
      view.setUint32(at + 24, bitmap.granularity / sectorSize, true);
      view.setUint32(at + 28, pieces, true);
      at += bitmapHeaderSize;
      for (let index = 0; index < pieces; index++, at += 8) {
        const piece = bitmap.serialise(index * clusterSize, clusterSize);
        if (piece === 'zeroes') continue;
        let entry = allDirty;
        if (piece !== 'ones') {
          const place = yield* allocate();
          yield* wait(image.file.write(place, piece));
          entry = BigInt(place / sectorSize);
        }
        view.setBigUint64(at, entry, true);
      }
    }
    view.setBigUint64(0, extensionMagic, true);
    cluster.set(md5(cluster.subarray(clusterHeaderSize)), 8);
    const place = yield* allocate();
    yield* wait(image.file.write(place, cluster));
    yield* putDataBehind(image, Math.max(...places) + clusterSize);
    image.header = { ...image.header, extensionOffset: place / sectorSize };
    for (const offset of places) reserve(image, offset);
  } catch (error) {
    for (const host of places) image.cancel(host, 1);
    throw error;
  }
}

/** The peer takes what follows the last cluster of data for surplus, and its repair cuts it off: such a cluster has to lie at `end`. */
function* putDataBehind(image: ParallelsImage, end: number): Steps<void> {
  yield* image.flushTables();
  const { last } = yield* image.survey();
  if (last === undefined) return;
  const host = yield* image.hostOfNow(last);
  if (host >= end) return;
  yield* image.moveCluster(last, end);
  image.free(image.clustersOf(host, image.clusterSize));
}

function* readFeatures(image: ParallelsImage): Steps<Feature[]> {
  const offset = image.header.extensionOffset * sectorSize;
  const head = new Uint8Array(8);
  yield* wait(image.file.read(offset, head));
  const magic = viewOf(head).getBigUint64(0, true);
  if (magic !== extensionMagic) throw corrupt(`Wrong parallels Format Extension magic: 0x${magic.toString(16)}, expected: 0x${extensionMagic.toString(16)}`);
  if (image.clusterSize > largestExtension || offset + image.clusterSize > image.file.size) throw corrupt('Failed to read Format Extension cluster');
  const cluster = new Uint8Array(image.clusterSize);
  yield* wait(image.file.read(offset, cluster));
  const view = viewOf(cluster);
  const sum = md5(cluster.subarray(clusterHeaderSize));
  if (sum.some((byte, index) => byte !== cluster[8 + index])) {
    throw corrupt('Wrong checksum in Format Extension header. Format extension is corrupted.');
  }
  const features: Feature[] = [];
  for (let at = clusterHeaderSize; ;) {
    const remaining = cluster.length - at;
    if (remaining < featureHeaderSize) {
      throw corrupt(`Can not read feature header, as remaining bytes (${remaining}) in Format Extension is less than Feature header size (${featureHeaderSize})`);
    }
    const feature = view.getBigUint64(at, true);
    if (feature === 0n) return features;
    const length = view.getUint32(at + 16, true);
    const flags = view.getBigUint64(at + 8, true);
    at += featureHeaderSize;
    if (length > cluster.length - at) throw corrupt('Feature data_size exceedes Format Extension cluster');
    features.push({ magic: feature, flags, data: cluster.subarray(at, at + length) });
    at += Math.ceil(length / 8) * 8;
  }
}

function parseBitmap(data: Uint8Array, image: ParallelsImage): BitmapFeature {
  if (data.length < bitmapHeaderSize) {
    throw corrupt(`Too small Bitmap Feature area in Parallels Format Extension: ${data.length} bytes, expected at least ${bitmapHeaderSize} bytes`);
  }
  const view = viewOf(data);
  const sectors = view.getBigUint64(0, true);
  if (sectors !== BigInt(image.header.sectors)) {
    throw corrupt(`Bitmap size (in sectors) ${sectors} differs from disk size in sectors ${image.header.sectors}`);
  }
  const granularity = view.getUint32(24, true) * sectorSize;
  if (granularity === 0 || !Number.isInteger(Math.log2(granularity))) throw corrupt('Bitmaps feature corrupted: granularity is not a power of two');
  const pieces = view.getUint32(28, true);
  if (pieces * 8 > data.length - bitmapHeaderSize) throw corrupt('Bitmaps feature corrupted: l1 table exceeds extension data_size');
  const expected = Math.ceil(Math.ceil(image.size / granularity / 8) / image.clusterSize);
  if (pieces !== expected || pieces > mostPieces) {
    throw corrupt(`Bitmap table size ${pieces} does not correspond to bitmap size and cluster size. Expected ${expected}`);
  }
  return { name: uuid(data.subarray(8, 24)), granularity, table: viewOf(data.subarray(bitmapHeaderSize, bitmapHeaderSize + pieces * 8)) };
}

function* loadBitmap(data: Uint8Array, image: ParallelsImage, others: readonly DirtyBitmap[]): Steps<DirtyBitmap> {
  const { name, granularity, table } = parseBitmap(data, image);
  if (others.some((other) => other.name === name)) throw corrupt(`Bitmap already exists: ${name}`);
  const bitmap = new DirtyBitmap({ name, granularity, size: image.size });
  const { clusterSize, file } = image;
  const piece = new Uint8Array(Math.min(clusterSize, bitmap.storedBytes, file.size));
  for (let index = 0; index * 8 < table.byteLength; index++) {
    const sector = table.getBigUint64(index * 8, true);
    if (sector === 0n) continue;
    const position = index * clusterSize;
    const length = Math.min(clusterSize, bitmap.storedBytes - position);
    if (sector === allDirty) {
      bitmap.deserialise(position, 'ones', length);
      continue;
    }
    const offset = Number(sector) * sectorSize;
    reserve(image, offset);
    if (offset + length > file.size) throw corrupt('Failed to read bitmap data cluster');
    yield* wait(file.read(offset, piece.subarray(0, length)));
    bitmap.deserialise(position, piece, length);
  }
  bitmap.persistent = true;
  return bitmap;
}

function uuid(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

function uuidBytes(name: string): Uint8Array {
  return Uint8Array.from(name.replaceAll('-', '').match(/../g)!, (byte) => parseInt(byte, 16));
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
