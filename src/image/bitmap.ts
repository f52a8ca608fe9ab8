/** Persistent dirty bitmaps of an image that nobody else uses. */
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';

const maxGranularity = 2 ** 31;

/** A bitmap of the node. @throws BlockError NOT_FOUND */
export function findBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = node.bitmaps.get(name);
  if (bitmap === undefined) throw new BlockError('NOT_FOUND', `Dirty bitmap '${name}' not found`, { node: node.name });
  return bitmap;
}

/** Bytes per bit where the user names none: the cluster size, at least 4 KiB, at most 64 KiB. */
export function defaultGranularity(node: BlockNode): number {
  const cluster = node.facet('formatInfo')?.clusterSize;
  return cluster === undefined ? 65_536 : Math.min(65_536, Math.max(4096, cluster));
}

/** Adds an empty bitmap that is stored with the image. */
export async function addBitmap(node: BlockNode, name: string, granularity = defaultGranularity(node)): Promise<void> {
  if (name === '') throw new BlockError('INVALID_ARGUMENT', 'Bitmap name cannot be empty');
  if (granularity < 512 || granularity > maxGranularity || !Number.isInteger(Math.log2(granularity))) {
    throw new BlockError('INVALID_ARGUMENT', 'Granularity must be power of 2 and at least 512');
  }
  const facet = node.facet('bitmaps');
  if (facet?.canStore === undefined) throw new BlockError('NOT_SUPPORTED', `Can't store persistent bitmaps to ${node.name}: Operation not supported`);
  if (node.bitmaps.has(name)) throw new BlockError('ALREADY_EXISTS', `Bitmap already exists: ${name}`);
  await facet.canStore(name, granularity);
  const bitmap = new DirtyBitmap({ name, granularity, size: node.size });
  bitmap.persistent = true;
  node.bitmaps.set(name, bitmap);
}

/** Removes a bitmap, also one that was not stored properly. */
export async function removeBitmap(node: BlockNode, name: string): Promise<void> {
  const bitmap = findBitmap(node, name);
  bitmap.assertUsable({ modify: true, inconsistent: true });
  if (bitmap.persistent) await node.facet('bitmaps')?.remove(name);
  node.bitmaps.delete(name);
}

export function clearBitmap(node: BlockNode, name: string): void {
  const bitmap = findBitmap(node, name);
  bitmap.assertUsable({ modify: true });
  bitmap.clearAll();
}

/** Whether writes are recorded in it from now on. */
export function enableBitmap(node: BlockNode, name: string, enabled: boolean): void {
  const bitmap = findBitmap(node, name);
  bitmap.assertUsable({ modify: true });
  bitmap.enabled = enabled;
}

/** Adds the marks of `source` (which may be on another image of the same size) to a bitmap. */
export function mergeBitmap(node: BlockNode, name: string, source: BlockNode, sourceName: string): void {
  const target = findBitmap(node, name);
  target.assertUsable({ modify: true });
  const other = findBitmap(source, sourceName);
  other.assertUsable({});
  target.merge(other);
}
