/** The metadata region: a table of items, and the items: sizes, identity, the way to a parent. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';
import { readGuid, writeGuid } from './guid.js';
import { MiB, readSize, text, writeSize } from './header.js';

export const metadataTableSize = 64 * 1024;
/** All items of a sound image lie in the region's first MiB. */
export const metadataSpan = MiB;
const maxItems = 2047;
export const maxVirtualSize = 64 * 2 ** 40;

const Item = {
  PARAMETERS: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  SIZE: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  DISK_ID: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  LOGICAL_SECTOR: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  PHYSICAL_SECTOR: 'cda348c7-445d-4471-9cc9-e9885251c556',
  PARENT_LOCATOR: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const;
const known: ReadonlySet<string> = new Set(Object.values(Item));
const locatorType = 'b04aefb7-d19e-4a81-b789-25b8e9445913';

const Flag = { VIRTUAL_DISK: 2, REQUIRED: 4 } as const;

/** What a disk is. Sizes in bytes. */
export interface DiskParameters {
  readonly blockSize: number;
  /** Blocks keep their place in the file whatever they hold. */
  readonly fixed: boolean;
  readonly size: number;
  readonly diskId: string;
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  /** Entries of the parent locator; undefined: no parent. */
  readonly parent: ReadonlyMap<string, string> | undefined;
}

/** The parameters, and where in the region the size lies. */
export interface Metadata {
  readonly parameters: DiskParameters;
  readonly sizeAt: number;
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message, { errno: Errno.ENOTSUP });
}

/**
 * Parses the region's first bytes.
 * @throws BlockError CORRUPT_IMAGE | UNSUPPORTED_FEATURE, naming what is wrong
 */
export function parseMetadata(bytes: Uint8Array): Metadata {
  if (bytes.length < metadataTableSize || text(bytes, 0, 8) !== 'metadata') throw corrupt('VHDX metadata table has no signature');
  const view = viewOf(bytes);
  const count = view.getUint16(10, true);
  if (count > maxItems) throw corrupt(`VHDX metadata table has too many entries (${count})`);
  const items = new Map<string, { at: number; length: number }>();
  for (let entryAt = 32; entryAt < 32 + 32 * count; entryAt += 32) {
    const guid = readGuid(bytes, entryAt);
    const at = view.getUint32(entryAt + 16, true);
    const length = view.getUint32(entryAt + 20, true);
    const flags = view.getUint32(entryAt + 24, true);
    if (!known.has(guid)) {
      if ((flags & Flag.REQUIRED) !== 0) throw unsupported(`VHDX image requires unknown metadata item ${guid}`);
      continue;
    }
    if (items.has(guid)) throw corrupt(`VHDX metadata item ${guid} is there twice`);
    if (at < metadataTableSize || at + length > bytes.length) throw corrupt(`VHDX metadata item ${guid} lies outside its region`);
    items.set(guid, { at, length });
  }
  const place = (guid: string, name: string, length: number): number => {
    const item = items.get(guid);
    if (item === undefined) throw unsupported(`VHDX image lacks metadata item '${name}'`);
    if (item.length < length) throw corrupt(`VHDX metadata item '${name}' is too short`);
    return item.at;
  };
  const parametersAt = place(Item.PARAMETERS, 'file parameters', 8);
  const flags = view.getUint32(parametersAt + 4, true);
  const blockSize = view.getUint32(parametersAt, true);
  if (blockSize < MiB || blockSize > 256 * MiB || !isPowerOfTwo(blockSize)) throw corrupt(`Invalid VHDX block size ${blockSize}`);
  const logicalSectorSize = view.getUint32(place(Item.LOGICAL_SECTOR, 'logical sector size', 4), true);
  if (logicalSectorSize !== 512 && logicalSectorSize !== 4096) throw unsupported(`Unsupported VHDX logical sector size ${logicalSectorSize}`);
  const sizeAt = place(Item.SIZE, 'virtual disk size', 8);
  const size = readSize(view, sizeAt);
  if (!(size <= maxVirtualSize)) throw corrupt('VHDX virtual disk size is larger than 64 TiB');
  const locator = items.get(Item.PARENT_LOCATOR);
  const hasParent = (flags & 2) !== 0;
  if (hasParent && locator === undefined) throw corrupt('VHDX image has a parent but no parent locator');
  return {
    parameters: {
      blockSize, fixed: (flags & 1) !== 0, size: size - (size % logicalSectorSize), logicalSectorSize,
      diskId: readGuid(bytes, place(Item.DISK_ID, 'virtual disk id', 16)),
      physicalSectorSize: view.getUint32(place(Item.PHYSICAL_SECTOR, 'physical sector size', 4), true),
      parent: hasParent ? parseLocator(bytes.subarray(locator!.at, locator!.at + locator!.length)) : undefined,
    },
    sizeAt,
  };
}

function isPowerOfTwo(value: number): boolean {
  return value !== 0 && (value & (value - 1)) === 0;
}

function parseLocator(bytes: Uint8Array): Map<string, string> {
  const entries = new Map<string, string>();
  const view = viewOf(bytes);
  if (bytes.length < 20) throw corrupt('VHDX parent locator is too short');
  const type = readGuid(bytes, 0);
  if (type !== locatorType) throw unsupported(`Unknown type of VHDX parent locator ${type}`);
  const count = view.getUint16(18, true);
  if (20 + 12 * count > bytes.length) throw corrupt('VHDX parent locator is too short');
  const string = (at: number, length: number): string => {
    if (at + length > bytes.length) throw corrupt('VHDX parent locator points outside itself');
    return new TextDecoder('utf-16le').decode(bytes.subarray(at, at + length));
  };
  for (let at = 20; at < 20 + 12 * count; at += 12) {
    entries.set(string(view.getUint32(at, true), view.getUint16(at + 8, true)), string(view.getUint32(at + 4, true), view.getUint16(at + 10, true)));
  }
  return entries;
}

