/** Second half of a check: what was counted against the refcounts in the file; their repair. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import { offsetLimit, type CheckJob, type Walk } from './check-walk.js';
import { hex } from './geometry.js';
import type { Qcow2Image } from './image.js';
import { entryHi, entryLo, readRefcount, refcountBlockOffset, refcountsPerBlock, writeRefcount } from './tables.js';

/** Refcounts as they are in the file, one block at a time. */
export class StoredRefcounts {
  readonly perBlock: number;
  readonly #image: Qcow2Image;
  readonly #block: Uint8Array;
  readonly #table: DataView;
  readonly #refcountOrder: number;
  #index = -1;
  #offset = 0;
  #failure: unknown;
  #changed = false;

  constructor(image: Qcow2Image) {
    const { clusterBits, clusterSize, refcountOrder } = image.geometry;
    this.#image = image;
    this.#block = new Uint8Array(clusterSize);
    this.#table = image.refcounts.table;
    this.#refcountOrder = refcountOrder;
    this.perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  }

  /** Loads the block of that index. False: there is none, its refcounts are 0. */
  async load(index: number): Promise<boolean> {
    if (index === this.#index) {
      if (this.#failure !== undefined) throw this.#failure;
      return this.#offset !== 0;
    }
    await this.flush();
    this.#index = index;
    this.#failure = undefined;
    this.#offset = index < this.#table.byteLength / 8 ? refcountBlockOffset(entryHi(this.#table, index), entryLo(this.#table, index)) : 0;
    if (this.#offset === 0) return false;
    try {
      if (this.#offset % this.#image.geometry.clusterSize !== 0) {
        this.#image.signalCorruption(
          `Refblock offset ${hex(this.#offset)} unaligned (reftable index: ${hex(index)})`,
          { fatal: true });
      }
      if (this.#offset >= offsetLimit) throw systemError(Errno.EIO);
      await this.#image.file.read(this.#offset, this.#block);
    } catch (error) {
      this.#failure = error;
      throw error;
    }
    return true;
  }

  /** Whether the block in memory, with content, is that one. */
  isLoaded(index: number): boolean {
    return index === this.#index && this.#offset !== 0 && this.#failure === undefined;
  }

  /** Refcount of a cluster. Its block must have been loaded. */
  get(cluster: number): number {
    return readRefcount(this.#block, this.#inBlock(cluster), this.#refcountOrder);
  }

  set(cluster: number, value: number): void {
    writeRefcount(this.#block, this.#inBlock(cluster), this.#refcountOrder, value);
    this.#changed = true;
  }

  /** The remainder, several times faster than by the operator where numbers are large. */
  #inBlock(cluster: number): number {
    return cluster - Math.floor(cluster / this.perBlock) * this.perBlock;
  }

  /** Writes the block in memory back, if it changed. An image that turned out corrupt on the way takes no such writes any more. */
  async flush(): Promise<void> {
    if (!this.#changed || this.#image.dead) return;
    this.#changed = false;
    await this.#image.file.write(this.#offset, this.#block);
  }

  /** First block at or after `index` that exists; Infinity where there is none. */
  nextBlock(index: number): number {
    for (let at = index; at < this.#table.byteLength / 8; at++) {
      if (entryHi(this.#table, at) !== 0 || entryLo(this.#table, at) > 511) return at;
    }
    return Infinity;
  }
}

/** Refcount of one cluster in the file. */
export async function storedRefcount(stored: StoredRefcounts, cluster: number): Promise<number> {
  return (await stored.load(Math.floor(cluster / stored.perBlock))) ? stored.get(cluster) : 0;
}

/**
 * Compares what was counted with the refcounts in the file, reports what differs, and repairs what `repair` allows and is possible
 * cluster by cluster; sets `walk.rebuild` where it is not.
 * @returns bytes up to the end of the last cluster in use
 */
export async function compareRefcounts(job: CheckJob, walk: Walk, repair: 'none' | 'leaks' | 'all'): Promise<number> {
  const { image, signal } = job;
  const { references } = walk;
  const stored = new StoredRefcounts(image);
  let highest = 0;
  for (let index = 0; index * stored.perBlock < references.clusters; index++) {
    const first = index * stored.perBlock;
    const end = Math.min(references.clusters, first + stored.perBlock);
    const interesting = Math.min(stored.nextBlock(index), Math.floor(references.nextReferenced(first, references.clusters) / stored.perBlock));
    if (interesting > index) {
      index = Math.min(interesting, Math.ceil(references.clusters / stored.perBlock)) - 1;
      continue;
    }
    signal?.throwIfAborted();
    let present: boolean;
    try {
      present = await stored.load(index);
    } catch (error) {
      reportUnreadable(job, first, end, error);
      continue;
    }
    for (let cluster = first; cluster < end; cluster++) {
      const refcount = present ? stored.get(cluster) : 0;
      const counted = references.get(cluster);
      if (refcount === 0 && counted === 0) continue;
      highest = cluster;
      if (refcount !== counted) settle(job, walk, stored, cluster, refcount, counted, repair);
    }
  }
  await stored.flush();
  return (highest + 1) * image.geometry.clusterSize;
}

function settle(
  job: CheckJob, walk: Walk, stored: StoredRefcounts, cluster: number, refcount: number, counted: number, repair: 'none' | 'leaks' | 'all',
): void {
  const { result, report } = job;
  const leak = refcount > counted;
  if (refcount === 0) walk.rebuild = true;
  const repairable = refcount !== 0 && (leak ? repair !== 'none' : repair === 'all');
  report(`${repairable ? 'Repairing' : leak ? 'Leaked' : 'ERROR'} cluster ${cluster} refcount=${exact(refcount)} reference=${counted}`);
  if (repairable) {
    stored.set(cluster, counted);
    if (leak) result.leaksFixed++;
    else result.corruptionsFixed++;
  } else if (leak) {
    result.leaks++;
  } else {
    result.corruptions++;
  }
}

function reportUnreadable(job: CheckJob, first: number, end: number, error: unknown): void {
  const text = error instanceof BlockError ? strerror(error.errno) : String(error);
  for (let cluster = first; cluster < end; cluster++) {
    job.report(`Can't get refcount for cluster ${cluster}: ${text}`);
    job.result.checkErrors++;
  }
}

/** A refcount as text; those that a double cannot hold come out as the largest of 64 bits, which they most likely are. */
function exact(refcount: number): string {
  return refcount < 2 ** 64 ? String(refcount) : '18446744073709551615';
}
