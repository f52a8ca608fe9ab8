/** Headers of sparse extents on disk, little-endian: hosted (KDMV), COWD, SESPARSE; and the markers of streams. No I/O. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const sectorSize = 512;

export const Flag = {
  /** The line-end test bytes are valid. */
  NEWLINES: 1,
  /** A second directory with tables of its own is kept up to date. */
  REDUNDANT: 2,
  /** Table entry 1 stands for a grain of zeroes. */
  ZEROED_GRAIN: 4,
  COMPRESSED: 0x1_0000,
  /** Grains and tables are announced by markers. */
  MARKERS: 0x2_0000,
} as const;
const knownFlags = Flag.NEWLINES | Flag.REDUNDANT | Flag.ZEROED_GRAIN | Flag.COMPRESSED | Flag.MARKERS;

/** Place of a directory that is told by the footer at the end of the file. */
export const directoryAtEnd = 0xffff_ffff_ffff_ffffn;

/** Hosted sparse extent. Places and lengths in sectors. */
export interface SparseHeader {
  readonly version: number;
  readonly flags: number;
  readonly capacity: number;
  readonly grain: number;
  readonly descriptor: number;
  readonly descriptorLength: number;
  readonly tableEntries: number;
  readonly redundantDirectory: number;
  /** Undefined: the footer says where. */
  readonly directory: number | undefined;
  readonly overhead: number;
  /** Somebody has it open for writing, or had when it was cut off. */
  readonly unclean: boolean;
  /** 0 none, 1 deflate. */
  readonly compression: number;
}

export const uncleanOffset = 72;
const maxGrain = 0x20_0000;
const maxTableEntries = 512;
const maxDirectoryEntries = 32 * 1024 * 1024;

export const MarkerType = { END: 0, TABLE: 1, DIRECTORY: 2, FOOTER: 3 } as const;

export function isHosted(head: Uint8Array): boolean {
  return magicOf(head) === 'KDMV';
}

export function isCowd(head: Uint8Array): boolean {
  return magicOf(head) === 'COWD';
}

function magicOf(head: Uint8Array): string {
  return head.length < 4 ? '' : String.fromCharCode(...head.subarray(0, 4));
}

