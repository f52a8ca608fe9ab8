/** Footer and dynamic disk header: pure codecs. All numbers are big endian. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';
import type { Geometry } from './geometry.js';

export const footerSize = 512;
export const dynamicHeaderSize = 1024;
export const locatorCount = 8;

export const DiskType = { FIXED: 2, DYNAMIC: 3, DIFFERENCING: 4 } as const;

/** Seconds from 1970 to 2000, where the format's time begins. */
const epoch = 946_684_800;
/** What stands for "nowhere". */
const nowhere = 0xffff_ffff_ffff_ffffn;

export interface Footer {
  /** Where the dynamic header lies; undefined for fixed disks. */
  readonly dataOffset: number | undefined;
  /** Seconds since 2000-01-01 UTC. */
  readonly timestamp: number;
  /** Four characters. */
  readonly creator: string;
  readonly originalSize: number;
  readonly currentSize: number;
  readonly geometry: Geometry;
  readonly type: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  /** A fixed disk is growing: within it, there, lies its former footer. Our own mark, in bytes that the format reserves. */
  readonly formerFooter: number | undefined;
  /** As stored: what is not known here is kept when a field changes. */
  readonly bytes: Uint8Array;
}

export interface DynamicHeader {
  readonly tableOffset: number;
  readonly maxEntries: number;
  readonly blockSize: number;
  /** 16 bytes. */
  readonly parentUuid: Uint8Array;
  readonly parentTimestamp: number;
  /** Name of the parent, for people. */
  readonly parentName: string;
  readonly locators: readonly ParentLocator[];
  /** As stored. */
  readonly bytes: Uint8Array;
}

/** Where a platform's name of the parent lies. */
export interface ParentLocator {
  /** Four characters; four NULs: none. */
  readonly platform: string;
  /** Bytes reserved. The field counts sectors, but some writers count bytes. */
  readonly space: number;
  readonly length: number;
  readonly offset: number;
}

/** The format's time now. */
export function timestampNow(): number {
  return Math.floor(Date.now() / 1000) - epoch;
}

/** Ones' complement of the sum of all bytes but the four of the checksum itself. */
export function checksum(bytes: Uint8Array, at: number): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) if (i < at || i >= at + 4) sum += bytes[i]!;
  return ~sum >>> 0;
}

const footerChecksumAt = 64;
const formerFooterAt = 88;
const headerChecksumAt = 36;

export function hasFooterMark(bytes: Uint8Array): boolean {
  return text(bytes, 0, 8) === 'conectix';
}

/** The footer's mark is there and its checksum right. */
export function isFooter(bytes: Uint8Array): boolean {
  return hasFooterMark(bytes) && viewOf(bytes).getUint32(footerChecksumAt) === checksum(bytes, footerChecksumAt);
}

export function isDynamicHeader(bytes: Uint8Array): boolean {
  return text(bytes, 0, 8) === 'cxsparse';
}

export function dynamicChecksumHolds(bytes: Uint8Array): boolean {
  return viewOf(bytes).getUint32(headerChecksumAt) === checksum(bytes, headerChecksumAt);
}

/** Takes a footer apart; {@link isFooter} holds. @throws BlockError UNSUPPORTED_FEATURE for other versions and disk types */
export function parseFooter(bytes: Uint8Array): Footer {
  const view = viewOf(bytes);
  const version = view.getUint16(12);
  if (version !== 1) throw unsupported(`Unsupported VHD version ${version}.${view.getUint16(14)}`);
  const type = view.getUint32(60);
  if (type !== DiskType.FIXED && type !== DiskType.DYNAMIC && type !== DiskType.DIFFERENCING) throw unsupported(`Unsupported VHD disk type ${type}`);
  const dataOffset = view.getBigUint64(16);
  return {
    dataOffset: type === DiskType.FIXED ? undefined : Number(dataOffset),
    timestamp: view.getUint32(24),
    creator: text(bytes, 28, 4),
    originalSize: Number(view.getBigUint64(40)),
    currentSize: Number(view.getBigUint64(48)),
    geometry: { cylinders: view.getUint16(56), heads: bytes[58]!, sectorsPerTrack: bytes[59]! },
    type,
    uuid: bytes.slice(68, 84),
    formerFooter: Number(view.getBigUint64(formerFooterAt)) || undefined,
    bytes,
  };
}

export type NewFooter = Pick<Footer, 'dataOffset' | 'timestamp' | 'creator' | 'currentSize' | 'geometry' | 'type' | 'uuid'>;

/** A footer made by us: QEMU's creator version and host, so that everybody makes the same of its size. */
export function newFooter(fields: NewFooter): Footer {
  const bytes = new Uint8Array(footerSize);
  const view = viewOf(bytes);
  putText(bytes, 0, 'conectix');
  view.setUint32(8, 2);
  view.setUint32(12, 0x0001_0000);
  view.setBigUint64(16, fields.dataOffset === undefined ? nowhere : BigInt(fields.dataOffset));
  view.setUint32(24, fields.timestamp);
  view.setUint32(32, 0x0005_0003);
  putText(bytes, 36, 'Wi2k');
  view.setBigUint64(40, BigInt(fields.currentSize));
  view.setUint32(60, fields.type);
  bytes.set(fields.uuid, 68);
  return changedFooter(bytes, fields);
}

