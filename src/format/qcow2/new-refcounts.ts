/** Refcount structures built anew: for a repair that has nothing to build on, and for another width. */
import { BlockError, Errno } from '../../block/errors.js';
import { run } from '../../util/steps.js';
import { ReferenceCounts } from './check-references.js';
import { StoredRefcounts } from './check-refcounts.js';
import type { Qcow2Image } from './image.js';
import { maxRefcount, refcountsPerBlock, writeRefcount, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

interface Layout {
  /** Cluster of each block, by its index in the table. */
  readonly blocks: Map<number, number>;
  tableStart: number;
  tableClusters: number;
}

/** Makes sure that every area with references has a block. True if one had to be added. */
function placeBlocks(references: ReferenceCounts, perBlock: number, { blocks }: Layout, earliest: (index: number) => number): boolean {
  let added = false;
  for (let cluster = references.nextReferenced(0, references.clusters); cluster < references.clusters;) {
    const index = Math.floor(cluster / perBlock);
    if (!blocks.has(index)) {
      blocks.set(index, references.allocate(1, earliest(index)));
      added = true;
    }
    cluster = references.nextReferenced((index + 1) * perBlock, references.clusters);
  }
  return added;
}

/** Makes sure that the table has room for all blocks. True if it had to be placed anew. */
function placeTable(references: ReferenceCounts, clusterSize: number, layout: Layout): boolean {
  const needed = Math.ceil((Math.max(...layout.blocks.keys()) + 1) * 8 / clusterSize);
  if (needed <= layout.tableClusters) return false;
  references.release(layout.tableStart, layout.tableClusters);
  layout.tableClusters = needed;
  layout.tableStart = references.allocate(needed, 0);
  return true;
}

async function write(image: Qcow2Image, references: ReferenceCounts, layout: Layout, order: number): Promise<void> {
  const { clusterBits, clusterSize } = image.geometry;
  const perBlock = refcountsPerBlock(clusterBits, order);
  const block = new Uint8Array(clusterSize);
  const table = new Uint8Array(layout.tableClusters * clusterSize);
  for (const [index, place] of layout.blocks) {
    block.fill(0);
    const end = Math.min(references.clusters, (index + 1) * perBlock);
    for (let cluster = references.nextReferenced(index * perBlock, end); cluster < end; cluster = references.nextReferenced(cluster + 1, end)) {
      writeRefcount(block, cluster % perBlock, order, references.get(cluster));
    }
    await run(image.writeNewMetadata(place * clusterSize, block));
    writeU64(viewOf(table), index * 8, place * clusterSize);
  }
  await run(image.writeNewMetadata(layout.tableStart * clusterSize, table));
  await image.file.flush();
}

/**
 * Writes new refcount structures for what a check counted, and switches the header to them. The old ones keep their counts (as leaks).
 * No block lies before the area it covers; the table comes to the first place that has room.
 * @throws BlockError where they would come to lie on metadata behind the end of the file, which was not counted
 */
export async function rebuildRefcounts(image: Qcow2Image, references: ReferenceCounts): Promise<void> {
  const { clusterBits, clusterSize, refcountOrder } = image.geometry;
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  const layout: Layout = { blocks: new Map(), tableStart: 0, tableClusters: 0 };
  do {
    placeBlocks(references, perBlock, layout, (index) => index * perBlock);
  } while (placeTable(references, clusterSize, layout));
  await write(image, references, layout, refcountOrder);
  await run(image.updateHeader({ refcountTableOffset: layout.tableStart * clusterSize, refcountTableClusters: layout.tableClusters }));
  await image.file.flush();
}

/**
 * Gives refcounts a width of 2^order bits. Nothing else may run.
 * @param progress walks over the refcounts that are done, and how many there will be as far as is known
 * @throws BlockError INVALID_ARGUMENT where a refcount is too large for that
 */
export async function changeRefcountOrder(image: Qcow2Image, order: number, progress: (done: number, total: number) => void): Promise<void> {
  const { clusterBits, clusterSize } = image.geometry;
  await run(image.flush());
  const references = await storedReferences(image, order);
  const perBlock = refcountsPerBlock(clusterBits, order);
  const layout: Layout = { blocks: new Map(), tableStart: 0, tableClusters: 0 };
  let walks = 0;
  for (let changed = true; changed; walks++) {
    const total = Math.max(walks + 2, 3);
    progress(walks, total);
    changed = placeBlocks(references, perBlock, layout, () => 0);
    changed = placeTable(references, clusterSize, layout) || changed;
    progress(walks + 1, total);
  }
  await write(image, references, layout, order);
  progress(walks + 1, walks + 1);

  const { refcounts, header } = image;
  const old = { table: refcounts.table, offset: header.refcountTableOffset, length: header.refcountTableClusters * clusterSize };
  const blocks = Array.from({ length: refcounts.tableSize }, (_, index) => refcounts.blockOffset(index)).filter((offset) => offset !== 0);
  await run(image.switchRefcounts({
    refcountOrder: order, refcountTableOffset: layout.tableStart * clusterSize, refcountTableClusters: layout.tableClusters,
  }));
  for (const offset of blocks) await run(image.refcounts.update(offset, clusterSize, -1, 'other'));
  await run(image.refcounts.update(old.offset, old.length, -1, 'other'));
  await run(image.flush());
}

async function storedReferences(image: Qcow2Image, order: number): Promise<ReferenceCounts> {
  const { clusterSize } = image.geometry;
  const max = maxRefcount(order);
  const stored = new StoredRefcounts(image);
  const references = new ReferenceCounts(0);
  for (let index = stored.nextBlock(0); index !== Infinity; index = stored.nextBlock(index + 1)) {
    if (!(await stored.load(index))) continue;
    for (let cluster = index * stored.perBlock; cluster < (index + 1) * stored.perBlock; cluster++) {
      const count = stored.get(cluster);
      if (count === 0) continue;
      if (count > max) {
        throw new BlockError('INVALID_ARGUMENT', `Cannot decrease refcount entry width to ${2 ** order} bits: `
          + `Cluster at offset 0x${(cluster * clusterSize).toString(16)} has a refcount of ${count}`, { errno: Errno.EINVAL });
      }
      references.set(cluster, count);
    }
  }
  return references;
}
