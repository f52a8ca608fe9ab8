/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { keepsBitmaps, type DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import { clusterBitsOption, refcountOrderOption, versionOfCompat, type OptionValues } from './create-options.js';
import { encryptionHeaderSize } from './encryption.js';
import { maxL1Bytes } from './header.js';

/**
 * Space for a new image of `options.size` bytes, or for the content of `source`.
 * @throws BlockError INVALID_ARGUMENT with the peer's text
 */
export async function measureQcow2(source: BlockChild | undefined, options: OptionValues & { readonly size?: number }): Promise<MeasureResult> {
  const extendedL2 = options['extended_l2'] === true;
  const clusterBits = clusterBitsOption(options['cluster_size'], extendedL2);
  const preallocation = options['preallocation'] ?? 'off';
  if (!['off', 'metadata', 'falloc', 'full'].includes(String(preallocation))) throw bad(`invalid parameter value: ${String(preallocation)}`);
  const compat = options['compat'];
  const version = versionOfCompat(compat === undefined || compat === null ? undefined : String(compat));
  if (version === undefined) throw bad(`Invalid compatibility level: '${String(compat)}'`);
  const refcountOrder = refcountOrderOption(options['refcount_bits']);
  if (refcountOrder !== 4 && version < 3) {
    throw bad('Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)');
  }
  const clusterSize = 2 ** clusterBits;
  const size = roundUp(source?.size ?? options.size ?? 0, clusterSize);
  const metadata = roundUp(encryptionHeaderSize(options), clusterSize) + metadataSize(size, clusterSize, refcountOrder, extendedL2);
  const whole = preallocation === 'full' || preallocation === 'falloc' || (source !== undefined && options['backing_file'] !== undefined);
  const data = whole ? size : source === undefined ? 0 : await allocatedSize(source, clusterSize);
  const result = { required: metadata + data, fullyAllocated: metadata + size };
  if (version < 3 || source === undefined || !keepsBitmaps(source.node)) return result;
  return { ...result, bitmaps: bitmapsSize(source.node.bitmaps.values(), clusterSize) };
}

/** Bytes of header, tables and refcounts of an image whose `size` bytes (a multiple of clusters) are all allocated. */
function metadataSize(size: number, clusterSize: number, refcountOrder: number, extendedL2: boolean): number {
  const entriesPerTable = clusterSize / (extendedL2 ? 16 : 8);
  const dataClusters = size / clusterSize;
  const l2Tables = Math.ceil(dataClusters / entriesPerTable);
  const l1Clusters = Math.ceil(l2Tables * 8 / clusterSize);
  if (l1Clusters * clusterSize > maxL1Bytes) throw bad('The image size is too large (try using a larger cluster size)');
  const others = 1 + l1Clusters + l2Tables;
  return (others + refcountClusters(dataClusters + others, clusterSize, refcountOrder)) * clusterSize;
}

/** Clusters of the refcount structures that count `clusters` others and themselves. */
export function refcountClusters(clusters: number, clusterSize: number, refcountOrder: number): number {
  const perBlock = clusterSize * 8 / 2 ** refcountOrder;
  const perTable = clusterSize / 8;
  let blocks = 0;
  let tables = 0;
  for (;;) {
    const neededBlocks = Math.ceil((clusters + blocks + tables) / perBlock);
    const neededTables = Math.ceil(neededBlocks / perTable);
    if (neededBlocks === blocks && neededTables === tables) return blocks + tables;
    blocks = neededBlocks;
    tables = neededTables;
  }
}

async function allocatedSize(source: BlockChild, clusterSize: number): Promise<number> {
  let allocated = 0;
  const { size } = source;
  for (let offset = 0; offset < size;) {
    const status = await chainStatus(source.node, offset, size - offset);
    let end = offset + status.length;
    if (!status.zero && (status.data || status.allocated)) {
      end = Math.min(size, roundUp(end, clusterSize));
      allocated += roundUp(end, clusterSize) - roundDown(offset, clusterSize);
    }
    offset = end;
  }
  return allocated;
}

/** Bytes that persistent bitmaps would take in an image. */
function bitmapsSize(bitmaps: Iterable<DirtyBitmap>, clusterSize: number): number {
  let total = 0;
  let directory = 0;
  for (const bitmap of bitmaps) {
    if (!bitmap.persistent) continue;
    const clusters = Math.ceil(bitmap.storedBytes / clusterSize);
    total += clusters * clusterSize + roundUp(clusters * 8, clusterSize);
    directory += roundUp(24 + new TextEncoder().encode(bitmap.name).length, 8);
  }
  return total + roundUp(directory, clusterSize);
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
