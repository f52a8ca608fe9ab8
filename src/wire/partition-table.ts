/**
 * Partition tables of disks: MBR with extended partitions, and GPT with its checksums and its second copy. What a table says is
 * bounded by the disk's size and a fixed number of entries before it is believed.
 */
import { crc32 } from '../util/crc32.js';
import { viewOf } from '../util/view.js';
import { gptTypeName, mbrTypeName } from './partition-types.js';

export interface Partition {
  /** As Linux counts: 1 to 4 in the MBR, from 5 inside an extended partition; the entry's place in GPT. */
  readonly number: number;
  readonly start: number;
  readonly size: number;
  /** MBR: two hexadecimal digits; GPT: a GUID in capitals. */
  readonly type: string;
  /** What the type is called; 'Unknown' where nobody told us. */
  readonly system: string;
  /** GPT only. */
  readonly name?: string;
  /** Marked for starting from (MBR), or so for old BIOSes (GPT). */
  readonly bootable: boolean;
  /** Holds other partitions and no file system of its own. */
  readonly extended: boolean;
}

export interface PartitionTable {
  readonly scheme: 'mbr' | 'gpt';
  /** The unit in which the table counts. */
  readonly sectorSize: number;
  readonly partitions: readonly Partition[];
  /** What is wrong with the table, in words; entries that make no sense are left out of `partitions`. */
  readonly problems: readonly string[];
}

/** There is a partition table, and none of it can be used. */
export class PartitionTableError extends Error {
  override readonly name = 'PartitionTableError';
}

/** Reads `length` bytes at `offset`; asked only for what lies inside the disk. */
export type DiskReader = (offset: number, length: number) => Promise<Uint8Array>;

/** More logical partitions than any system knows. */
const maxLogical = 256;
const maxGptBytes = 4 * 1024 * 1024;

/**
 * The partition table of a disk of `size` bytes; undefined where there is none. GPT is looked for in sectors of 512 and of 4096 bytes.
 * @throws PartitionTableError
 */
export async function readPartitionTable(read: DiskReader, size: number): Promise<PartitionTable | undefined> {
  if (size < 512) return undefined;
  const sector = await read(0, 512);
  const entries = hasSignature(sector) ? mbrEntries(sector) : undefined;
  if (entries?.some(({ type }) => type === 0xee)) return readGpt(read, size, entries.filter(({ type }) => type !== 0 && type !== 0xee).length > 0);
  if (entries === undefined || looksLikeFileSystem(sector, entries)) return undefined;
  return readMbr(read, size, entries);
}

interface MbrEntry { readonly active: number; readonly type: number; readonly first: number; readonly sectors: number }

function hasSignature(sector: Uint8Array): boolean { return sector[510] === 0x55 && sector[511] === 0xaa; }

function mbrEntries(sector: Uint8Array): MbrEntry[] {
  const view = viewOf(sector);
  return [446, 462, 478, 494].map((at) => ({
    active: view.getUint8(at), type: view.getUint8(at + 4), first: view.getUint32(at + 8, true), sectors: view.getUint32(at + 12, true),
  }));
}

/** File systems without a partition table end their first sector with the same two bytes; their code lies where entries would. */
function looksLikeFileSystem(sector: Uint8Array, entries: readonly MbrEntry[]): boolean {
  if (entries.some(({ active }) => (active & 0x7f) !== 0)) return true;
  const text = String.fromCharCode(...sector.subarray(0, 96));
  const named = ['FAT12   ', 'FAT16   '].includes(text.slice(54, 62)) || text.slice(82, 90) === 'FAT32   ' || ['NTFS    ', 'EXFAT   '].includes(text.slice(3, 11));
  return named && entries.every(({ sectors }) => sectors === 0);
}

function isExtended(type: number): boolean { return type === 0x05 || type === 0x0f || type === 0x85; }

async function readMbr(read: DiskReader, size: number, entries: readonly MbrEntry[]): Promise<PartitionTable> {
  const partitions: Partition[] = [];
  const problems: string[] = [];
  entries.forEach((entry, index) => {
    if (entry.type !== 0 && entry.sectors !== 0) add(partitions, problems, size, mbrPartition(index + 1, entry, 0));
  });
  let number = 5;
  for (const extended of partitions.filter((partition) => partition.extended)) {
    for await (const partition of logicalPartitions(read, extended, number, problems)) {
      add(partitions, problems, size, partition);
      number = partition.number + 1;
    }
  }
  return { scheme: 'mbr', sectorSize: 512, partitions, problems };
}

function mbrPartition(number: number, { active, type, first, sectors }: MbrEntry, base: number): Partition {
  return {
    number, start: base + first * 512, size: sectors * 512, type: type.toString(16), system: mbrTypeName(type), bootable: active === 0x80, extended: isExtended(type),
  };
}

/** Follows the chain of small tables inside an extended partition: each names one partition and where the next table lies. */
async function* logicalPartitions(read: DiskReader, outer: Partition, firstNumber: number, problems: string[]): AsyncGenerator<Partition> {
  const seen = new Set<number>();
  const end = outer.start + outer.size;
  let number = firstNumber;
  for (let at: number | undefined = outer.start; at !== undefined;) {
    seen.add(at);
    const sector = await read(at, 512);
    if (!hasSignature(sector)) {
      if (seen.size > 1) problems.push(`the chain of logical partitions breaks off at sector ${at / 512}`);
      return;
    }
    const entries = mbrEntries(sector).filter(({ type, sectors }) => type !== 0 && sectors !== 0);
    for (const entry of entries.filter(({ type }) => !isExtended(type))) yield mbrPartition(number++, entry, at);
    const link = entries.find(({ type }) => isExtended(type));
    const next: number | undefined = link && outer.start + link.first * 512;
    if (next !== undefined && (seen.has(next) || next + 512 > end || seen.size >= maxLogical)) {
      problems.push(seen.has(next) ? 'the chain of logical partitions runs in a circle' : next + 512 > end
        ? 'the chain of logical partitions leaves the extended partition' : `only the first ${maxLogical} logical partitions are shown`);
      return;
    }
    at = next;
  }
}

