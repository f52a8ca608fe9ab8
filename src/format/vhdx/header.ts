/** What lies in the first MiB of a file: its identifier, two copies of the header, two of the region table. */
import { crc32c } from '../../util/crc32c.js';
import { viewOf } from '../../util/view.js';
import { readGuid, writeGuid } from './guid.js';

export const MiB = 1 << 20;
export const signature = 'vhdxfile';
export const headerOffsets = [64 * 1024, 128 * 1024] as const;
export const headerSize = 4096;
export const regionTableOffsets = [192 * 1024, 256 * 1024] as const;
export const regionTableSize = 64 * 1024;
const maxRegions = 2047;

export const batGuid = '2dc27766-f623-4200-9d64-115e9bfd4a08';
export const metadataGuid = '8b7ca206-4790-4b9a-b8fe-575f050f886e';

/** One copy of the header. */
export interface VhdxHeader {
  /** The valid copy with the greater number holds. */
  readonly sequence: bigint;
  /** Changes when the file is first written to after an open. */
  readonly fileWriteGuid: string;
  /** Changes when what a guest sees first changes after an open; children name their parent by it. */
  readonly dataWriteGuid: string;
  /** Of the entries in the log that must be replayed; nil: none. */
  readonly logGuid: string;
  readonly logVersion: number;
  readonly logLength: number;
  readonly logOffset: number;
}

export function text(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

function writeText(bytes: Uint8Array, at: number, value: string): void {
  for (let index = 0; index < value.length; index++) bytes[at + index] = value.charCodeAt(index);
}

/** 100 where the bytes begin as a VHDX file does. */
export function probeVhdx(head: Uint8Array): number {
  return head.length >= signature.length && text(head, 0, signature.length) === signature ? 100 : 0;
}

/** The file's first 64 KiB. */
export function serialiseIdentifier(creator: string): Uint8Array {
  const bytes = new Uint8Array(64 * 1024);
  writeText(bytes, 0, signature);
  for (let index = 0; index < creator.length; index++) viewOf(bytes).setUint16(8 + 2 * index, creator.charCodeAt(index), true);
  return bytes;
}

/** CRC-32C of a structure whose checksum lies in its second word. */
export function checksum(bytes: Uint8Array): number {
  return crc32c(bytes.subarray(8), crc32c(new Uint8Array(4), crc32c(bytes.subarray(0, 4))));
}

/** An u64 that must be exact as a number; NaN where it is not. */
export function readSize(view: DataView, at: number): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

export function writeSize(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** A copy of the header from its 4096 bytes; undefined where they are not a valid one. */
export function parseHeader(bytes: Uint8Array): VhdxHeader | undefined {
  const view = viewOf(bytes);
  if (bytes.length < headerSize || text(bytes, 0, 4) !== 'head' || view.getUint32(4, true) !== checksum(bytes) || view.getUint16(66, true) !== 1) return undefined;
  return {
    sequence: view.getBigUint64(8, true),
    fileWriteGuid: readGuid(bytes, 16),
    dataWriteGuid: readGuid(bytes, 32),
    logGuid: readGuid(bytes, 48),
    logVersion: view.getUint16(64, true),
    logLength: view.getUint32(68, true),
    logOffset: readSize(view, 72),
  };
}

export function serialiseHeader(header: VhdxHeader): Uint8Array {
  const bytes = new Uint8Array(headerSize);
  const view = viewOf(bytes);
  writeText(bytes, 0, 'head');
  view.setBigUint64(8, header.sequence, true);
  writeGuid(bytes, 16, header.fileWriteGuid);
  writeGuid(bytes, 32, header.dataWriteGuid);
  writeGuid(bytes, 48, header.logGuid);
  view.setUint16(64, header.logVersion, true);
  view.setUint16(66, 1, true);
  view.setUint32(68, header.logLength, true);
  writeSize(view, 72, header.logOffset);
  view.setUint32(4, checksum(bytes), true);
  return bytes;
}

/** Which of the two copies (0 or 1) holds; undefined where neither does, or both do and differ. */
export function currentCopy(copies: readonly (Uint8Array)[]): { readonly header: VhdxHeader; readonly copy: 0 | 1 } | undefined {
  const [first, second] = copies.map(parseHeader);
  if (first !== undefined && second !== undefined && first.sequence === second.sequence) {
    return copies[0]!.every((byte, index) => byte === copies[1]![index]) ? { header: first, copy: 0 } : undefined;
  }
  if (first !== undefined && (second === undefined || first.sequence > second.sequence)) return { header: first, copy: 0 };
  return second === undefined ? undefined : { header: second, copy: 1 };
}

/** A part of the file with a purpose. */
export interface Region {
  readonly guid: string;
  readonly offset: number;
  readonly length: number;
  /** Who does not know it must not open the file. */
  readonly required: boolean;
}

/** The regions that a table of 64 KiB lists; undefined where it is not a valid one. */
export function parseRegionTable(bytes: Uint8Array): Region[] | undefined {
  const view = viewOf(bytes);
  const count = bytes.length < regionTableSize ? 0 : view.getUint32(8, true);
  if (count === 0 || text(bytes, 0, 4) !== 'regi' || view.getUint32(4, true) !== checksum(bytes) || count > maxRegions) return undefined;
  return Array.from({ length: count }, (_, index) => {
    const at = 16 + 32 * index;
    return { guid: readGuid(bytes, at), offset: readSize(view, at + 16), length: view.getUint32(at + 24, true), required: (view.getUint32(at + 28, true) & 1) !== 0 };
  });
}

export function serialiseRegionTable(regions: readonly Region[]): Uint8Array {
  const bytes = new Uint8Array(regionTableSize);
  const view = viewOf(bytes);
  writeText(bytes, 0, 'regi');
  view.setUint32(8, regions.length, true);
  regions.forEach(({ guid, offset, length, required }, index) => {
    const at = 16 + 32 * index;
    writeGuid(bytes, at, guid);
    writeSize(view, at + 16, offset);
    view.setUint32(at + 24, length, true);
    view.setUint32(at + 28, required ? 1 : 0, true);
  });
  view.setUint32(4, checksum(bytes), true);
  return bytes;
}
