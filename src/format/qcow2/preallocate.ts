/** Room for guest data in advance. */
import type { Preallocation } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { ClusterMap } from './cluster.js';
import { maxRefcountTableBytes } from './header.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import type { Refcounts } from './refcount.js';
import { hiOf, loOf, refcountsPerBlock, setEntry, writeRefcount } from './tables.js';
import { viewOf } from '../../util/view.js';

export interface PreallocateParts {
  readonly image: Qcow2Image;
  readonly clusters: ClusterMap;
  /** Reads guest bytes. */
  readonly read: (offset: number, target: Uint8Array) => MaybePromise<void>;
  /** Runs `request` while nothing else writes to the range, which is made of whole clusters. */
  readonly alone: <T>(offset: number, length: number, request: () => MaybePromise<T>) => MaybePromise<T>;
}

interface Placed {
  readonly host: number;
  readonly count: number;
}

/** Gives the guest range [from, to) a place in the tables; the data file is made to reach so far, with `preallocation`. */
export async function preallocateTables(parts: PreallocateParts, from: number, to: number, preallocation: Preallocation): Promise<void> {
  const { dataFile, encryption, geometry: { clusterSize, subclusterSize } } = parts.image;
  let end = 0;
  let guest = from - (from % clusterSize);
  while (guest < to) {
    const done = await place(parts, guest, Math.ceil((to - guest) / clusterSize), from, {});
    guest += done.count * clusterSize;
    end = done.host + done.count * clusterSize;
  }
  end -= Math.floor((guest - to) / subclusterSize) * subclusterSize;
  const grows = end > dataFile.size;
  if (grows) await dataFile.resize(end, { preallocation, exact: false });
  const behind = (guest - to) % subclusterSize;
  if (grows && behind > 0) {
    // QEMU pads the last (sub)cluster of an odd size as it does after a write, so that the host allocates its end.
    const padding = new Uint8Array(behind);
    await dataFile.write(end - behind, encryption?.cipher?.encrypt(to, end - behind, padding) ?? padding);
  }
}

/**
 * Gives the guest range [from, to) a place in one piece behind the end of the file, which the host then provides.
 * @param visible subclusters are shown to the guest, too (they read as zero)
 * @param provide makes the file end at the offset it is given
 */
export async function preallocateArea(
  parts: PreallocateParts, from: number, to: number, visible: boolean, provide: (end: number) => Promise<void>,
): Promise<void> {
  const { image } = parts;
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
    const done = await place(parts, guest, (end - host) / clusterSize, from, { host, visible });
    guest += done.count * clusterSize;
    host += done.count * clusterSize;
  }
}

/** Gives clusters a place. The first of them may hold the last bytes before `from`, which come along. */
async function place({ image, clusters, read, alone }: PreallocateParts, guest: number, count: number, from: number, room: { host?: number; visible?: boolean }): Promise<Placed> {
  const used = from - guest;
  if (used <= 0) return image.exclusive(() => run(clusters.preallocate(guest, count, room)));
  return alone(guest, image.geometry.clusterSize, () => image.exclusive(() => run(clusters.preallocate(guest, count, { ...room, edge: { used, read } }))));
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