/** Keeps a partition that lies inside the disk; one that only ends beyond it is kept as far as it does. */
function add(partitions: Partition[], problems: string[], size: number, partition: Partition): void {
  if (partition.start >= size) {
    problems.push(`partition ${partition.number} starts beyond the end of the disk`);
    return;
  }
  const beyond = partition.start + partition.size > size;
  if (beyond) problems.push(`partition ${partition.number} ends beyond the end of the disk`);
  partitions.push(beyond ? { ...partition, size: size - partition.start } : partition);
}

interface GptHeader { readonly entriesAt: number; readonly count: number; readonly entrySize: number; readonly crc: number }

async function readGpt(read: DiskReader, size: number, hybrid: boolean): Promise<PartitionTable> {
  let damage = 'it has no header';
  for (const sectorSize of [512, 4096]) {
    const copy = (at: number): Promise<Omit<PartitionTable, 'problems'> | string> => readGptCopy(read, size, sectorSize, at);
    const last = (Math.floor(size / sectorSize) - 1) * sectorSize;
    const [primary, backup] = [await copy(sectorSize), await copy(last)];
    const problems: string[] = hybrid ? ['the MBR beside the GPT lists partitions too; they are not shown'] : [];
    if (typeof primary !== 'string') {
      if (typeof backup === 'string') problems.push(`the backup GPT at the end of the disk is not usable: ${backup}`);
      return checked(primary, problems, size);
    }
    if (typeof backup !== 'string') {
      problems.push(`the primary GPT is not usable, the backup is shown: ${primary}`);
      return checked(backup, problems, size);
    }
    if (primary !== noHeader) damage = primary;
  }
  throw new PartitionTableError(`The GUID partition table is damaged, and so is its backup: ${damage}`);
}

const noHeader = 'it has no header';

/** One copy of the table, or what is wrong with it. */
async function readGptCopy(read: DiskReader, size: number, sectorSize: number, at: number): Promise<Omit<PartitionTable, 'problems'> | string> {
  if (at < sectorSize || at + sectorSize > size) return noHeader;
  const header = parseGptHeader(await read(at, sectorSize), at / sectorSize, sectorSize);
  if (typeof header === 'string') return header;
  const { entriesAt, count, entrySize } = header;
  if (entriesAt + count * entrySize > size) return 'its entries lie beyond the end of the disk';
  const bytes = await read(entriesAt, count * entrySize);
  if (crc32(bytes) !== header.crc) return 'the checksum of its entries is wrong';
  const partitions: Partition[] = [];
  for (let index = 0; index < count; index++) {
    const partition = parseGptEntry(bytes.subarray(index * entrySize, (index + 1) * entrySize), index + 1, sectorSize);
    if (partition !== undefined) partitions.push(partition);
  }
  return { scheme: 'gpt', sectorSize, partitions };
}

function parseGptHeader(sector: Uint8Array, lba: number, sectorSize: number): GptHeader | string {
  const view = viewOf(sector);
  if (String.fromCharCode(...sector.subarray(0, 8)) !== 'EFI PART') return noHeader;
  if (view.getUint32(8, true) !== 0x10000) return `its revision is unknown (${view.getUint32(8, true).toString(16)})`;
  const length = view.getUint32(12, true);
  if (length < 92 || length > sectorSize) return `its header claims a length of ${length}`;
  const summed = Uint8Array.from(sector.subarray(0, length));
  summed.fill(0, 16, 20);
  if (crc32(summed) !== view.getUint32(16, true)) return 'the checksum of its header is wrong';
  if (view.getBigUint64(24, true) !== BigInt(lba)) return 'its header belongs elsewhere';
  const count = view.getUint32(80, true);
  const entrySize = view.getUint32(84, true);
  if (entrySize < 128 || entrySize % 8 !== 0 || count * entrySize > maxGptBytes) return `its ${count} entries of ${entrySize} bytes are out of reason`;
  return { entriesAt: Number(view.getBigUint64(72, true)) * sectorSize, count, entrySize, crc: view.getUint32(88, true) };
}

/** Undefined for an entry that is not used. */
function parseGptEntry(entry: Uint8Array, number: number, sectorSize: number): Partition | undefined {
  if (entry.subarray(0, 16).every((byte) => byte === 0)) return undefined;
  const view = viewOf(entry);
  const first = Number(view.getBigUint64(32, true));
  const last = Number(view.getBigUint64(40, true));
  const type = formatGuid(entry);
  const name = new TextDecoder('utf-16le').decode(entry.subarray(56, 128)).replace(/\0.*$/s, '');
  return {
    number, start: first * sectorSize, size: Math.max(0, last - first + 1) * sectorSize, type, system: gptTypeName(type),
    ...(name !== '' && { name }), bootable: (view.getUint8(48) & 4) !== 0, extended: false,
  };
}

/** The GUID at the start of `bytes`; its first three groups are stored little-endian. */
function formatGuid(bytes: Uint8Array): string {
  const hex = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((at) => bytes[at]!.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5').toUpperCase();
}

function checked(table: Omit<PartitionTable, 'problems'>, problems: string[], size: number): PartitionTable {
  const partitions: Partition[] = [];
  for (const partition of table.partitions) {
    if (partition.size === 0 || partition.start === 0) problems.push(`partition ${partition.number} ends before it starts`);
    else add(partitions, problems, size, partition);
  }
  return { ...table, partitions, problems };
}
