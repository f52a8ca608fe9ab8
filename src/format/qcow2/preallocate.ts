/** Room for guest data in advance. */
import type { Preallocation } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { ClusterMap } from './cluster.js';
import { maxRefcountTableBytes } from './header.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import type { Refcounts } from './refcount.js';
import { hiOf, loOf, refcountsPerBlock, setEntry, viewOf, writeRefcount } from './tables.js';

/** Gives the guest range [from, to) a place in the tables; the data file is made to reach so far, with `preallocation`. */
export async function preallocateTables(image: Qcow2Image, clusters: ClusterMap, from: number, to: number, preallocation: Preallocation): Promise<void> {
  const { clusterSize, subclusterSize } = image.geometry;
  let end = 0;
  let guest = from - (from % clusterSize);
  while (guest < to) {
    const wanted = Math.ceil((to - guest) / clusterSize);
    const done = await image.exclusive(() => run(clusters.preallocate(guest, wanted)));
    guest += done.count * clusterSize;
    end = done.host + done.count * clusterSize;
  }
  end -= Math.floor((guest - to) / subclusterSize) * subclusterSize;
  if (end > image.dataFile.size) await image.dataFile.resize(end, { preallocation, exact: false });
}

/**
 * Gives the guest range [from, to) a place in one piece behind the end of the file, which the host then provides.
 * @param provide makes the file end at the offset it is given
 */
export async function preallocateArea(
  image: Qcow2Image, clusters: ClusterMap, from: number, to: number, provide: (end: number) => Promise<void>,
): Promise<void> {
  const { clusterSize, l2Entries } = image.geometry;
  let guest = from - (from % clusterSize);
  const count = Math.ceil((to - guest) / clusterSize);
  const tables = Math.ceil(count / l2Entries) + 1;
  const start = Math.ceil(image.file.size / clusterSize) * clusterSize;
  let host = await image.exclusive(() => run(layRefcounts(image, start / clusterSize, count + tables)));
  const end = host + count * clusterSize;
  await image.exclusive(() => run(image.refcounts.update(host, end - host, 1)));
  await provide(end);
  while (host < end) {
    const done = await image.exclusive(() => run(clusters.preallocate(guest, (end - host) / clusterSize, host)));
    guest += done.count * clusterSize;
    host += done.count * clusterSize;
  }
}

/**
 * Puts refcount blocks for everything up to `additional` clusters behind them, and a new refcount table, at cluster `start`, where nothing
 * lies yet. Returns the host offset behind them.
 */
function* layRefcounts(image: Qcow2Image, start: number, additional: number): Steps<number> {
  const { refcounts, file, header, geometry: { clusterBits, clusterSize, refcountOrder } } = image;
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  yield* image.flushMetadata();
  const plan = planArea(image, start, additional, perBlock);
  if (plan.tableClusters * clusterSize > maxRefcountTableBytes) throw systemError(Errno.EFBIG);
  const metadataEnd = start + plan.missing.length + plan.tableClusters;
  const table = new Uint8Array(plan.tableClusters * clusterSize);
  const view = viewOf(table);
  table.set(new Uint8Array(refcounts.table.buffer, refcounts.table.byteOffset, Math.min(refcounts.table.byteLength, table.length)));
  let place = start;
  for (const index of plan.missing) {
    const block = new Uint8Array(clusterSize);
    for (let cluster = Math.max(start, index * perBlock); cluster < Math.min(metadataEnd, (index + 1) * perBlock); cluster++) {
      writeRefcount(block, cluster % perBlock, refcountOrder, 1);
    }
    yield* image.writeMetadata(place * clusterSize, block);
    setEntry(view, index, hiOf(place * clusterSize), loOf(place * clusterSize));
    image.metadata.add(Structure.REFCOUNT_BLOCK, place * clusterSize, clusterSize);
    place++;
  }
  const isNew = new Set(plan.missing);
  for (let cluster = start; cluster < metadataEnd; cluster++) {
    if (!isNew.has(Math.floor(cluster / perBlock))) yield* refcounts.update(cluster * clusterSize, clusterSize, 1);
  }
  yield* refcounts.cache.writeBack();
  const tableOffset = place * clusterSize;
  yield* image.writeMetadata(tableOffset, table);
  yield* wait(file.flush());
  yield* image.updateHeader({ refcountTableOffset: tableOffset, refcountTableClusters: plan.tableClusters });
  yield* wait(file.flush());
  refcounts.table = view;
  image.metadata.remove(Structure.REFCOUNT_TABLE, header.refcountTableOffset, header.refcountTableClusters * clusterSize);
  image.metadata.add(Structure.REFCOUNT_TABLE, tableOffset, table.length);
  yield* refcounts.update(header.refcountTableOffset, header.refcountTableClusters * clusterSize, -1, 'other');
  return metadataEnd * clusterSize;
}

/** Which refcount blocks are missing for the area, and how large the table must be. */
function planArea({ refcounts, geometry: { clusterSize } }: Qcow2Image, start: number, additional: number, perBlock: number): {
  missing: number[]; tableClusters: number;
} {
  let tableClusters = 0;
  let missing: number[] = [];
  for (;;) {
    const last = Math.floor((start + missing.length + tableClusters + additional - 1) / perBlock);
    const needed: number[] = [];
    for (let index = Math.floor(start / perBlock); index <= last; index++) if (refcounts.blockOffset(index) === 0) needed.push(index);
    const tableNeeded = Math.ceil((Math.max(last, lastBlock(refcounts)) + 1) * 8 / clusterSize);
    if (needed.length === missing.length && tableNeeded === tableClusters) return { missing, tableClusters };
    missing = needed;
    tableClusters = tableNeeded;
  }
}

/** Index of the last block in the table; -1: none. */
function lastBlock(refcounts: Refcounts): number {
  let index = refcounts.tableSize - 1;
  while (index >= 0 && refcounts.blockOffset(index) === 0) index--;
  return index;
}