/** A parent locator with these entries. */
export function serialiseLocator(entries: ReadonlyMap<string, string>): Uint8Array {
  const strings = [...entries].flat();
  const bytes = new Uint8Array(20 + 6 * strings.length + 2 * strings.join('').length);
  const view = viewOf(bytes);
  writeGuid(bytes, 0, locatorType);
  view.setUint16(18, entries.size, true);
  let at = 20 + 6 * strings.length;
  strings.forEach((string, index) => {
    const entry = 20 + 12 * (index >> 1);
    view.setUint32(entry + 4 * (index & 1), at, true);
    view.setUint16(entry + 8 + 2 * (index & 1), 2 * string.length, true);
    for (let unit = 0; unit < string.length; unit++, at += 2) view.setUint16(at, string.charCodeAt(unit), true);
  });
  return bytes;
}

/**
 * Puts another parent locator, or none, into the region's first bytes. The other items stay where they are.
 * @returns the parts of `bytes` that changed, together at most the table and one item
 * @throws BlockError NO_SPACE
 */
export function withLocator(bytes: Uint8Array, entries: ReadonlyMap<string, string> | undefined): { readonly offset: number; readonly bytes: Uint8Array }[] {
  const view = viewOf(bytes);
  const items = Array.from({ length: view.getUint16(10, true) }, (_, index) => {
    const entry = bytes.slice(32 + 32 * index, 64 + 32 * index);
    return { guid: readGuid(entry, 0), at: viewOf(entry).getUint32(16, true), length: viewOf(entry).getUint32(20, true), entry };
  });
  const others = items.filter(({ guid }) => guid !== Item.PARENT_LOCATOR).sort((a, b) => a.at - b.at);
  const parametersAt = others.find(({ guid }) => guid === Item.PARAMETERS)!.at;
  const flags = view.getUint32(parametersAt + 4, true);
  view.setUint32(parametersAt + 4, entries === undefined ? flags & ~2 : flags | 2, true);
  const changed = [{ offset: parametersAt, length: 8 }, { offset: 0, length: 32 + 32 * (others.length + 1) }];
  const table = others.map(({ entry }) => entry);
  if (entries !== undefined) {
    const locator = serialiseLocator(entries);
    let place = metadataTableSize;
    for (const { at, length } of others) if (place + locator.length > at) place = Math.max(place, Math.ceil((at + length) / 8) * 8);
    if (place + locator.length > bytes.length) throw new BlockError('NO_SPACE', 'The VHDX metadata region has no room for the parent locator', { errno: Errno.ENOSPC });
    bytes.set(locator, place);
    changed.push({ offset: place, length: locator.length });
    const entry = new Uint8Array(32);
    writeGuid(entry, 0, Item.PARENT_LOCATOR);
    [place, locator.length, Flag.REQUIRED].forEach((value, index) => { viewOf(entry).setUint32(16 + 4 * index, value, true); });
    table.push(entry);
  }
  view.setUint16(10, table.length, true);
  bytes.fill(0, 32, 32 + 32 * items.length);
  table.forEach((entry, index) => { bytes.set(entry, 32 + 32 * index); });
  return changed.map(({ offset, length }) => ({ offset, bytes: bytes.slice(offset, offset + length) }));
}

/** Table and items of a new image, in whole pages. */
export function serialiseMetadata(disk: DiskParameters): Uint8Array {
  const number = (length: 4 | 8, value: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    if (length === 8) writeSize(viewOf(bytes), 0, value);
    else viewOf(bytes).setUint32(0, value, true);
    return bytes;
  };
  const parameters = new Uint8Array(8);
  viewOf(parameters).setUint32(0, disk.blockSize, true);
  viewOf(parameters).setUint32(4, (disk.fixed ? 1 : 0) | (disk.parent === undefined ? 0 : 2), true);
  const diskId = new Uint8Array(16);
  writeGuid(diskId, 0, disk.diskId);
  const items: readonly (readonly [guid: string, flags: number, value: Uint8Array])[] = [
    [Item.PARAMETERS, Flag.REQUIRED, parameters],
    [Item.SIZE, Flag.REQUIRED | Flag.VIRTUAL_DISK, number(8, disk.size)],
    [Item.DISK_ID, Flag.REQUIRED | Flag.VIRTUAL_DISK, diskId],
    [Item.LOGICAL_SECTOR, Flag.REQUIRED | Flag.VIRTUAL_DISK, number(4, disk.logicalSectorSize)],
    [Item.PHYSICAL_SECTOR, Flag.REQUIRED | Flag.VIRTUAL_DISK, number(4, disk.physicalSectorSize)],
    ...(disk.parent === undefined ? [] : [[Item.PARENT_LOCATOR, Flag.REQUIRED, serialiseLocator(disk.parent)] as const]),
  ];
  const total = items.reduce((sum, [, , value]) => sum + value.length, metadataTableSize);
  const bytes = new Uint8Array(Math.ceil(total / 4096) * 4096);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode('metadata'));
  view.setUint16(10, items.length, true);
  let at = metadataTableSize;
  items.forEach(([guid, flags, value], index) => {
    const entry = 32 + 32 * index;
    writeGuid(bytes, entry, guid);
    view.setUint32(entry + 16, at, true);
    view.setUint32(entry + 20, value.length, true);
    view.setUint32(entry + 24, flags, true);
    bytes.set(value, at);
    at += value.length;
  });
  return bytes;
}
