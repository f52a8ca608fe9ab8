/** Where things lie in a dynamic or differencing image: arithmetic only, for files that are seeked in and for streams. */
import { sectorSize } from './geometry.js';
import { dynamicHeaderSize, footerSize, newDynamicHeader, type DynamicHeader, type Footer } from './header.js';
import type { NewLocator } from './locator.js';

export const defaultBlockSize = 2 * 1024 * 1024;
/** What a table entry says of a block that is not there. */
export const absent = 0xffff_ffff;
/** More would take more than 64 MiB of table. */
export const maxTableEntries = 16 * 1024 * 1024;

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Where a file has its footer if it has one: footers of 511 bytes are the same with their last byte left out. */
export function footerOffset(fileSize: number): number {
  return Math.max(0, roundUp(fileSize, sectorSize) - footerSize);
}

/** Bytes of the sector bitmap in front of each block. */
export function bitmapSize(blockSize: number): number {
  return roundUp(blockSize / sectorSize / 8, sectorSize);
}

/** Bytes of the block allocation table with its padding. */
export function tableSize(entries: number): number {
  return roundUp(entries * 4, sectorSize);
}

export function blockCount(size: number, blockSize: number): number {
  return Math.ceil(size / blockSize);
}

/** Everything in front of the first block of a new image, and what else there is to know. */
export interface NewLayout {
  readonly header: DynamicHeader;
  /** Footer copy, dynamic header, names of the parent; the table follows. */
  readonly head: Uint8Array;
  /** Bytes in front of the first block; in an image without blocks the footer lies there. */
  readonly blocksOffset: number;
}

/** What a child records of its parent. */
export interface ParentReference {
  readonly uuid: Uint8Array;
  readonly timestamp: number;
  /** For people. */
  readonly name: string;
  readonly locators: readonly NewLocator[];
}

export function layOut(footer: Footer, blockSize: number, parent?: ParentReference): NewLayout {
  let at = footerSize + dynamicHeaderSize;
  const names = (parent?.locators ?? []).map(({ platform, data }) => {
    const offset = at;
    at += roundUp(data.length, sectorSize);
    return { platform, space: at - offset, length: data.length, offset, data };
  });
  const maxEntries = blockCount(footer.currentSize, blockSize);
  const header = newDynamicHeader({
    tableOffset: at, maxEntries, blockSize,
    ...(parent && { parentUuid: parent.uuid, parentTimestamp: parent.timestamp, parentName: parent.name, locators: names }),
  });
  const head = new Uint8Array(at);
  head.set(footer.bytes);
  head.set(header.bytes, footerSize);
  for (const { offset, data } of names) head.set(data, offset);
  return { header, head, blocksOffset: at + tableSize(maxEntries) };
}
