/**
 * Pure codecs of qcow2's tables: L1 and L2 entries, refcounts, snapshot table, bitmap directory and bitmap tables.
 *
 * Table entries are 64 bits wide. On hot paths they are handled as two 32-bit halves (`hi`, `lo`, both unsigned), so that decoding
 * one costs a nanosecond and allocates nothing.
 */
import { BlockError } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

/** Bit 63, in the high half: the refcount of what the entry points to is exactly one. */
export const COPIED_HI = 0x8000_0000;
/** Bit 62, in the high half: compressed cluster. */
export const COMPRESSED_HI = 0x4000_0000;
/** Bit 0, in the low half: reads as zero (standard L2 entries), all ones (bitmap tables). */
export const ZERO_LO = 1;

const offsetHiMask = 0x00ff_ffff;
const offsetLoMask = 0xffff_fe00;
const high = 0x1_0000_0000;

/** A 64-bit number in two 32-bit reads. Exact up to 2^53. */
export function readU64(view: DataView, position: number): number {
  return view.getUint32(position) * high + view.getUint32(position + 4);
}

/** Writes a whole number up to 2^64. */
export function writeU64(view: DataView, position: number, value: number): void {
  view.setUint32(position, Math.floor(value / high));
  view.setUint32(position + 4, value % high);
}

/** High half of a number below 2^64. */
export function hiOf(value: number): number {
  return Math.floor(value / high);
}

/** Low half of a number. */
export function loOf(value: number): number {
  return value % high;
}

/** Host offset of an L1 entry, of a standard L2 entry or of a bitmap table entry: bits 9 to 55. */
export function entryOffset(hi: number, lo: number): number {
  return (hi & offsetHiMask) * high + ((lo & offsetLoMask) >>> 0);
}

/** Host offset of a refcount table entry: bits 9 to 63. */
export function refcountBlockOffset(hi: number, lo: number): number {
  return hi * high + ((lo & offsetLoMask) >>> 0);
}

/** Whether an L1 entry sets bits that are reserved: 0 to 8 and 56 to 62. */
export function l1EntryHasReservedBits(hi: number, lo: number): boolean {
  return (hi & 0x7f00_0000) !== 0 || (lo & 0x1ff) !== 0;
}

/** Whether an L2 entry (not a compressed one) sets bits that are reserved: 1 to 8 and 56 to 61. The peer does not mind bit 0 of extended entries. */
export function l2EntryHasReservedBits(hi: number, lo: number): boolean {
  return (hi & 0x3f00_0000) !== 0 || (lo & 0x1fe) !== 0;
}

/** Whether a refcount table entry sets bits that are reserved: 0 to 8. */
export function refcountTableEntryHasReservedBits(_hi: number, lo: number): boolean {
  return (lo & 0x1ff) !== 0;
}

/** Whether a bitmap table entry sets bits that are reserved: 1 to 8, 56 to 63, and 0 beside an offset. */
export function bitmapTableEntryHasReservedBits(hi: number, lo: number): boolean {
  return (hi & 0xff00_0000) !== 0 || (lo & 0x1fe) !== 0 || ((lo & 1) !== 0 && entryOffset(hi, lo) !== 0);
}

/** What an L2 entry says about its cluster. */
export const ClusterKind = { UNALLOCATED: 0, ZERO_PLAIN: 1, ZERO_ALLOCATED: 2, NORMAL: 3, COMPRESSED: 4 } as const;
export type ClusterKind = (typeof ClusterKind)[keyof typeof ClusterKind];

/**
 * Kind of a standard L2 entry (or of the first half of an extended one, which has no zero flag).
 * With an external data file, offset 0 is an allocated place if COPIED is set.
 */
export function clusterKind(hi: number, lo: number, extended: boolean, dataFile: boolean): ClusterKind {
  if ((hi & COMPRESSED_HI) !== 0) return ClusterKind.COMPRESSED;
  const allocated = (hi & offsetHiMask) !== 0 || (lo & offsetLoMask) !== 0 || (dataFile && (hi & COPIED_HI) !== 0);
  if (!extended && (lo & ZERO_LO) !== 0) return allocated ? ClusterKind.ZERO_ALLOCATED : ClusterKind.ZERO_PLAIN;
  return allocated ? ClusterKind.NORMAL : ClusterKind.UNALLOCATED;
}

