/** The header of a QED image. Bytes only. */
import { BlockError } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const headerBytes = 64;
export const clusterSizeLimits = [4096, 64 * 1024 * 1024] as const;
/** In clusters. */
export const tableSizeLimits = [1, 16] as const;
export const maxBackingName = 1023;

export const Feature = {
  BACKING_FILE: 1,
  /** Tables may refer to what is not there: check before use. */
  NEED_CHECK: 2,
  /** The backing file is raw and must not be probed. */
  BACKING_RAW: 4,
} as const;
const knownFeatures = 7n;

export interface QedHeader {
  readonly clusterSize: number;
  /** Of L1 and of each L2 table, in clusters. */
  readonly tableSize: number;
  /** In clusters. */
  readonly headerSize: number;
  readonly features: number;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  readonly l1Offset: number;
  readonly size: number;
  readonly backingFile: string | undefined;
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

/** Largest virtual size that tables of that size cover. */
export function largestImage(clusterSize: number, tableSize: number): bigint {
  const entries = BigInt(tableSize) * BigInt(clusterSize) / 8n;
  const bytes = entries * entries * BigInt(clusterSize);
  const limit = 2n ** 53n - 512n;
  return bytes < limit ? bytes : limit;
}

export function probeQed(head: Uint8Array): number {
  return head.length >= headerBytes && viewOf(head).getUint32(0, true) === 0x00444551 ? 100 : 0;
}

/**
 * The header, and where the backing file's name lies.
 * @param head the first {@link headerBytes} of the file
 * @param fileSize bytes in the file
 * @throws BlockError NOT_THIS_FORMAT, UNSUPPORTED_FEATURE or CORRUPT_IMAGE with the peer's text
 */
export function parseHeader(head: Uint8Array, fileSize: number): { header: QedHeader; name: { offset: number; length: number } | undefined } {
  if (probeQed(head) === 0) throw new BlockError('NOT_THIS_FORMAT', 'Image not in QED format');
  const view = viewOf(head);
  const clusterSize = view.getUint32(4, true);
  const tableSize = view.getUint32(8, true);
  const headerSize = view.getUint32(12, true);
  const features = view.getBigUint64(16, true);
  if ((features & ~knownFeatures) !== 0n) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported QED features: ${(features & ~knownFeatures).toString(16)}`);
  if (!isPowerOfTwo(clusterSize) || clusterSize < clusterSizeLimits[0] || clusterSize > clusterSizeLimits[1]) throw corrupt('QED cluster size is invalid');
  if (!isPowerOfTwo(tableSize) || tableSize < tableSizeLimits[0] || tableSize > tableSizeLimits[1]) throw corrupt('QED table size is invalid');
  const size = view.getBigUint64(48, true);
  if (size % 512n !== 0n || size > largestImage(clusterSize, tableSize)) throw corrupt('QED image size is invalid');
  const l1 = view.getBigUint64(40, true);
  const tableBytes = BigInt(tableSize * clusterSize);
  if (l1 % BigInt(clusterSize) !== 0n || l1 < BigInt(Math.max(1, headerSize) * clusterSize) || l1 + tableBytes > BigInt(fileSize)) {
    throw corrupt('QED table offset is invalid');
  }
  const header = {
    clusterSize, tableSize, headerSize, features: Number(features), compatible: view.getBigUint64(24, true), autoclear: view.getBigUint64(32, true),
    l1Offset: Number(l1), size: Number(size), backingFile: undefined,
  };
  if ((header.features & Feature.BACKING_FILE) === 0) return { header, name: undefined };
  const name = { offset: view.getUint32(56, true), length: view.getUint32(60, true) };
  if (name.offset + name.length > headerSize * clusterSize) throw corrupt('QED backing filename offset is invalid');
  if (name.length > maxBackingName) throw corrupt('Failed to read backing filename');
  return { header, name };
}

/** Bytes for the start of the file: the header and the backing file's name right behind it. */
export function serialiseHeader(header: QedHeader): Uint8Array {
  const name = new TextEncoder().encode(header.backingFile ?? '');
  const bytes = new Uint8Array(headerBytes + name.length);
  const view = viewOf(bytes);
  view.setUint32(0, 0x00444551, true);
  view.setUint32(4, header.clusterSize, true);
  view.setUint32(8, header.tableSize, true);
  view.setUint32(12, header.headerSize, true);
  view.setBigUint64(16, BigInt(header.features), true);
  view.setBigUint64(24, header.compatible, true);
  view.setBigUint64(32, header.autoclear, true);
  view.setBigUint64(40, BigInt(header.l1Offset), true);
  view.setBigUint64(48, BigInt(header.size), true);
  if (header.backingFile !== undefined) {
    view.setUint32(56, headerBytes, true);
    view.setUint32(60, name.length, true);
    bytes.set(name, headerBytes);
  }
  return bytes;
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message);
}