/** @throws BlockError NOT_THIS_FORMAT | UNSUPPORTED_FEATURE | CORRUPT_IMAGE in the peer's words */
export function parseSparseHeader(bytes: Uint8Array): SparseHeader {
  if (!isHosted(bytes) || bytes.length < sectorSize) throw notVmdk();
  const view = viewOf(bytes);
  const version = view.getUint32(4, true);
  if (version > 3) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported VMDK version ${version}`);
  const header: SparseHeader = {
    version,
    flags: view.getUint32(8, true),
    capacity: sectors(view, 12),
    grain: sectors(view, 20),
    descriptor: sectors(view, 28),
    descriptorLength: sectors(view, 36),
    tableEntries: view.getUint32(44, true),
    redundantDirectory: sectors(view, 48),
    directory: view.getBigUint64(56, true) === directoryAtEnd ? undefined : sectors(view, 56),
    overhead: sectors(view, 64),
    unclean: view.getUint8(uncleanOffset) !== 0,
    compression: view.getUint16(77, true),
  };
  if (header.tableEntries > maxTableEntries) throw corrupt('L2 table size too big');
  if (header.tableEntries === 0 || header.grain === 0) throw corrupt('L1 entry size is invalid');
  checkGrain(header.grain);
  checkCapacity(header.capacity, header.grain * header.tableEntries);
  const unknown = (header.flags & ~knownFlags) >>> 0;
  if (unknown !== 0) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported VMDK flags 0x${unknown.toString(16)}`, { errno: Errno.ENOTSUP });
  if ((header.flags & Flag.COMPRESSED) !== 0 && header.compression > 1) {
    throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported VMDK compression algorithm ${header.compression}`, { errno: Errno.ENOTSUP });
  }
  if ((header.flags & Flag.COMPRESSED) === 0 && header.compression === 1) throw corrupt('Flags and compression algorithm contradict each other');
  return header;
}

function checkGrain(grain: number): void {
  if (grain > maxGrain || !Number.isInteger(Math.log2(grain))) throw corrupt('Invalid granularity, image may be corrupt');
}

function checkCapacity(capacity: number, covered: number): void {
  if (Math.ceil(capacity / covered) > maxDirectoryEntries) {
    throw new BlockError('CORRUPT_IMAGE', 'L1 size too big', { errno: Errno.EFBIG });
  }
}

export function encodeSparseHeader(header: SparseHeader): Uint8Array {
  const bytes = new Uint8Array(sectorSize);
  const view = viewOf(bytes);
  const put = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
  bytes.set([0x4b, 0x44, 0x4d, 0x56]);
  view.setUint32(4, header.version, true);
  view.setUint32(8, header.flags, true);
  put(12, header.capacity);
  put(20, header.grain);
  put(28, header.descriptor);
  put(36, header.descriptorLength);
  view.setUint32(44, header.tableEntries, true);
  put(48, header.redundantDirectory);
  view.setBigUint64(56, header.directory === undefined ? directoryAtEnd : BigInt(header.directory), true);
  put(64, header.overhead);
  view.setUint8(uncleanOffset, header.unclean ? 1 : 0);
  bytes.set([0x0a, 0x20, 0x0d, 0x0a], 73);
  view.setUint16(77, header.compression, true);
  return bytes;
}

/** What a header says of an extent that has grown. Places and lengths in sectors. */
export interface GrownExtent {
  readonly capacity: number;
  readonly directory: number;
  readonly directoryEntries: number;
  readonly redundantDirectory?: number;
  /** Where free room begins, if that is known. */
  readonly end?: number;
}

/** Changes a hosted extent's header; all else stays. */
export function growHeader(header: Uint8Array, { capacity, directory, redundantDirectory }: GrownExtent): void {
  const view = viewOf(header);
  view.setBigUint64(12, BigInt(capacity), true);
  if (redundantDirectory !== undefined) view.setBigUint64(48, BigInt(redundantDirectory), true);
  view.setBigUint64(56, BigInt(directory), true);
}

/** Where everything lies in an extent that is laid out in advance: header, descriptor, both directories with their tables, grains. */
export function sparseLayout(capacity: number, options: {
  readonly zeroedGrain: boolean; readonly grain?: number; readonly tableEntries?: number; readonly descriptorLength?: number;
}): SparseHeader & { readonly directory: number } {
  const { grain = 128, tableEntries = maxTableEntries, descriptorLength = 20 } = options;
  const tables = Math.ceil(capacity / (grain * tableEntries));
  const directoryLength = Math.ceil(tables * 4 / sectorSize);
  const redundantDirectory = 1 + descriptorLength;
  const directory = redundantDirectory + directoryLength + tables * tableSectors(tableEntries);
  const end = directory + directoryLength + tables * tableSectors(tableEntries);
  return {
    version: options.zeroedGrain ? 2 : 1,
    flags: Flag.NEWLINES | Flag.REDUNDANT | (options.zeroedGrain ? Flag.ZEROED_GRAIN : 0),
    capacity, grain, descriptor: 1, descriptorLength, tableEntries, redundantDirectory, directory,
    overhead: Math.ceil(end / grain) * grain, unclean: false, compression: 0,
  };
}

/** A stream: grains follow the header, the directory comes last. */
export function streamHeader(capacity: number, zeroedGrain: boolean): SparseHeader {
  return {
    version: 3, flags: Flag.NEWLINES | Flag.COMPRESSED | Flag.MARKERS | (zeroedGrain ? Flag.ZEROED_GRAIN : 0),
    capacity, grain: 128, descriptor: 1, descriptorLength: 20, tableEntries: maxTableEntries, redundantDirectory: 0, directory: undefined,
    overhead: 128, unclean: false, compression: 1,
  };
}

export function tableSectors(entries: number): number {
  return Math.ceil(entries * 4 / sectorSize);
}

/** Places of the marker, the footer and the end marker, from the end of the file. */
export const footerMarkerFromEnd = 3 * sectorSize;

/** The header that the last three sectors of a stream repeat, with the directory's place. @throws BlockError CORRUPT_IMAGE */
export function parseFooter(tail: Uint8Array): SparseHeader {
  const view = viewOf(tail);
  const invalid = corrupt('Invalid footer');
  if (tail.length < footerMarkerFromEnd || view.getUint32(8, true) !== 0 || view.getUint32(12, true) !== MarkerType.FOOTER
    || view.getUint32(2 * sectorSize + 8, true) !== 0 || view.getUint32(2 * sectorSize + 12, true) !== MarkerType.END
    || !isHosted(tail.subarray(sectorSize))) throw invalid;
  const footer = parseSparseHeader(tail.subarray(sectorSize, 2 * sectorSize));
  if (footer.directory === undefined) throw invalid;
  return footer;
}

/** Marker of `length` sectors that follow it. */
export function encodeMarker(type: number, length: number): Uint8Array {
  const bytes = new Uint8Array(sectorSize);
  const view = viewOf(bytes);
  view.setBigUint64(0, BigInt(length), true);
  view.setUint32(12, type, true);
  return bytes;
}

/** Length of the header of a compressed grain: place on the disk in sectors (8 bytes), length of the data (4). */
export const grainMarkerLength = 12;

/** COWD (ESX redo log): header, directory, tables made as they are needed. Places and lengths in sectors. */
export interface CowdHeader {
  readonly capacity: number;
  readonly grain: number;
  readonly directory: number;
  readonly directoryEntries: number;
  readonly freeSector: number;
}
export const cowdFreeSectorOffset = 28;
export const cowdTableEntries = 4096;

/** Changes a COWD header; all else stays. */
export function growCowdHeader(header: Uint8Array, { capacity, directory, directoryEntries, end }: GrownExtent): void {
  const view = viewOf(header);
  view.setUint32(12, capacity, true);
  view.setUint32(20, directory, true);
  view.setUint32(24, directoryEntries, true);
  if (end !== undefined) view.setUint32(cowdFreeSectorOffset, end, true);
}

/** Header and empty directory of a new COWD extent; grains follow. `child`: it stands on another disk. */
export function encodeCowd(capacity: number, child: boolean): Uint8Array {
  const grain = 1;
  const directory = cowdHeaderSectors;
  const entries = Math.ceil(capacity / (grain * cowdTableEntries));
  const end = directory + Math.ceil(entries * 4 / sectorSize);
  const bytes = new Uint8Array(end * sectorSize);
  const view = viewOf(bytes);
  bytes.set([0x43, 0x4f, 0x57, 0x44]);
  [1, 3, capacity, grain, directory, entries, end].forEach((value, index) => view.setUint32(4 + index * 4, value, true));
  if (child) return bytes;
  view.setUint32(32, Math.floor(capacity / (255 * 63)), true);
  view.setUint32(36, 255, true);
  view.setUint32(40, 63, true);
  return bytes;
}
export const cowdHeaderSectors = 4;

/** @throws BlockError NOT_THIS_FORMAT | UNSUPPORTED_FEATURE | CORRUPT_IMAGE */
export function parseCowdHeader(bytes: Uint8Array): CowdHeader {
  if (!isCowd(bytes) || bytes.length < sectorSize) throw notVmdk();
  const view = viewOf(bytes);
  const version = view.getUint32(4, true);
  if (version !== 1) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported COWD version ${version}`);
  const header: CowdHeader = {
    capacity: view.getUint32(12, true),
    grain: view.getUint32(16, true),
    directory: view.getUint32(20, true),
    directoryEntries: view.getUint32(24, true),
    freeSector: view.getUint32(cowdFreeSectorOffset, true),
  };
  if (header.grain === 0) throw corrupt('L1 entry size is invalid');
  checkGrain(header.grain);
  checkCapacity(header.capacity, header.grain * cowdTableEntries);
  if (header.directoryEntries * cowdTableEntries * header.grain < header.capacity) throw corrupt('COWD directory is too small for the disk');
  return header;
}