/** Subclusters per cluster with extended L2 entries. */
export const subclustersPerCluster = 32;

/**
 * Whether both bits of some subcluster are set, which the format forbids. In the second word of an extended entry the high half says
 * "reads as zero", the low half "allocated", one bit per subcluster, the first subcluster in bit 0.
 */
export function subclusterConflict(zeroBits: number, allocatedBits: number): boolean {
  return (zeroBits & allocatedBits) !== 0;
}

/** Host byte offset of compressed data. */
export function compressedOffset(hi: number, lo: number, clusterBits: number): number {
  return (hi & ((1 << (38 - clusterBits)) - 1)) * high + lo;
}

/** Bytes that compressed data may take, from its offset to the end of its last 512-byte sector. */
export function compressedLength(hi: number, lo: number, clusterBits: number): number {
  const extraSectors = (hi & 0x3fff_ffff) >>> (38 - clusterBits);
  return (extraSectors + 1) * 512 - (lo & 511);
}

/** High half of the entry for `length` bytes of compressed data at host byte `offset`; the low half is {@link loOf} of the offset. */
export function compressedHi(offset: number, length: number, clusterBits: number): number {
  const extraSectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512);
  return (COMPRESSED_HI | (extraSectors << (38 - clusterBits)) | hiOf(offset)) >>> 0;
}

/** Largest offset that compressed data may have: the descriptor has fewer bits for it the larger clusters are. */
export function maxCompressedOffset(clusterBits: number): number {
  return Math.min(2 ** (70 - clusterBits) - 1, Number.MAX_SAFE_INTEGER);
}

/** Largest refcount of 2^order bits that is dealt with (64 bits could hold more, which no honest image does). */
export function maxRefcount(order: number): number {
  return order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (1 << order) - 1;
}

/** Refcount number `index` of a refcount block. Values beyond 2^53 (64-bit refcounts) come out rounded. */
export function readRefcount(block: Uint8Array, index: number, order: number): number {
  switch (order) {
    case 0: return (block[index >>> 3]! >>> (index & 7)) & 1;
    case 1: return (block[index >>> 2]! >>> ((index & 3) * 2)) & 3;
    case 2: return (block[index >>> 1]! >>> ((index & 1) * 4)) & 15;
    case 3: return block[index]!;
    case 4: return block[index * 2]! * 256 + block[index * 2 + 1]!;
    case 5: return read32(block, index * 4);
    default: return read32(block, index * 8) * high + read32(block, index * 8 + 4);
  }
}

/** Sets a refcount; `value` must be at most {@link maxRefcount}. */
export function writeRefcount(block: Uint8Array, index: number, order: number, value: number): void {
  switch (order) {
    case 0: setBits(block, index >>> 3, index & 7, 1, value); break;
    case 1: setBits(block, index >>> 2, (index & 3) * 2, 3, value); break;
    case 2: setBits(block, index >>> 1, (index & 1) * 4, 15, value); break;
    case 3: block[index] = value; break;
    case 4: block[index * 2] = value >>> 8; block[index * 2 + 1] = value; break;
    case 5: write32(block, index * 4, value); break;
    default: write32(block, index * 8, hiOf(value)); write32(block, index * 8 + 4, loOf(value));
  }
}

/** Refcounts per block of `clusterBits`. */
export function refcountsPerBlock(clusterBits: number, order: number): number {
  return 2 ** (clusterBits + 3 - order);
}

function setBits(block: Uint8Array, byte: number, shift: number, mask: number, value: number): void {
  block[byte] = (block[byte]! & ~(mask << shift)) | ((value & mask) << shift);
}

