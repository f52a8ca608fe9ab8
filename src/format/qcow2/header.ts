/**
 * Codec of qcow2's header cluster: header (versions 2 and 3), header extensions, backing file name.
 */
import { BlockError, Errno } from '../../block/errors.js';
import { maxBitmapDirectorySize, maxBitmaps, maxSnapshots, readU64, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

export const qcow2Magic = 0x514649fb;
export const headerSizeV2 = 72;
/** Smallest header of version 3. */
export const headerSizeV3 = 104;
/** What is written: version 3 with the compression type. */
export const headerSize = 112;

/** Incompatible features, as a bit mask over the low half of the field. */
export const Incompatible = { DIRTY: 1, CORRUPT: 2, DATA_FILE: 4, COMPRESSION: 8, EXTENDED_L2: 16 } as const;
export const Compatible = { LAZY_REFCOUNTS: 1 } as const;
export const Autoclear = { BITMAPS: 1, DATA_FILE_RAW: 2 } as const;

const knownIncompatible = 31n;

export const minClusterBits = 9;
export const maxClusterBits = 21;
export const maxL1Bytes = 32 * 1024 * 1024;
export const maxRefcountTableBytes = 8 * 1024 * 1024;
export const maxBackingNameSize = 1023;

/** Header extension types. */
export const Extension = {
  END: 0, BACKING_FORMAT: 0xe2792aca, FEATURE_NAMES: 0x6803f857, BITMAPS: 0x23852875, CRYPTO: 0x0537be77, DATA_FILE: 0x44415441,
} as const;

export const CryptMethod = { NONE: 0, AES: 1, LUKS: 2 } as const;
export type CompressionType = 'zlib' | 'zstd';

export interface BitmapsExtension { count: number; directorySize: number; directoryOffset: number }
export interface CryptoExtension { offset: number; length: number }
export interface UnknownExtension { readonly type: number; readonly data: Uint8Array }

/** Contents of the header cluster. Offsets and sizes in bytes; feature fields as found, unknown bits included. */
export interface Qcow2Header {
  version: 2 | 3;
  clusterBits: number;
  size: number;
  cryptMethod: number;
  /** Entries of the active L1 table. */
  l1Size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  snapshotCount: number;
  snapshotsOffset: number;
  incompatible: bigint;
  compatible: bigint;
  autoclear: bigint;
  /** Refcounts are 2^order bits wide. */
  refcountOrder: number;
  compression: CompressionType;
  backingFile: string | undefined;
  backingFormat: string | undefined;
  dataFile: string | undefined;
  bitmaps: BitmapsExtension | undefined;
  crypto: CryptoExtension | undefined;
  unknownExtensions: UnknownExtension[];
  /** Header bytes beyond {@link headerSize}, of a later version of the format; kept. */
  unknownFields: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Certainty that a file is qcow2, from its first bytes. */
export function probeQcow2(head: Uint8Array): number {
  if (head.length < 8) return 0;
  const view = viewOf(head);
  return view.getUint32(0) === qcow2Magic && view.getUint32(4) >= 2 ? 100 : 0;
}

/**
 * Cluster size in bits, from the first bytes of the file (at least 24), so that the whole header cluster can be read.
 * @throws BlockError NOT_THIS_FORMAT, UNSUPPORTED_FEATURE (version), CORRUPT_IMAGE
 */
export function clusterBitsOf(head: Uint8Array): number {
  const view = viewOf(head);
  if (head.length < 4 || view.getUint32(0) !== qcow2Magic) throw new BlockError('NOT_THIS_FORMAT', 'Image is not in qcow2 format');
  if (head.length < headerSizeV2) throw invalid('qcow2 header too short');
  const version = view.getUint32(4);
  if (version < 2 || version > 3) throw unsupported(`Unsupported qcow2 version ${version}`);
  const clusterBits = view.getUint32(20);
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) throw invalid(`Unsupported cluster size: 2^${clusterBits}`);
  return clusterBits;
}

/**
 * Decodes the header cluster; `bytes` are the file's first cluster (fewer where the file is shorter).
 * Fields are checked as far as they can be without reading anything else; unknown incompatible features are refused by name.
 * @param onWarning receives messages that do not fail the open (bitmaps that became inconsistent)
 * @param check lets pass damage that a check can repair: no refcount table, too many snapshots
 * @throws BlockError NOT_THIS_FORMAT, UNSUPPORTED_FEATURE, CORRUPT_IMAGE
 */
export function parseHeader(bytes: Uint8Array, onWarning: (message: string) => void = () => {}, check = false): Qcow2Header {
  const clusterBits = clusterBitsOf(bytes);
  const view = viewOf(bytes);
  const version = view.getUint32(4) === 2 ? 2 : 3;
  if (version === 3 && bytes.length < headerSizeV3) throw invalid('qcow2 header too short');
  const length = version === 2 ? headerSizeV2 : view.getUint32(100);
  if (version === 3 && length < headerSizeV3) throw invalid('qcow2 header too short');
  const clusterSize = 2 ** clusterBits;
  if (length > clusterSize) throw invalid('qcow2 header exceeds cluster size');
  const backingOffset = readU64(view, 8);
  if (backingOffset > clusterSize) throw invalid('Invalid backing file offset');

  const header: Qcow2Header = {
    version, clusterBits, size: wholeSectors(readU64(view, 24)), cryptMethod: view.getUint32(32),
    l1Size: view.getUint32(36), l1Offset: readU64(view, 40),
    refcountTableOffset: readU64(view, 48), refcountTableClusters: view.getUint32(56),
    snapshotCount: view.getUint32(60), snapshotsOffset: readU64(view, 64),
    incompatible: version === 3 ? view.getBigUint64(72) : 0n,
    compatible: version === 3 ? view.getBigUint64(80) : 0n,
    autoclear: version === 3 ? view.getBigUint64(88) : 0n,
    refcountOrder: version === 3 ? view.getUint32(96) : 4,
    compression: 'zlib', backingFile: undefined, backingFormat: undefined, dataFile: undefined, bitmaps: undefined, crypto: undefined,
    unknownExtensions: [], unknownFields: bytes.slice(headerSize, Math.max(length, headerSize)),
  };
  const extensionsEnd = backingOffset !== 0 ? backingOffset : clusterSize;
  const extensions = [...scanExtensions(bytes, length, extensionsEnd)];
  refuseUnknownFeatures(header, extensions);
  const compression = length > headerSizeV3 ? view.getUint8(104) : 0;
  checkFields(header, compression, check);
  header.compression = compression === 1 ? 'zstd' : 'zlib';
  for (const extension of extensions) takeExtension(header, extension, onWarning);
  if (header.cryptMethod === CryptMethod.LUKS && header.crypto === undefined) {
    throw invalid('Missing CRYPTO header for crypt method 2');
  }
  if (backingOffset !== 0) {
    const nameSize = view.getUint32(16);
    if (nameSize > Math.min(maxBackingNameSize, clusterSize - backingOffset)) throw invalid('Backing file name too long');
    if (backingOffset + nameSize > bytes.length) throw invalid('Could not read backing file name');
    header.backingFile = decoder.decode(bytes.subarray(backingOffset, backingOffset + nameSize)) || undefined;
  }
  return header;
}

/** A disk has sectors of 512 bytes; the peer does not show what remains behind the last one. */
function wholeSectors(size: number): number {
  return size - (size % 512);
}

interface RawExtension { readonly type: number; readonly data: Uint8Array }

function* scanExtensions(bytes: Uint8Array, start: number, end: number): Generator<RawExtension> {
  let at = start;
  while (at < end) {
    if (at + 8 > bytes.length) throw invalid(`qcow2_read_extension: ERROR: pread fail from offset ${at}`);
    const view = viewOf(bytes);
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    at += 8;
    if (length > end - at) throw invalid('Header extension too large');
    if (type === Extension.END) return;
    if (at + length > bytes.length) throw invalid('Header extension too large');
    yield { type, data: bytes.subarray(at, at + length) };
    at += Math.ceil(length / 8) * 8;
  }
}

function refuseUnknownFeatures(header: Qcow2Header, extensions: readonly RawExtension[]): void {
  let unknown = header.incompatible & ~knownIncompatible;
  if (unknown === 0n) return;
  const names: string[] = [];
  const table = extensions.findLast((extension) => extension.type === Extension.FEATURE_NAMES)?.data ?? new Uint8Array();
  for (let at = 0; at + 2 < table.length; at += 48) {
    const bit = 1n << BigInt(table[at + 1]! & 63);
    if (table[at] !== 0 || (unknown & bit) === 0n) continue;
    const name = decoder.decode(table.subarray(at + 2, at + 48));
    names.push(name.split('\0', 1)[0] ?? '');
    unknown &= ~bit;
  }
  if (unknown !== 0n) names.push(`Unknown incompatible feature: ${unknown.toString(16)}`);
  throw unsupported(`Unsupported qcow2 feature(s): ${names.join(', ')}`);
}

function checkFields(header: Qcow2Header, compression: number, check: boolean): void {
  const clusterSize = 2 ** header.clusterBits;
  if (hasFeature(header, Incompatible.EXTENDED_L2) && clusterSize / 32 < 512) {
    throw invalid(`Unsupported subcluster size: ${clusterSize / 32}`);
  }
  const compressionFlag = hasFeature(header, Incompatible.COMPRESSION);
  if (compression > 1) throw unsupported(`qcow2: unknown compression type: ${compression}`);
  if (compression === 0 && compressionFlag) throw invalid('qcow2: Compression type incompatible feature bit must not be set');
  if (compression !== 0 && !compressionFlag) throw invalid('qcow2: Compression type incompatible feature bit must be set');
  if (header.refcountOrder > 6) throw invalid('Reference count entry width too large; may not exceed 64 bits');
  if (header.cryptMethod > CryptMethod.LUKS) throw invalid(`Unsupported encryption method ${header.cryptMethod | 0}`);

  if (header.refcountTableClusters > maxRefcountTableBytes / clusterSize) throw invalid('Reference count table too large');
  if (header.refcountTableClusters === 0 && !check) throw invalid('Image does not contain a reference count table');
  checkTable(header.refcountTableOffset, header.refcountTableClusters * clusterSize, clusterSize, 'Reference count table offset invalid');
  if (header.snapshotCount > maxSnapshots && !check) throw invalid('Snapshot table too large');
  checkTable(header.snapshotsOffset, header.snapshotCount * 40, clusterSize, 'Snapshot table offset invalid');
  if (header.l1Size > maxL1Bytes / 8) throw new BlockError('CORRUPT_IMAGE', 'Active L1 table too large', { errno: Errno.EFBIG });
  checkTable(header.l1Offset, header.l1Size * 8, clusterSize, 'Active L1 table offset invalid');
  const needed = l1EntriesFor(header.size, header.clusterBits, hasFeature(header, Incompatible.EXTENDED_L2));
  if (needed > 0x7fff_ffff) throw new BlockError('CORRUPT_IMAGE', 'Image is too big', { errno: Errno.EFBIG });
  if (header.l1Size < needed) throw invalid('L1 table is too small');
  if (header.size > Number.MAX_SAFE_INTEGER) throw new BlockError('CORRUPT_IMAGE', 'Image is too big', { errno: Errno.EFBIG });
}

/** Checks that a table is aligned to a cluster and lies where offsets can reach. */
function checkTable(offset: number, length: number, clusterSize: number, message: string): void {
  if (offset + length > Number.MAX_SAFE_INTEGER || offset % clusterSize !== 0) throw invalid(message);
}

/** L1 entries that a guest disk of `size` bytes needs. */
export function l1EntriesFor(size: number, clusterBits: number, extendedL2: boolean): number {
  return Math.ceil(size / 2 ** (2 * clusterBits - (extendedL2 ? 4 : 3)));
}

function takeExtension(header: Qcow2Header, { type, data }: RawExtension, onWarning: (message: string) => void): void {
  switch (type) {
    case Extension.BACKING_FORMAT:
      if (data.length >= 16) throw invalid(`ERROR: ext_backing_format: len=${data.length} too large (>=16)`);
      header.backingFormat = decoder.decode(data);
      break;
    case Extension.DATA_FILE:
      if (hasFeature(header, Incompatible.DATA_FILE)) header.dataFile = decoder.decode(data);
      break;
    case Extension.FEATURE_NAMES:
      break;
    case Extension.BITMAPS:
      header.bitmaps = parseBitmapsExtension(header, data, onWarning);
      break;
    case Extension.CRYPTO:
      header.crypto = parseCryptoExtension(header, data);
      break;
    default:
      header.unknownExtensions.push({ type, data: data.slice() });
  }
}

function parseBitmapsExtension(header: Qcow2Header, data: Uint8Array, onWarning: (message: string) => void): BitmapsExtension | undefined {
  if (data.length !== 24) throw invalid('bitmaps_ext: Invalid extension length');
  if ((header.autoclear & BigInt(Autoclear.BITMAPS)) === 0n) {
    const leaks = "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.";
    onWarning((header.version < 3
      ? 'This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap support; '
        + 'so now they must all be considered inconsistent'
      : 'a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent') + `\n${leaks}`);
    return undefined;
  }
  const view = viewOf(data);
  const count = view.getUint32(0);
  const directorySize = readU64(view, 8);
  const directoryOffset = readU64(view, 16);
  if (view.getUint32(4) !== 0) throw invalid('bitmaps_ext: Reserved field is not zero');
  if (count > maxBitmaps) {
    throw invalid(`bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${maxBitmaps}`);
  }
  if (count === 0) throw invalid('found bitmaps extension with zero bitmaps');
  if (directoryOffset % 2 ** header.clusterBits !== 0) throw invalid('bitmaps_ext: invalid bitmap directory offset');
  if (directorySize > maxBitmapDirectorySize) {
    throw invalid(`bitmaps_ext: bitmap directory size (${directorySize}) exceeds the maximum supported size (${maxBitmapDirectorySize})`);
  }
  return { count, directorySize, directoryOffset };
}

function parseCryptoExtension(header: Qcow2Header, data: Uint8Array): CryptoExtension {
  if (header.cryptMethod !== CryptMethod.LUKS) throw invalid(`CRYPTO header extension only expected with LUKS encryption method`);
  if (data.length !== 16) throw invalid(`CRYPTO header extension size ${data.length}, but expected size 16`);
  const view = viewOf(data);
  const offset = readU64(view, 0);
  if (offset % 2 ** header.clusterBits !== 0) {
    throw invalid(`Encryption header offset '${offset}' is not a multiple of cluster size '${2 ** header.clusterBits}'`);
  }
  return { offset, length: readU64(view, 8) };
}

/** Whether an incompatible feature is set. */
export function hasFeature(header: Qcow2Header, feature: number): boolean {
  return (header.incompatible & BigInt(feature)) !== 0n;
}

const featureNames: readonly (readonly [type: number, bit: number, name: string])[] = [
  [0, 0, 'dirty bit'], [0, 1, 'corrupt bit'], [0, 2, 'external data file'], [0, 3, 'compression type'], [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'], [2, 0, 'bitmaps'], [2, 1, 'raw external data'],
];

/** Clusters up to this size have no room for the table of feature names. */
const largestClusterWithoutNames = 4096;

/**
 * The header cluster as written to disk, zero padded to the cluster's size.
 * @throws BlockError NO_SPACE where it does not fit, INVALID_ARGUMENT where the backing name is too long
 */
export function serialiseHeader(header: Qcow2Header): Uint8Array {
  const clusterSize = 2 ** header.clusterBits;
  const bytes = new Uint8Array(clusterSize);
  const view = viewOf(bytes);
  let at = writeFixedFields(header, bytes, view);

  const append = (type: number, data: Uint8Array): void => {
    if (at + 8 + data.length > clusterSize) throw noSpace();
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  };
  if (header.backingFormat !== undefined) append(Extension.BACKING_FORMAT, encoder.encode(header.backingFormat));
  if (hasFeature(header, Incompatible.DATA_FILE) && header.dataFile !== undefined) append(Extension.DATA_FILE, encoder.encode(header.dataFile));
  if (header.crypto !== undefined) append(Extension.CRYPTO, twoNumbers(header.crypto.offset, header.crypto.length));
  if (header.version >= 3 && clusterSize > largestClusterWithoutNames) append(Extension.FEATURE_NAMES, featureTable());
  if (header.bitmaps !== undefined) append(Extension.BITMAPS, bitmapsExtension(header.bitmaps));
  for (const extension of header.unknownExtensions) append(extension.type, extension.data);
  append(Extension.END, new Uint8Array());

  if (header.backingFile !== undefined) {
    const name = encoder.encode(header.backingFile);
    if (name.length > Math.min(maxBackingNameSize, clusterSize - at)) throw noSpace();
    bytes.set(name, at);
    writeU64(view, 8, at);
    view.setUint32(16, name.length);
  }
  return bytes;
}

function writeFixedFields(header: Qcow2Header, bytes: Uint8Array, view: DataView): number {
  view.setUint32(0, qcow2Magic);
  view.setUint32(4, header.version);
  view.setUint32(20, header.clusterBits);
  writeU64(view, 24, header.size);
  view.setUint32(32, header.cryptMethod);
  view.setUint32(36, header.l1Size);
  writeU64(view, 40, header.l1Offset);
  writeU64(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  writeU64(view, 64, header.snapshotsOffset);
  if (header.version < 3) return headerSizeV2;
  const length = headerSize + header.unknownFields.length;
  if (length > bytes.length) throw noSpace();
  view.setBigUint64(72, header.incompatible);
  view.setBigUint64(80, header.compatible);
  view.setBigUint64(88, header.autoclear);
  view.setUint32(96, header.refcountOrder);
  view.setUint32(100, length);
  view.setUint8(104, header.compression === 'zstd' ? 1 : 0);
  bytes.set(header.unknownFields, headerSize);
  return length;
}

function featureTable(): Uint8Array {
  const bytes = new Uint8Array(featureNames.length * 48);
  featureNames.forEach(([type, bit, name], index) => {
    bytes[index * 48] = type;
    bytes[index * 48 + 1] = bit;
    encoder.encodeInto(name, bytes.subarray(index * 48 + 2, index * 48 + 48));
  });
  return bytes;
}

function bitmapsExtension(extension: BitmapsExtension): Uint8Array {
  const bytes = new Uint8Array(24);
  const view = viewOf(bytes);
  view.setUint32(0, extension.count);
  writeU64(view, 8, extension.directorySize);
  writeU64(view, 16, extension.directoryOffset);
  return bytes;
}

function twoNumbers(first: number, second: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = viewOf(bytes);
  writeU64(view, 0, first);
  writeU64(view, 8, second);
  return bytes;
}

function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message);
}

function noSpace(): BlockError {
  return new BlockError('NO_SPACE', 'The header does not fit into one cluster');
}
