/** First half of a check: walks everything the image refers to and counts references. */
import { Errno, strerror, systemError } from '../../block/errors.js';
import type { CheckResult } from '../../block/facets.js';
import { run } from '../../util/steps.js';
import { isPlausible } from './bitmap.js';
import { ReferenceCounts } from './check-references.js';
import { maxL1Bytes } from './header.js';
import { hex } from './geometry.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import type { SnapshotTable } from './snapshot-table.js';
import { bitmapTableEntryHasReservedBits, clusterKind, ClusterKind, compressedLength, compressedOffset, COPIED_HI, entryHi, entryLo, entryOffset, l1EntryHasReservedBits, l2EntryHasReservedBits, maxBitmapTableSize, maxRefcount, parseBitmapDirectory, refcountBlockOffset, refcountTableEntryHasReservedBits, setEntry, subclusterConflict, ZERO_LO, type SnapshotEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

export interface CheckJob {
  readonly image: Qcow2Image;
  readonly result: CheckResult;
  readonly repairLeaks: boolean;
  readonly repairErrors: boolean;
  readonly report: (line: string) => void;
  readonly reportError: (line: string) => void;
  readonly signal: AbortSignal | undefined;
  /** Snapshot table as the check found (and mended) it. */
  snapshots: SnapshotTable;
}

/** Offsets from here on are no offsets: reading there fails. */
export const offsetLimit = 2 ** 63;

/** Everything the image refers to. `rebuild`: the refcount structures are beyond simple repair. */
export interface Walk { readonly references: ReferenceCounts; rebuild: boolean }

/** Host entry as QEMU prints it: hexadecimal without prefix. */
export function hexEntry(hi: number, lo: number): string {
  return ((BigInt(hi) << 32n) | BigInt(lo)).toString(16);
}

/** Walks the image. Damage is reported and counted in `job.result`; what can be mended on the way is, if `repair`. */
export async function countReferences(job: CheckJob, repair: boolean): Promise<Walk> {
  const walk = new Walker(job, repair);
  await walk.all();
  return walk;
}

class Walker implements Walk {
  readonly references: ReferenceCounts;
  rebuild = false;
  readonly #job: CheckJob;
  readonly #repair: boolean;
  readonly #max: number;
  #fileSize: number;

  constructor(job: CheckJob, repair: boolean) {
    const { image } = job;
    this.#job = job;
    this.#repair = repair;
    this.#max = maxRefcount(image.geometry.refcountOrder);
    this.#fileSize = image.file.size;
    this.references = new ReferenceCounts(Math.ceil(this.#fileSize / image.geometry.clusterSize));
  }

  async all(): Promise<void> {
    const { image, snapshots: { entries: snapshots, size: snapshotsSize }, result } = this.#job;
    const { header, geometry: { clusterSize } } = image;
    this.#count(0, clusterSize);
    await this.#l1(header.l1Offset, header.l1Size, true);
    if (snapshots.length > 0 && image.dataFile !== image.file) this.#corruption(`ERROR ${snapshots.length} snapshots in image with data file`);
    for (const snapshot of snapshots) await this.#snapshot(snapshot);
    this.#count(header.snapshotsOffset, snapshotsSize);
    if (header.crypto !== undefined) this.#count(header.crypto.offset, header.crypto.length);
    if (header.bitmaps !== undefined) await this.#bitmaps(header.bitmaps);
    this.#count(header.refcountTableOffset, header.refcountTableClusters * clusterSize);
    await this.#refcountBlocks();
    result.totalClusters = Math.ceil(header.size / clusterSize);
  }

  #corruption(line: string): void {
    this.#job.result.corruptions++;
    this.#job.report(line);
  }

  #checkError(line: string): void {
    this.#job.result.checkErrors++;
    this.#job.report(line);
  }

  #count(offset: number, length: number): void {
    if (length <= 0) return;
    // The peer counts with signed numbers: such offsets are negative, except where the sum wraps around and is far behind the end.
    if (offset >= offsetLimit && offset - offsetLimit + length >= this.#fileSize) return;
    const { clusterSize } = this.#job.image.geometry;
    if (offset + length - this.#fileSize >= clusterSize) {
      this.#corruption('ERROR: counting reference for region exceeding the end of the file by one cluster or more: '
        + `offset 0x${offset.toString(16)} size 0x${length.toString(16)}`);
      return;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) this.#countCluster(cluster);
  }

  #countCluster(cluster: number): void {
    if (this.references.get(cluster) < this.#max) {
      this.references.increment(cluster);
      return;
    }
    this.#corruption(`ERROR: overflow cluster offset=0x${(cluster * this.#job.image.geometry.clusterSize).toString(16)}`);
    this.#job.report('Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy '
      + 'if the image cannot be opened for writing');
  }

  async #snapshot(snapshot: SnapshotEntry): Promise<void> {
    const { clusterSize } = this.#job.image.geometry;
    const name = `ERROR snapshot ${snapshot.id} (${snapshot.name})`;
    if (snapshot.l1Offset % clusterSize !== 0) {
      this.#corruption(`${name} l1_offset=${hex(snapshot.l1Offset)}: L1 table is not cluster aligned; snapshot table entry corrupted`);
    } else if (snapshot.l1Size * 8 > maxL1Bytes) {
      this.#corruption(`${name} l1_size=${hex(snapshot.l1Size)}: L1 table is too large; snapshot table entry corrupted`);
    } else {
      await this.#l1(snapshot.l1Offset, snapshot.l1Size, false);
    }
  }

  async #l1(offset: number, entries: number, active: boolean): Promise<void> {
    if (entries === 0) return;
    const { image, signal } = this.#job;
    const { clusterSize } = image.geometry;
    this.#count(offset, entries * 8);
    const table = new Uint8Array(entries * 8);
    try {
      if (offset >= offsetLimit) throw systemError(Errno.EIO);
      await image.file.read(offset, table);
    } catch (error) {
      this.#checkError('ERROR: I/O error in check_refcounts_l1');
      throw error;
    }
    const view = viewOf(table);
    const buffer = new Uint8Array(clusterSize);
    const tablesInFile = Math.ceil(this.#fileSize / clusterSize);
    let visited = 0;
    for (let index = 0; index < entries; index++) {
      const hi = entryHi(view, index);
      const lo = entryLo(view, index);
      if (hi === 0 && lo === 0) continue;
      signal?.throwIfAborted();
      if (l1EntryHasReservedBits(hi, lo)) this.#corruption(`ERROR found L1 entry with reserved bits set: ${hexEntry(hi, lo)}`);
      const l2Offset = entryOffset(hi, lo);
      this.#count(l2Offset, clusterSize);
      if (l2Offset % clusterSize !== 0) {
        this.#corruption(`ERROR l2_offset=${l2Offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`);
      }
      if (l2Offset >= this.#fileSize) continue; // reads as zeroes
      if (++visited > tablesInFile) {
        this.#checkError(`ERROR: L1 table at offset ${hex(offset)} refers to more L2 tables than the file holds`);
        return;
      }
      await this.#l2(l2Offset, buffer, active);
    }
  }

  /** `active`: its clusters are what the statistics are about. */
  async #l2(tableOffset: number, buffer: Uint8Array, active: boolean): Promise<void> {
    const { image, result } = this.#job;
    try {
      await image.file.read(tableOffset, buffer);
    } catch (error) {
      this.#checkError('ERROR: I/O error in check_refcounts_l2');
      throw error;
    }
    for (const { index, zeroBits } of this.#entries(viewOf(buffer), active)) {
      await this.#dropPlace(tableOffset, index, zeroBits);
      result.corruptions--;
      result.corruptionsFixed++;
    }
  }

  /** Counts what an L2 table refers to. Entries that are to be mended are handed over on the way. */
  *#entries(view: DataView, active: boolean): Iterable<{ readonly index: number; readonly zeroBits: number }> {
    const { image, result } = this.#job;
    const { extended, l2Entries, clusterSize } = image.geometry;
    const dataFile = image.dataFile !== image.file;
    const step = extended ? 2 : 1;
    const clustersInFile = Math.ceil(this.#fileSize / clusterSize);
    const found = { allocated: 0, compressed: 0, fragmented: 0 };
    let next = 0;
    for (let index = 0; index < l2Entries; index++) {
      const hi = entryHi(view, index * step);
      const lo = entryLo(view, index * step);
      const zeroBits = extended ? entryHi(view, index * step + 1) : 0;
      const allocatedBits = extended ? entryLo(view, index * step + 1) : 0;
      if (hi === 0 && lo === 0 && zeroBits === 0 && allocatedBits === 0) continue;
      const kind = clusterKind(hi, lo, extended, dataFile);
      if (kind === ClusterKind.COMPRESSED) {
        if (this.#compressed(index, hi, lo, zeroBits !== 0 || allocatedBits !== 0)) {
          found.allocated++;
          found.compressed++;
          found.fragmented++;
        }
        continue;
      }
      if (l2EntryHasReservedBits(hi, lo)) this.#corruption(`ERROR found l2 entry with reserved bits set: ${hexEntry(hi, lo)}`);
      if (kind === ClusterKind.UNALLOCATED && allocatedBits !== 0) {
        this.#corruption('ERROR: Unallocated cluster has non-zero subcluster allocation map');
      }
      if (kind === ClusterKind.NORMAL || kind === ClusterKind.ZERO_ALLOCATED) {
        if (subclusterConflict(zeroBits, allocatedBits)) {
          this.#corruption(`ERROR offset=${entryOffset(hi, lo).toString(16)}: Allocated cluster has corrupted subcluster allocation bitmap`);
        }
        const offset = entryOffset(hi, lo);
        const cluster = offset / clusterSize;
        if (!Number.isInteger(cluster)) {
          const hidden = kind === ClusterKind.ZERO_ALLOCATED || (extended && allocatedBits === 0);
          if (this.#unaligned(offset, hidden)) {
            yield { index, zeroBits };
            continue;
          }
        }
        found.allocated++;
        if (next !== 0 && offset !== next) found.fragmented++;
        next = offset + clusterSize;
        if (dataFile) continue;
        if (Number.isInteger(cluster) && cluster < clustersInFile) this.#countCluster(cluster);
        else this.#count(offset, clusterSize);
      }
    }
    if (!active || found.allocated === 0) return;
    result.allocatedClusters = (result.allocatedClusters ?? 0) + found.allocated;
    if (found.compressed > 0) result.compressedClusters = (result.compressedClusters ?? 0) + found.compressed;
    if (found.fragmented > 0) result.fragmentedClusters = (result.fragmentedClusters ?? 0) + found.fragmented;
  }

  /** False: it is no sound entry. */
  #compressed(index: number, hi: number, lo: number, hasBitmap: boolean): boolean {
    const { image } = this.#job;
    const { clusterBits } = image.geometry;
    if ((hi & COPIED_HI) !== 0) {
      this.#corruption(`ERROR: coffset=0x${compressedOffset(hi, lo, clusterBits).toString(16)}: copied flag must never be set for compressed clusters`);
    }
    if (image.dataFile !== image.file) {
      this.#corruption(`ERROR compressed cluster ${index} with data file, entry=0x${hexEntry(hi & ~COPIED_HI, lo)}`);
      return false;
    }
    if (hasBitmap) {
      this.#corruption(`ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, entry=0x${hexEntry(hi & ~COPIED_HI, lo)}`);
      return false;
    }
    this.#count(compressedOffset(hi, lo, clusterBits), compressedLength(hi, lo, clusterBits));
    return true;
  }

  /** A cluster that lies askew; `hidden`: none of its content is visible. True: its place is to be dropped. */
  #unaligned(offset: number, hidden: boolean): boolean {
    if (!hidden) {
      this.#corruption(`ERROR offset=${offset.toString(16)}: Data cluster is not properly aligned; L2 entry corrupted.`);
      return false;
    }
    const repair = this.#repair && this.#job.repairErrors;
    this.#corruption(`${repair ? 'Repairing' : 'ERROR'} offset=${offset.toString(16)}: Preallocated cluster is not properly aligned; L2 entry corrupted.`);
    return repair;
  }

  /** Replaces an L2 entry by one without a place; it reads as before. */
  async #dropPlace(tableOffset: number, index: number, zeroBits: number): Promise<void> {
    const { image } = this.#job;
    const { extended, l2EntrySize } = image.geometry;
    const entry = new Uint8Array(l2EntrySize);
    if (extended) setEntry(viewOf(entry), 1, zeroBits, 0);
    else setEntry(viewOf(entry), 0, 0, ZERO_LO);
    const place = tableOffset + index * l2EntrySize;
    try {
      image.checkOverlap(place, entry.length, Structure.ACTIVE_L2 | Structure.INACTIVE_L2);
    } catch (error) {
      this.#checkError('ERROR: Overlap check failed');
      throw error;
    }
    try {
      await image.file.write(place, entry);
    } catch (error) {
      this.#checkError(`ERROR: Failed to overwrite L2 table entry: ${errorText(error)}`);
      throw error;
    }
  }

  async #bitmaps(extension: { count: number; directorySize: number; directoryOffset: number }): Promise<void> {
    const { image, result } = this.#job;
    const { clusterSize } = image.geometry;
    this.#count(extension.directoryOffset, extension.directorySize);
    const directory = new Uint8Array(extension.directorySize);
    await image.file.read(extension.directoryOffset, directory);
    for (const bitmap of parseBitmapDirectory(directory, extension.count)) {
      this.#count(bitmap.tableOffset, bitmap.tableSize * 8);
      if (!isPlausible(bitmap, image)) this.#corruption(`ERROR bitmap '${bitmap.name}' doesn't satisfy the constraints`);
      if (bitmap.tableSize * 8 > maxBitmapTableSize) continue;
      const table = new Uint8Array(bitmap.tableSize * 8);
      await image.file.read(bitmap.tableOffset, table);
      const view = viewOf(table);
      for (let index = 0; index < bitmap.tableSize; index++) {
        const hi = entryHi(view, index);
        const lo = entryLo(view, index);
        if (bitmapTableEntryHasReservedBits(hi, lo) || entryOffset(hi, lo) % clusterSize !== 0) result.corruptions++;
        else if (entryOffset(hi, lo) !== 0) this.#count(entryOffset(hi, lo), clusterSize);
      }
    }
  }

  async #refcountBlocks(): Promise<void> {
    const { image } = this.#job;
    const { clusterSize } = image.geometry;
    const { table } = image.refcounts;
    for (let index = 0; index < table.byteLength / 8; index++) {
      const hi = entryHi(table, index);
      const lo = entryLo(table, index);
      const offset = refcountBlockOffset(hi, lo);
      if (refcountTableEntryHasReservedBits(hi, lo)) {
        this.#corruption(`ERROR refcount table entry ${index} has reserved bits set`);
        this.rebuild = true;
        continue;
      }
      if (offset % clusterSize !== 0) {
        this.#corruption(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`);
        this.rebuild = true;
        continue;
      }
      if (offset === 0) continue;
      const cluster = offset / clusterSize;
      if (cluster >= this.references.clusters) {
        await this.#blockOutside(index, offset);
        continue;
      }
      this.#count(offset, clusterSize);
      const count = this.references.get(cluster);
      if (count !== 1) {
        this.#corruption(`ERROR refcount block ${index} refcount=${count}`);
        this.rebuild = true;
      }
    }
  }

  /** A refcount block behind the end of the file: the file is made to reach so far, if anything is to be repaired. */
  async #blockOutside(index: number, offset: number): Promise<void> {
    const { image, result, report, repairErrors } = this.#job;
    const { clusterSize } = image.geometry;
    const repair = this.#repair && repairErrors;
    this.#corruption(`${repair ? 'Repairing' : 'ERROR'} refcount block ${index} is outside image`);
    if (!repair) return;
    try {
      if (offset + clusterSize > Number.MAX_SAFE_INTEGER) throw new RangeError(strerror(22));
      await run(image.flushMetadata());
      await image.file.resize(offset + clusterSize, { exact: false });
    } catch (error) {
      this.rebuild = true;
      report(`ERROR could not resize image: ${errorText(error)}`);
      return;
    }
    this.#fileSize = image.file.size;
    this.references.clusters = Math.max(this.references.clusters, Math.ceil(this.#fileSize / clusterSize));
    result.corruptions--;
    result.corruptionsFixed++;
    this.#count(offset, clusterSize);
  }
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