function read32(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 0x100_0000 + ((bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!);
}

function write32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** A 64-bit entry by index of a table, as its halves. */
export function entryHi(view: DataView, index: number): number {
  return view.getUint32(index * 8);
}
export function entryLo(view: DataView, index: number): number {
  return view.getUint32(index * 8 + 4);
}
export function setEntry(view: DataView, index: number, hi: number, lo: number): void {
  view.setUint32(index * 8, hi);
  view.setUint32(index * 8 + 4, lo);
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** One entry of the snapshot table. */
export interface SnapshotEntry {
  l1Offset: number;
  /** Entries of the snapshot's L1 table. */
  l1Size: number;
  id: string;
  name: string;
  dateSec: number;
  dateNsec: number;
  vmClockNs: bigint;
  /** Bytes. */
  vmStateSize: number;
  /** Bytes; undefined where the entry is too old to say (then the image's size). */
  diskSize: number | undefined;
  icount: bigint | undefined;
  /** Extra data beyond the fields above, kept as found. */
  unknownExtra: Uint8Array;
  /** Length of the extra data as found in the table. */
  extraSize: number;
}

const snapshotFixedSize = 40;
const knownExtraSize = 24;
/** Longest extra data that is accepted. */
export const maxSnapshotExtraSize = 1024;
/** Snapshots an image may have. */
export const maxSnapshots = 65536;
/** Longest snapshot table in bytes. */
export const maxSnapshotTableSize = 1024 * maxSnapshots;
const noIcount = 0xffff_ffff_ffff_ffffn;

/**
 * Decodes the snapshot table entry at `position`; undefined where `bytes` ends before it does.
 * The next one follows at `next`.
 */
export function parseSnapshotEntry(bytes: Uint8Array, position: number): { entry: SnapshotEntry; next: number } | undefined {
  if (bytes.length < position + snapshotFixedSize) return undefined;
  const view = viewOf(bytes);
  const idSize = view.getUint16(position + 12);
  const nameSize = view.getUint16(position + 14);
  const extraSize = view.getUint32(position + 36);
  const extra = position + snapshotFixedSize;
  const end = extra + extraSize + idSize + nameSize;
  if (bytes.length < end) return undefined;
  // Names may be padded with zeroes.
  const text = (start: number, length: number): string => decoder.decode(bytes.subarray(start, start + length)).split('\0', 1)[0]!;
  const icount = extraSize >= 24 ? view.getBigUint64(extra + 16) : noIcount;
  const entry: SnapshotEntry = {
    l1Offset: readU64(view, position),
    l1Size: view.getUint32(position + 8),
    dateSec: view.getUint32(position + 16),
    dateNsec: view.getUint32(position + 20),
    vmClockNs: view.getBigUint64(position + 24),
    vmStateSize: extraSize >= 8 ? readU64(view, extra) : view.getUint32(position + 32),
    diskSize: extraSize >= 16 ? readU64(view, extra + 8) : undefined,
    icount: icount === noIcount ? undefined : icount,
    unknownExtra: bytes.slice(extra + Math.min(extraSize, knownExtraSize), extra + extraSize),
    extraSize,
    id: text(extra + extraSize, idSize),
    name: text(extra + extraSize + idSize, nameSize),
  };
  return { entry, next: roundUp8(end) };
}

/** The snapshot table as stored; `diskSize` stands in where an entry has none. Each entry starts at a multiple of 8. */
export function serialiseSnapshotTable(entries: readonly SnapshotEntry[], diskSize: number): Uint8Array {
  const names = entries.map((entry) => [encoder.encode(entry.id), encoder.encode(entry.name)] as const);
  let size = 0;
  entries.forEach((entry, index) => {
    const [id, name] = names[index]!;
    size = roundUp8(size) + snapshotFixedSize + knownExtraSize + entry.unknownExtra.length + id.length + name.length;
  });
  const bytes = new Uint8Array(size);
  const view = viewOf(bytes);
  let at = 0;
  entries.forEach((entry, index) => {
    const [id, name] = names[index]!;
    at = roundUp8(at);
    writeU64(view, at, entry.l1Offset);
    view.setUint32(at + 8, entry.l1Size);
    view.setUint16(at + 12, id.length);
    view.setUint16(at + 14, name.length);
    view.setUint32(at + 16, entry.dateSec);
    view.setUint32(at + 20, entry.dateNsec);
    view.setBigUint64(at + 24, entry.vmClockNs);
    view.setUint32(at + 32, entry.vmStateSize < high ? entry.vmStateSize : 0);
    view.setUint32(at + 36, knownExtraSize + entry.unknownExtra.length);
    writeU64(view, at + 40, entry.vmStateSize);
    writeU64(view, at + 48, entry.diskSize ?? diskSize);
    view.setBigUint64(at + 56, entry.icount ?? noIcount);
    bytes.set(entry.unknownExtra, at + 64);
    at += 64 + entry.unknownExtra.length;
    bytes.set(id, at);
    bytes.set(name, at + id.length);
    at += id.length + name.length;
  });
  return bytes;
}

/** Flags of a bitmap directory entry. */
export const BitmapFlag = { IN_USE: 1, AUTO: 2, EXTRA_DATA_COMPATIBLE: 4 } as const;

/** One entry of the bitmap directory. */
export interface BitmapEntry {
  tableOffset: number;
  /** Entries of the bitmap table. */
  tableSize: number;
  flags: number;
  granularityBits: number;
  name: string;
}

export const maxBitmaps = 65535;
export const minGranularityBits = 9;
export const maxGranularityBits = 31;
/** Bytes of UTF-8. */
export const maxBitmapNameSize = 1023;
export const maxBitmapDirectorySize = 1024 * maxBitmaps;
export const maxBitmapTableSize = 0x800_0000;

const bitmapFixedSize = 24;

/** Decodes the bitmap directory. @throws BlockError CORRUPT_IMAGE where it is broken or has unknown extra data that must be known. */
export function parseBitmapDirectory(bytes: Uint8Array, count: number): BitmapEntry[] {
  const view = viewOf(bytes);
  const entries: BitmapEntry[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (entries.length === count) throw brokenDirectory('More bitmaps found than specified in header extension');
    if (at + bitmapFixedSize > bytes.length) throw brokenDirectory();
    const flags = view.getUint32(at + 12);
    const nameSize = view.getUint16(at + 18);
    const extraSize = view.getUint32(at + 20);
    const end = at + bitmapFixedSize + extraSize + nameSize;
    if (roundUp8(end) > bytes.length) throw brokenDirectory();
    if (extraSize !== 0) throw new BlockError('CORRUPT_IMAGE', 'Bitmap extra data is not supported');
    const nameAt = end - nameSize;
    const entry: BitmapEntry = {
      tableOffset: readU64(view, at), tableSize: view.getUint32(at + 8), flags,
      granularityBits: view.getUint8(at + 17), name: decoder.decode(bytes.subarray(nameAt, end)),
    };
    const type = view.getUint8(at + 16);
    if (type !== 1 || nameSize === 0 || nameSize > maxBitmapNameSize || (flags & ~7) !== 0) throw brokenEntry(entry);
    entries.push(entry);
    at = roundUp8(end);
  }
  if (entries.length !== count) throw brokenDirectory('Less bitmaps found than specified in header extension');
  return entries;
}

/** The bitmap directory as stored. */
export function serialiseBitmapDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  const names = entries.map((entry) => encoder.encode(entry.name));
  const bytes = new Uint8Array(names.reduce((size, name) => size + roundUp8(bitmapFixedSize + name.length), 0));
  const view = viewOf(bytes);
  let at = 0;
  entries.forEach((entry, index) => {
    const name = names[index]!;
    writeU64(view, at, entry.tableOffset);
    view.setUint32(at + 8, entry.tableSize);
    view.setUint32(at + 12, entry.flags);
    view.setUint8(at + 16, 1);
    view.setUint8(at + 17, entry.granularityBits);
    view.setUint16(at + 18, name.length);
    bytes.set(name, at + bitmapFixedSize);
    at += roundUp8(bitmapFixedSize + name.length);
  });
  return bytes;
}

function brokenDirectory(message = 'Broken bitmap directory'): BlockError {
  return new BlockError('CORRUPT_IMAGE', message);
}

function brokenEntry(entry: BitmapEntry): BlockError {
  return new BlockError('CORRUPT_IMAGE', `Bitmap '${entry.name}' doesn't satisfy the constraints`);
}

function roundUp8(value: number): number {
  return Math.ceil(value / 8) * 8;
}
