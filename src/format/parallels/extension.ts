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
 * The bitmaps stored in an image.
 * @throws BlockError CORRUPT_IMAGE | UNSUPPORTED_FEATURE with the peer's texts
 */
export function* readBitmaps(image: ParallelsImage): Steps<DirtyBitmap[]> {
  const bitmaps: DirtyBitmap[] = [];
  for (const { magic, flags, data } of yield* readFeatures(image)) {
    if (flags !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', 'Flags for extension feature are unsupported');
    if (magic !== bitmapMagic) throw new BlockError('UNSUPPORTED_FEATURE', `Unknown feature: 0x${magic.toString(16)}`);
    const feature = parseBitmap(data, image);
    if (bitmaps.some(({ name }) => name === feature.name)) throw corrupt(`Bitmap already exists: ${feature.name}`);
    bitmaps.push(yield* loadBitmap(feature, image));
  }
  return bitmaps;
}

/**
 * Finds the places an extension takes, for a writer to whom it says nothing.
 * @throws BlockError UNSUPPORTED_FEATURE where it holds something that must not be ignored
 */
export function* reservePlaces(image: ParallelsImage): Steps<void> {
  const { clusterSize, start, file, reserved } = image;
  const reserve = (offset: number): void => {
    if (offset >= start && offset + clusterSize <= file.size) reserved.push({ offset, length: clusterSize });
  };
  reserve(image.header.extensionOffset * sectorSize);
  try {
    for (const { magic, flags, data } of yield* readFeatures(image)) {
      if ((flags & necessary) !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', 'Flags for extension feature are unsupported');
      if (magic !== bitmapMagic) continue;
      const { table } = parseBitmap(data, image);
      for (let at = 0; at < table.byteLength; at += 8) {
        const sector = table.getBigUint64(at, true);
        if (sector > allDirty) reserve(Number(sector) * sectorSize);
      }
    }
  } catch (error) {
    // A broken extension is given up by the first write, as a sound one is.
    if (!(error instanceof BlockError) || error.code !== 'CORRUPT_IMAGE') throw error;
  }
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

function* loadBitmap({ name, granularity, table }: BitmapFeature, image: ParallelsImage): Steps<DirtyBitmap> {
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
    if (offset + length > file.size) throw corrupt('Failed to read bitmap data cluster');
    yield* wait(file.read(offset, piece.subarray(0, length)));
    bitmap.deserialise(position, piece, length);
  }
  Object.assign(bitmap, { enabled: false, readOnly: true, persistent: true });
  return bitmap;
}

function uuid(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
