/** Part of a check: whether "refcount is exactly one" marks in the active tables tell the truth. */
import { BlockError, strerror } from '../../block/errors.js';
import { run } from '../../util/steps.js';
import { StoredRefcounts, storedRefcount } from './check-refcounts.js';
import { hexEntry, type CheckJob } from './check-walk.js';
import { Structure } from './overlap.js';
import { clusterKind, ClusterKind, COPIED_HI, entryHi, entryLo, entryOffset, setEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

/**
 * Compares COPIED marks of active L1 and L2 entries with the refcounts in the file, and corrects them if errors are to be repaired, or
 * leaks are and the refcounts have turned out to be right.
 */
export async function checkCopiedFlags(job: CheckJob): Promise<void> {
  const { image, result, report } = job;
  const { clusterSize } = image.geometry;
  const sound = result.checkErrors === 0 && result.corruptions === 0 && result.leaks === 0;
  const repair = job.repairErrors || (job.repairLeaks && sound);
  const prefix = repair ? 'Repairing' : 'ERROR';
  const stored = new StoredRefcounts(image);
  const table = new Uint8Array(image.header.l1Size * 8);
  await image.file.read(image.header.l1Offset, table);
  const l1 = viewOf(table);
  const buffer = new Uint8Array(clusterSize);
  const tablesInFile = Math.ceil(image.file.size / clusterSize);
  let visited = 0;
  let repairs = 0;
  const mismatch = (line: string): void => {
    report(`${prefix} ${line}`);
    if (repair) repairs++;
    else result.corruptions++;
  };

  for (let index = 0; index < image.header.l1Size; index++) {
    const hi = entryHi(l1, index);
    const lo = entryLo(l1, index);
    const offset = entryOffset(hi, lo);
    if (offset === 0) continue;
    job.signal?.throwIfAborted();
    const refcount = await refcountOrUndefined(stored, Math.floor(offset / clusterSize));
    if (refcount === undefined) continue;
    if ((refcount === 1) !== ((hi & COPIED_HI) !== 0)) {
      mismatch(`OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${hexEntry(hi, lo)} refcount=${refcount}`);
      if (repair) {
        setEntry(l1, index, withCopied(hi, refcount), lo);
        await image.file.write(image.header.l1Offset + index * 8, table.subarray(index * 8, index * 8 + 8));
      }
    }
    if (offset >= image.file.size) continue; // reads as zeroes
    if (++visited > tablesInFile) return; // the walk has told
    await image.file.read(offset, buffer);
    if ((await checkL2(job, stored, viewOf(buffer), mismatch)) && repair) await writeL2(job, offset, buffer);
  }
  result.corruptionsFixed += repairs;
  if (repairs > 0) await run(image.flush());
}

/** Corrects the table in memory; whether anything was to be corrected. */
async function checkL2(job: CheckJob, stored: StoredRefcounts, view: DataView, mismatch: (line: string) => void): Promise<boolean> {
  const { image } = job;
  const { extended, l2Entries, clusterSize } = image.geometry;
  const dataFile = image.dataFile !== image.file;
  const step = extended ? 2 : 1;
  let changed = false;
  for (let index = 0; index < l2Entries; index++) {
    const hi = entryHi(view, index * step);
    const lo = entryLo(view, index * step);
    if (hi === 0 && lo === 0) continue;
    const kind = clusterKind(hi, lo, extended, dataFile);
    if (kind !== ClusterKind.NORMAL && kind !== ClusterKind.ZERO_ALLOCATED) continue;
    const cluster = Math.floor(entryOffset(hi, lo) / clusterSize);
    const block = Math.floor(cluster / stored.perBlock);
    const refcount = dataFile ? 1 : stored.isLoaded(block) ? stored.get(cluster) : await refcountOrUndefined(stored, cluster);
    if (refcount === undefined || (refcount === 1) === ((hi & COPIED_HI) !== 0)) continue;
    mismatch(`OFLAG_COPIED data cluster: l2_entry=${hexEntry(hi, lo)} refcount=${refcount}`);
    setEntry(view, index * step, withCopied(hi, refcount), lo);
    changed = true;
  }
  return changed;
}

async function writeL2({ image, result, report }: CheckJob, offset: number, table: Uint8Array): Promise<void> {
  const text = (error: unknown): string => (error instanceof BlockError ? strerror(error.errno) : String(error));
  try {
    image.checkOverlap(offset, table.length, Structure.ACTIVE_L2);
  } catch (error) {
    result.checkErrors++;
    report(`ERROR: Could not write L2 table; metadata overlap check failed: ${text(error)}`);
    throw error;
  }
  try {
    await image.file.write(offset, table);
  } catch (error) {
    result.checkErrors++;
    report(`ERROR: Could not write L2 table: ${text(error)}`);
    throw error;
  }
}

async function refcountOrUndefined(stored: StoredRefcounts, cluster: number): Promise<number | undefined> {
  try {
    return await storedRefcount(stored, cluster);
  } catch {
    return undefined;
  }
}

function withCopied(hi: number, refcount: number): number {
  return refcount === 1 ? (hi | COPIED_HI) >>> 0 : (hi & ~COPIED_HI) >>> 0;
}