/** A footer with another size; everything else stays. */
export function changedFooter(from: Uint8Array, { creator, currentSize, geometry }: Pick<Footer, 'creator' | 'currentSize' | 'geometry'>): Footer {
  const bytes = from.slice();
  const view = viewOf(bytes);
  putText(bytes, 28, creator);
  view.setBigUint64(48, BigInt(currentSize));
  view.setUint16(56, geometry.cylinders);
  bytes[58] = geometry.heads;
  bytes[59] = geometry.sectorsPerTrack;
  view.setUint32(footerChecksumAt, checksum(bytes, footerChecksumAt));
  return parseFooter(bytes);
}

/** A footer that says where the former one lies, or no longer does; everything else stays. */
export function growingFooter(from: Uint8Array, formerFooter: number | undefined): Footer {
  const bytes = from.slice();
  const view = viewOf(bytes);
  view.setBigUint64(formerFooterAt, BigInt(formerFooter ?? 0));
  view.setUint32(footerChecksumAt, checksum(bytes, footerChecksumAt));
  return parseFooter(bytes);
}

/** A footer of another type; everything else stays. */
export function typedFooter(from: Uint8Array, type: number): Footer {
  const bytes = from.slice();
  const view = viewOf(bytes);
  view.setUint32(60, type);
  view.setUint32(footerChecksumAt, checksum(bytes, footerChecksumAt));
  return parseFooter(bytes);
}

/** @throws BlockError with the peer's text */
export function parseDynamicHeader(bytes: Uint8Array): DynamicHeader {
  if (!isDynamicHeader(bytes)) throw corrupt('Invalid header magic');
  const view = viewOf(bytes);
  const version = view.getUint16(24);
  if (version !== 1) throw unsupported(`Unsupported VHD dynamic header version ${version}.${view.getUint16(26)}`);
  const locators = Array.from({ length: locatorCount }, (_, index): ParentLocator => {
    const at = 576 + index * 24;
    const space = view.getUint32(at + 4);
    const length = view.getUint32(at + 8);
    return { platform: text(bytes, at, 4), space: space < 512 ? space * 512 : space, length, offset: Number(view.getBigUint64(at + 16)) };
  });
  return {
    tableOffset: Number(view.getBigUint64(16)),
    maxEntries: view.getUint32(28),
    blockSize: view.getUint32(32),
    parentUuid: bytes.slice(40, 56),
    parentTimestamp: view.getUint32(56),
    parentName: utf16(bytes.subarray(64, 576), false),
    locators,
    bytes,
  };
}

export type NewDynamicHeader = Pick<DynamicHeader, 'tableOffset' | 'maxEntries' | 'blockSize'>
  & Partial<Pick<DynamicHeader, 'parentUuid' | 'parentTimestamp' | 'parentName' | 'locators'>>;

export function newDynamicHeader(fields: NewDynamicHeader): DynamicHeader {
  const bytes = new Uint8Array(dynamicHeaderSize);
  const view = viewOf(bytes);
  putText(bytes, 0, 'cxsparse');
  view.setBigUint64(8, nowhere);
  view.setUint32(24, 0x0001_0000);
  view.setUint32(32, fields.blockSize);
  bytes.set(fields.parentUuid ?? new Uint8Array(16), 40);
  view.setUint32(56, fields.parentTimestamp ?? 0);
  bytes.set(utf16Bytes((fields.parentName ?? '').slice(0, 255), false), 64);
  (fields.locators ?? []).forEach(({ platform, space, length, offset }, index) => {
    const at = 576 + index * 24;
    putText(bytes, at, platform);
    view.setUint32(at + 4, Math.ceil(space / 512));
    view.setUint32(at + 8, length);
    view.setBigUint64(at + 16, BigInt(offset));
  });
  return changedDynamicHeader(bytes, fields);
}

/** The header with its table elsewhere; everything else stays. */
export function changedDynamicHeader(from: Uint8Array, { tableOffset, maxEntries }: Pick<DynamicHeader, 'tableOffset' | 'maxEntries'>): DynamicHeader {
  const bytes = from.slice();
  const view = viewOf(bytes);
  view.setBigUint64(16, BigInt(tableOffset));
  view.setUint32(28, maxEntries);
  view.setUint32(headerChecksumAt, checksum(bytes, headerChecksumAt));
  return parseDynamicHeader(bytes);
}

/** Text up to its first NUL. */
export function utf16(bytes: Uint8Array, littleEndian: boolean): string {
  const view = viewOf(bytes);
  let result = '';
  for (let at = 0; at + 1 < bytes.length; at += 2) {
    const unit = view.getUint16(at, littleEndian);
    if (unit === 0) break;
    result += String.fromCharCode(unit);
  }
  return result;
}

export function utf16Bytes(value: string, littleEndian: boolean): Uint8Array {
  const bytes = new Uint8Array(value.length * 2);
  const view = viewOf(bytes);
  for (let at = 0; at < value.length; at++) view.setUint16(at * 2, value.charCodeAt(at), littleEndian);
  return bytes;
}

/** 0 no, 100 certain: only images with a copy of the footer in front can be told. */
export function probeVpc(head: Uint8Array): number {
  return head.length >= 8 && hasFooterMark(head) ? 100 : 0;
}

/** A UUID as people write it. */
export function uuidText(uuid: Uint8Array): string {
  return [...uuid].map((byte, index) => ([4, 6, 8, 10].includes(index) ? '-' : '') + byte.toString(16).padStart(2, '0')).join('');
}

function text(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

function putText(bytes: Uint8Array, at: number, value: string): void {
  for (let i = 0; i < value.length; i++) bytes[at + i] = value.charCodeAt(i);
}

export function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

export function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message, { errno: Errno.ENOTSUP });
}
