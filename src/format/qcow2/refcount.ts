/** Reference counts of host clusters: reading, changing, allocating, and growth of their own tables. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import { isZero } from '../../platform/bytes.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { TableCache, type CachedTable } from '../../block/table-cache.js';
import { maxRefcountTableBytes } from './header.js';
import { hex } from './geometry.js';
import type { FreeReason, Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import { entryHi, entryLo, hiOf, loOf, maxRefcount, readRefcount, refcountBlockOffset, refcountsPerBlock, setEntry, writeRefcount, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

/** Host offsets stay below this, so that L2 entries can hold them. */
const maxHostOffset = Number.MAX_SAFE_INTEGER;
/** Clusters whose release is put off at most, before it is forced. */
const maxReleases = 16384;

interface Release {
  times: number;
  reason: FreeReason;
}

export class Refcounts {
  readonly max: number;
  readonly perBlock: number;
  readonly cache: TableCache;
  /** Refcount table in memory, as on disk (big endian, 8 bytes per entry). */
  table: DataView;
  /** Number of the cluster where the search for free ones starts. */
  firstFree = 0;
  /** Where the next compressed data may follow the last; 0: nowhere. */
  nextByte = 0;
  /** Changes whenever compressed data may come to lie where other compressed data lay. */
  age = 0;
  readonly #image: Qcow2Image;
  readonly #order: number;
  readonly #clusterSize: number;
  /** Clusters given up by tables in memory, whose refcounts are lowered once those tables are durable. */
  #releases = new Map<number, Release>();
  /** Some of them will be free then. */
  #reusable = false;
  /** Index of the block whose change the running operation has announced. */
  #announced: number | undefined;
  #discards: { offset: number; length: number }[] = [];