/** SESPARSE (ESXi 6.5 snapshots). Places and lengths in sectors. */
export interface SeSparseHeader {
  readonly capacity: number;
  readonly grain: number;
  readonly tableLength: number;
  readonly volatileHeader: number;
  readonly volatileHeaderLength: number;
  readonly directory: number;
  readonly directoryLength: number;
  readonly tables: number;
  readonly tablesLength: number;
  readonly grains: number;
  readonly grainsLength: number;
}
const seSparseMagic = 0xcafe_babe;
const seSparseVersion = 0x2_0000_0001;
const seSparseVolatileMagic = 0xcafe_cafe;

/** @throws BlockError NOT_THIS_FORMAT | UNSUPPORTED_FEATURE | CORRUPT_IMAGE in the peer's words */
export function parseSeSparseHeader(bytes: Uint8Array): SeSparseHeader {
  const view = viewOf(bytes);
  const big = (at: number): bigint => (bytes.length < at + 8 ? 0n : view.getBigUint64(at, true));
  const place = (at: number): number => sectors(view, at);
  if (big(0) !== BigInt(seSparseMagic)) throw new BlockError('UNSUPPORTED_FEATURE', `Bad const header magic: ${hex16(big(0))}`);
  if (bytes.length < sectorSize) throw notVmdk();
  if (big(8) !== BigInt(seSparseVersion)) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported version: ${hex16(big(8))}`);
  const header: SeSparseHeader = {
    capacity: place(16), grain: place(24), tableLength: place(32),
    volatileHeader: place(80), volatileHeaderLength: place(88),
    directory: place(128), directoryLength: place(136),
    tables: place(144), tablesLength: place(152),
    grains: place(192), grainsLength: place(200),
  };
  if (header.grain !== 8) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported grain size: ${header.grain}`);
  if (header.tableLength !== 64) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported grain table size: ${header.tableLength}`);
  if (big(40) !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported flags: ${hex16(big(40))}`);
  for (let at = 48; at < 80; at += 8) {
    if (big(at) !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported reserved bits: ${hex16(big(at))}`);
  }
  checkCapacity(header.capacity, seSparseTableEntries * header.grain);
  if (header.directoryLength * sectorSize / 8 < Math.ceil(header.capacity / (seSparseTableEntries * header.grain))) {
    throw corrupt('The grain directory is too small for the disk');
  }
  return header;
}
export const seSparseTableEntries = 4096;

/** @throws BlockError where the journal must be replayed, which takes ESXi */
export function checkSeSparseVolatileHeader(bytes: Uint8Array): void {
  const view = viewOf(bytes);
  const magic = view.getBigUint64(0, true);
  if (magic !== BigInt(seSparseVolatileMagic)) throw new BlockError('UNSUPPORTED_FEATURE', `Bad volatile header magic: ${hex16(magic)}`);
  if (view.getUint8(24) !== 0) throw new BlockError('UNSUPPORTED_FEATURE', 'Image is dirty, Replaying journal not supported');
}

function hex16(value: bigint): string {
  return `0x${value.toString(16).padStart(16, '0')}`;
}

/** A count of sectors whose bytes can be told as a plain number. */
function sectors(view: DataView, at: number): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  return Math.min(value, maxSectors);
}
/** Larger values are bounded here: all of them are refused where they are used. */
export const maxSectors = 2 ** 44;

export function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

export function notVmdk(): BlockError {
  return new BlockError('NOT_THIS_FORMAT', 'Image not in VMDK format', { errno: Errno.EINVAL });
}