  constructor(image: Qcow2Image, table: DataView, cachedBlocks: number) {
    this.#image = image;
    this.#order = image.geometry.refcountOrder;
    this.#clusterSize = image.geometry.clusterSize;
    this.max = maxRefcount(this.#order);
    this.perBlock = refcountsPerBlock(image.geometry.clusterBits, this.#order);
    this.table = table;
    this.cache = new TableCache(this.#clusterSize, cachedBlocks, {
      load: (offset, target) => image.file.read(offset, target),
      store: (block) => image.announced('refblock_update_part', () =>
        run(image.writeMetadata(block.offset, block.bytes, Structure.REFCOUNT_BLOCK))),
    });
  }

  /** Entries of the refcount table. */
  get tableSize(): number {
    return this.table.byteLength / 8;
  }

  /** Host offset of a refcount block by its index in the table; 0 where there is none. */
  blockOffset(index: number): number {
    return index < this.tableSize ? refcountBlockOffset(entryHi(this.table, index), entryLo(this.table, index)) : 0;
  }

  /** Indices of the blocks there are. Most of a table is empty. */
  *blocks(): Generator<number, void> {
    const bytes = new Uint8Array(this.table.buffer, this.table.byteOffset, this.table.byteLength);
    const step = 512;
    for (let start = 0; start < bytes.length; start += step) {
      if (isZero(bytes, start, start + step)) continue;
      for (let index = start / 8; index < (start + step) / 8; index++) if (this.blockOffset(index) !== 0) yield index;
    }
  }

  /** So much is pending that it should be brought to the disk. */
  get crowded(): boolean {
    return this.cache.crowded || this.#releases.size > maxReleases;
  }

  get hasReleases(): boolean {
    return this.#releases.size > 0;
  }

  /** Refcount of a host cluster, by cluster number; clusters that no block covers have 0. */
  *get(cluster: number): Steps<number> {
    const block = yield* this.#block(Math.floor(cluster / this.perBlock));
    return block === undefined ? 0 : readRefcount(block.bytes, cluster % this.perBlock, this.#order);
  }

  /**
   * Adds `delta` to the refcount of every cluster that [offset, offset + length) touches, at once (in the cache). Lowering is only
   * for what no table on disk refers to any more, or never did; otherwise use {@link free}.
   * Undone as a whole if it fails. Clusters that come to 0 are free, and the host hears of it according to `reason`.
   */
  *update(offset: number, length: number, delta: number, reason: FreeReason = 'never'): Steps<void> {
    const first = Math.floor(offset / this.#clusterSize);
    const end = Math.floor((offset + length - 1) / this.#clusterSize) + 1;
    while (delta > 0 && (yield* this.#cover(first, end))) { /* until all blocks are there */ }
    yield* this.#addAll(first, end, delta, reason);
    yield* this.#discard();
  }

  /** Room for `bytes` in consecutive clusters with refcount 1. Returns the host offset. */
  *allocate(bytes: number, limit = maxHostOffset): Steps<number> {
    yield* wait(this.#image.debug('cluster_alloc'));
    const count = Math.ceil(bytes / this.#clusterSize);
    const first = yield* this.#reserve(count, limit);
    yield* this.#addAll(first, first + count, 1, 'never');
    return first * this.#clusterSize;
  }

  /** Takes up to `count` free clusters lying exactly at `offset`; returns how many. */
  *allocateAt(offset: number, count: number): Steps<number> {
    if (this.#reusable) yield* this.#image.settleReleases();
    const first = offset / this.#clusterSize;
    for (;;) {
      const end = yield* this.#endOfFree(first, first + count);
      let taken = first;
      this.#announced = undefined;
      while (taken < end && !(yield* this.#cover(taken, taken + 1))) taken = yield* this.#addRun(taken, end, 1, 'never');
      if (taken === end) return end - first;
      // A new block may have taken what was free: look again.
      while (taken > first) yield* this.#add(--taken, -1, 'never');
    }
  }

  /** Room for compressed data, sharing host clusters with earlier compressed data. Every cluster touched is counted. */
  *allocateBytes(length: number, limit: number): Steps<number> {
    const size = this.#clusterSize;
    yield* wait(this.#image.debug('cluster_alloc_bytes'));
    let at = this.nextByte;
    if (at !== 0 && (yield* this.get(Math.floor(at / size))) === this.max) at = 0;
    const room = at === 0 ? 0 : size - (at % size);
    if (room < length) {
      const fresh = (yield* this.#reserve(1, limit)) * size;
      if (fresh === 0) {
        throw this.#image.signalCorruption('Preventing invalid allocation of compressed cluster at offset 0', { fatal: true, offset: 0, length });
      }
      if (at === 0 || Math.ceil(at / size) * size !== fresh) at = fresh;
    }
    yield* this.update(at, length, 1);
    this.age++;
    this.nextByte = (at + length) % size === 0 ? 0 : at + length;
    return at;
  }

  /**
   * Lowers refcounts of the clusters that [offset, offset + length) touches, but only after the tables that no longer refer to them
   * are durable: until then they are not reused. Damage is reported, and nothing is freed.
   */
  *free(offset: number, length: number, reason: FreeReason): Steps<void> {
    yield* wait(this.#image.debug('cluster_free'));
    const end = Math.floor((offset + length - 1) / this.#clusterSize) + 1;
    try {
      for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; cluster++) {
        const release = this.#releases.get(cluster);
        const left = (yield* this.get(cluster)) - (release?.times ?? 0);
        if (left <= 0) throw systemError(Errno.EINVAL);
        if (left === 1) this.#reusable = true;
        if (release === undefined) this.#releases.set(cluster, { times: 1, reason });
        else release.times++;
      }
    } catch (error) {
      const text = error instanceof BlockError ? strerror(error.errno) : String(error);
      this.#image.report(`qcow2_free_clusters failed: ${text}`);
    }
  }

  /** Lowers the refcounts put off by {@link free}. The tables that gave up the clusters are durable, and no read of them goes on. */
  *release(): Steps<void> {
    const releases = this.#releases;
    this.#releases = new Map();
    this.#reusable = false;
    this.#announced = undefined;
    for (const [cluster, { times, reason }] of [...releases].sort(([a], [b]) => a - b)) yield* this.#add(cluster, -times, reason);
    yield* this.#discard();
  }

  /** Counts those of the first `clusters` that are in use, up to `limit`. */
  *countUsed(clusters: number, limit: number): Steps<number> {
    let used = 0;
    for (const index of this.blocks()) {
      const first = index * this.perBlock;
      if (first >= clusters) break;
      const { bytes } = (yield* this.#block(index))!;
      const end = Math.min(this.perBlock, clusters - first);
      for (let at = 0; at < end; at++) if (readRefcount(bytes, at, this.#order) !== 0) used++;
      if (used >= limit) break;
    }
    return used;
  }

  /** Number of the first cluster behind the last one in use. */
  *endOfUse(): Steps<number> {
    for (const index of [...this.blocks()].reverse()) {
      const block = (yield* this.#block(index))!;
      for (let at = this.perBlock - 1; at >= 0; at--) {
        if (readRefcount(block.bytes, at, this.#order) !== 0) return index * this.perBlock + at + 1;
      }
    }
    return 0;
  }

  /** Loads the refcount block with that index of the table; undefined where there is none. */
  *#block(index: number): Steps<CachedTable | undefined> {
    const offset = this.blockOffset(index);
    if (offset === 0) return undefined;
    if (offset % this.#clusterSize !== 0) {
      throw this.#image.signalCorruption(
        `Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)})`, { fatal: true });
    }
    return this.cache.get(offset) ?? (yield* this.cache.load(offset));
  }

  /** Adds `delta` to the refcounts of [first, end), undone as a whole if it fails. */
  *#addAll(first: number, end: number, delta: number, reason: FreeReason): Steps<void> {
    this.#announced = undefined;
    let done = first;
    try {
      while (done < end) done = yield* this.#addRun(done, end, delta, reason);
    } catch (error) {
      for (let at = first; at < done;) at = yield* this.#addRun(at, done, -delta, 'never');
      throw error;
    }
  }

  *#add(cluster: number, delta: number, reason: FreeReason): Steps<void> {
    yield* this.#addRun(cluster, cluster + 1, delta, reason);
  }

  /** Adds `delta` to the refcounts of those clusters of [first, end) that the same block describes, or to none. Returns the end of these. */
  *#addRun(first: number, end: number, delta: number, reason: FreeReason): Steps<number> {
    const index = Math.floor(first / this.perBlock);
    if (index !== this.#announced) {
      this.#announced = index;
      yield* wait(this.#image.debug('refblock_alloc'));
      yield* wait(this.#image.debug('refblock_load'));
    }
    const block = yield* this.#block(index);
    if (block === undefined) throw systemError(Errno.EINVAL);
    const { bytes } = block;
    const order = this.#order;
    const base = index * this.perBlock;
    const stop = Math.min(end, base + this.perBlock);
    for (let at = first - base; at < stop - base; at++) {
      const count = readRefcount(bytes, at, order) + delta;
      if (count < 0 || count > this.max) {
        while (--at >= first - base) writeRefcount(bytes, at, order, readRefcount(bytes, at, order) - delta);
        throw systemError(Errno.EINVAL);
      }
      writeRefcount(bytes, at, order, count);
    }
    this.cache.dirty(block);
    if (delta < 0) for (let at = first - base; at < stop - base; at++) if (readRefcount(bytes, at, order) === 0) this.#freed(base + at, reason);
    return stop;
  }

  /** A cluster came to 0. */
  #freed(cluster: number, reason: FreeReason): void {
    this.firstFree = Math.min(this.firstFree, cluster);
    this.#image.forgetTables(cluster * this.#clusterSize, this.#clusterSize);
    if (Math.floor(this.nextByte / this.#clusterSize) === cluster) this.nextByte = 0;
    if (this.#image.passesDiscard(reason)) this.#discards.push({ offset: cluster * this.#clusterSize, length: this.#clusterSize });
  }

  /** Tells the host what has become free, in as few requests as possible. It is a favour: failure is no failure. */
  *#discard(): Steps<void> {
    const discards = this.#discards;
    if (discards.length === 0) return;
    this.#discards = [];
    for (let at = 0; at < discards.length;) {
      const { offset } = discards[at]!;
      let end = offset;
      while (at < discards.length && discards[at]!.offset === end) end += discards[at++]!.length;
      try {
        yield* wait(this.#image.file.discard(offset, end - offset));
      } catch { /* the space stays with us */ }
    }
  }

  /** Finds `count` consecutive free clusters that refcount blocks cover; still free afterwards. */
  *#reserve(count: number, limit: number): Steps<number> {
    if (this.#reusable) yield* this.#image.settleReleases();
    for (;;) {
      const start = this.firstFree;
      const first = yield* this.#findFree(count);
      if ((first + count) * this.#clusterSize - 1 > limit) {
        this.firstFree = start;
        throw systemError(Errno.EFBIG);
      }
      if (!(yield* this.#cover(first, first + count))) return first;
      this.firstFree = Math.min(first, this.firstFree);
    }
  }

  /** First cluster of [first, end) that is in use, or the end. */
  *#endOfFree(first: number, end: number): Steps<number> {
    for (let cluster = first; cluster < end;) {
      const index = Math.floor(cluster / this.perBlock);
      const block = yield* this.#block(index);
      const stop = Math.min(end, (index + 1) * this.perBlock);
      if (block === undefined) cluster = stop;
      for (; cluster < stop; cluster++) if (readRefcount(block!.bytes, cluster % this.perBlock, this.#order) !== 0) return cluster;
    }
    return end;
  }

  /** First of `count` consecutive free clusters from firstFree on, which moves behind them. */
  *#findFree(count: number): Steps<number> {
    let cluster = this.firstFree;
    let found = 0;
    while (found < count) {
      const block = yield* this.#block(Math.floor(cluster / this.perBlock));
      const end = (Math.floor(cluster / this.perBlock) + 1) * this.perBlock;
      if (block === undefined) {
        const free = Math.min(count - found, end - cluster);
        found += free;
        cluster += free;
        continue;
      }
      const missing = count - found;
      if (cluster + missing <= end && this.#allFree(block, cluster % this.perBlock, missing)) {
        cluster += missing;
        break;
      }
      for (; cluster < end && found < count; cluster++) {
        found = readRefcount(block.bytes, cluster % this.perBlock, this.#order) === 0 ? found + 1 : 0;
      }
    }
    this.firstFree = cluster;
    return cluster - count;
  }

  /** Whether it is seen at a glance that `count` refcounts from number `first` of a block on are 0. */
  #allFree({ bytes }: CachedTable, first: number, count: number): boolean {
    return this.#order >= 3 && isZero(bytes, first * 2 ** (this.#order - 3), (first + count) * 2 ** (this.#order - 3));
  }

  /** Makes sure that blocks cover the clusters [first, end). True if one had to be made: what was free may be in use now. */
  *#cover(first: number, end: number): Steps<boolean> {
    for (let index = Math.floor(first / this.perBlock); index * this.perBlock < end; index++) {
      if (this.blockOffset(index) !== 0) continue;
      yield* this.#addBlock(index, Math.max(first, index * this.perBlock));
      return true;
    }
    return false;
  }

  /** Makes refcount block `index`, which is to cover `cluster`. */
  *#addBlock(index: number, cluster: number): Steps<void> {
    const image = this.#image;
    yield* wait(image.debug('refblock_alloc'));
    let own = yield* this.#findFree(1);
    const home = Math.floor(own / this.perBlock);
    // where no block counts this one, a larger table comes with one right behind it, that counts both
    const noneBehind = home !== index && own % this.perBlock === this.perBlock - 1;
    if (index >= this.tableSize && noneBehind && this.blockOffset(home) === 0) own = cluster;
    const offset = own * this.#clusterSize;
    if (own === 0) {
      throw image.signalCorruption('Preventing invalid allocation of refcount block at offset 0', { fatal: true, offset: 0, length: this.#clusterSize });
    }
    const inItself = home === index;
    if (index >= this.tableSize) return yield* this.#growTable(index, cluster, offset);
    if (!inItself) {
      if (yield* this.#cover(own, own + 1)) return;
      yield* this.#add(own, 1, 'never');
    }
    try {
      const block = this.cache.create(offset);
      if (inItself) writeRefcount(block.bytes, own % this.perBlock, this.#order, 1);
      yield* wait(image.debug('refblock_alloc_write'));
      yield* this.cache.writeBack();
      yield* wait(image.file.flush());
      yield* wait(image.debug('refblock_alloc_hookup'));
      yield* this.#hookUp(index, offset);
    } catch (error) {
      this.cache.drop(offset, this.#clusterSize);
      if (!inItself) yield* this.#add(own, -1, 'never');
      throw error;
    }
  }

  /** Enters a block in the table, on disk and in memory. */
  *#hookUp(index: number, offset: number): Steps<void> {
    const entry = new Uint8Array(8);
    writeU64(viewOf(entry), 0, offset);
    yield* this.#image.writeMetadata(this.#image.header.refcountTableOffset + index * 8, entry, Structure.REFCOUNT_TABLE);
    yield* wait(this.#image.file.flush());
    setEntry(this.table, index, hiOf(offset), loOf(offset));
    this.#image.metadata.add(Structure.REFCOUNT_BLOCK, offset, this.#clusterSize);
  }

  /**
   * Moves to a larger table. It lies, behind the blocks it needs itself, in clusters that no block covered before, so that
   * these new blocks describe everything that is new.
   */
  *#growTable(index: number, cluster: number, blockOffset: number): Steps<void> {
    const image = this.#image;
    const size = this.#clusterSize;
    const area = Math.ceil((Math.max(cluster, blockOffset / size) + 1) / this.perBlock) * this.perBlock;
    const { blocks, entries, clusters } = this.#planTable(area);
    if (entries * 8 > maxRefcountTableBytes) throw systemError(Errno.EFBIG);
    const table = new Uint8Array(clusters * size);
    table.set(new Uint8Array(this.table.buffer, this.table.byteOffset, this.table.byteLength));
    const view = viewOf(table);
    const firstBlock = area / this.perBlock;
    setEntry(view, index, hiOf(blockOffset), loOf(blockOffset));
    const inUse = area + blocks + clusters;
    const newBlocks = new Map<number, Uint8Array>();
    for (let at = 0; at < blocks; at++) {
      const bytes = new Uint8Array(size);
      const start = (firstBlock + at) * this.perBlock;
      for (let slot = 0; slot < this.perBlock && start + slot < inUse; slot++) writeRefcount(bytes, slot, this.#order, 1);
      const offset = (area + at) * size;
      setEntry(view, firstBlock + at, hiOf(offset), loOf(offset));
      newBlocks.set(offset, bytes);
    }
    const own = blockOffset / size;
    const home = Math.floor(own / this.perBlock);
    const carrier = new Uint8Array(size);
    newBlocks.set(blockOffset, carrier);
    if (home === index) {
      writeRefcount(carrier, own % this.perBlock, this.#order, 1);
    } else if (this.blockOffset(home) !== 0) {
      yield* this.#add(own, 1, 'never');
      yield* this.cache.writeBack();
    } else {
      const keeper = yield* this.#findFree(1);
      const bytes = new Uint8Array(size);
      for (const counted of [own, keeper]) writeRefcount(bytes, counted % this.perBlock, this.#order, 1);
      setEntry(view, home, hiOf(keeper * size), loOf(keeper * size));
      newBlocks.set(keeper * size, bytes);
    }

    yield* wait(image.debug('refblock_alloc_write_blocks'));
    for (const [offset, bytes] of newBlocks) yield* image.writeMetadata(offset, bytes);
    const tableOffset = (area + blocks) * size;
    yield* wait(image.debug('refblock_alloc_write_table'));
    yield* image.writeMetadata(tableOffset, table);
    yield* wait(image.file.flush());
    yield* wait(image.debug('refblock_alloc_switch_table'));
    const old = { offset: image.header.refcountTableOffset, length: this.table.byteLength };
    yield* image.updateHeader({ refcountTableOffset: tableOffset, refcountTableClusters: clusters });
    yield* wait(image.file.flush());
    this.table = view;
    this.cache.drop(blockOffset, size);
    for (const offset of newBlocks.keys()) image.metadata.add(Structure.REFCOUNT_BLOCK, offset, size);
    image.metadata.add(Structure.REFCOUNT_TABLE, tableOffset, table.length);
    image.metadata.remove(Structure.REFCOUNT_TABLE, old.offset, old.length);
    const freeFrom = this.firstFree;
    yield* this.update(old.offset, old.length, -1, 'other');
    this.firstFree = Math.min(freeFrom, this.firstFree);
  }

  /**
   * Size of the area for a larger table: blocks, then the table, starting with cluster `area`. There is room as if all blocks of the
   * file lay behind `area`, and the table has half as many entries again, so that the next growth is far.
   */
  #planTable(area: number): { blocks: number; entries: number; clusters: number } {
    const perTableCluster = this.#clusterSize / 8;
    const settle = (before: number): { blocks: number; table: number } => {
      for (let blocks = 0, table = 0;;) {
        const needed = Math.ceil((before + blocks + table) / this.perBlock);
        const wanted = Math.ceil(needed / perTableCluster);
        if (needed === blocks && wanted === table) return { blocks, table };
        blocks = needed;
        table = wanted;
      }
    };
    const { blocks } = settle(area + Math.ceil(settle(area).table / 2));
    const clusters = Math.ceil(Math.ceil(blocks * 1.5) / perTableCluster);
    return { blocks: blocks - area / this.perBlock, entries: clusters * perTableCluster, clusters };
  }
}
