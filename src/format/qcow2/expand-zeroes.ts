/** Zero clusters turned into what version 2 of the format knows: clusters full of zeroes, or nothing at all. */
import { Errno, systemError } from '../../block/errors.js';
import { run } from '../../util/steps.js';
import { hex } from './geometry.js';
import { maxL1Bytes } from './header.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import { clusterKind, ClusterKind, COPIED_HI, entryHi, entryLo, entryOffset, hiOf, loOf, setEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

interface L1Table { readonly offset: number; readonly entries: number }

/** The active L1 table and those of all snapshots. @throws BlockError where a snapshot's is out of bounds */
function l1Tables(image: Qcow2Image): L1Table[] {
  const tables: L1Table[] = [{ offset: image.header.l1Offset, entries: image.header.l1Size }];
  for (const { l1Offset, l1Size } of image.snapshots.entries) {
    const tooLarge = l1Size * 8 > maxL1Bytes;
    if (tooLarge || l1Offset % image.geometry.clusterSize !== 0) {
      image.context.report(tooLarge ? 'Snapshot L1 table too large' : 'Snapshot L1 table offset invalid', 'error');
      throw systemError(tooLarge ? Errno.EFBIG : Errno.EINVAL);
    }
    tables.push({ offset: l1Offset, entries: l1Size });
  }
  return tables;
}

/** Visits every L2 table that an L1 table refers to; `visit` may change it, and returns whether it did. */
async function forEachL2(
  image: Qcow2Image, visit: (table: number, view: DataView, l1Index: number) => Promise<boolean>, progress: (done: number, total: number) => void,
): Promise<void> {
  const { clusterSize } = image.geometry;
  const tables = l1Tables(image);
  const total = tables.reduce((sum, { entries }) => sum + entries, 0);
  const buffer = new Uint8Array(clusterSize);
  let done = 0;
  for (const { offset, entries } of tables) {
    const bytes = new Uint8Array(entries * 8);
    await image.file.read(offset, bytes);
    const view = viewOf(bytes);
    for (let index = 0; index < entries; index++) {
      const table = entryOffset(entryHi(view, index), entryLo(view, index));
      if (table % clusterSize !== 0) {
        throw image.signalCorruption(`L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`, { fatal: true });
      }
      if (table !== 0) {
        await image.file.read(table, buffer);
        if (await visit(table, viewOf(buffer), index)) {
          await run(image.flushMetadata());
          await image.file.flush();
          await run(image.writeMetadata(table, buffer, Structure.ACTIVE_L2 | Structure.INACTIVE_L2));
        }
      }
      progress(++done, total);
    }
  }
}

/** Whether any cluster, of snapshots too, is stored compressed. */
export async function hasCompressedClusters(image: Qcow2Image): Promise<boolean> {
  let found = false;
  await run(image.flushMetadata());
  await forEachL2(image, (_table, view) => {
    for (let index = 0; index < image.geometry.l2Entries && !found; index++) {
      found = clusterKind(entryHi(view, index), entryLo(view, index), false, false) === ClusterKind.COMPRESSED;
    }
    return Promise.resolve(false);
  }, () => {});
  return found;
}

/**
 * Gives every zero cluster of the active layer and of all snapshots a place full of zeroes; without a backing file those without a place
 * simply go. Standard L2 entries only. Runs inside `image.exclusive`, with nothing else going on.
 */
export async function expandZeroClusters(image: Qcow2Image, progress: (done: number, total: number) => void): Promise<void> {
  await run(image.flush());
  await forEachL2(image, (table, view, l1Index) => expandTable(image, table, view, l1Index * image.geometry.l2Coverage), progress);
  await run(image.flush());
  await run(image.reload());
}

/** `guest`: where the disk range that the table maps begins. */
async function expandTable(image: Qcow2Image, table: number, view: DataView, guest: number): Promise<boolean> {
  const { l2Entries, clusterSize } = image.geometry;
  const hasBacking = image.header.backingFile !== undefined;
  const sharers = await run(image.refcounts.get(table / clusterSize));
  let changed = false;
  for (let index = 0; index < l2Entries; index++) {
    const hi = entryHi(view, index);
    const lo = entryLo(view, index);
    const kind = clusterKind(hi, lo, false, false);
    if (kind === ClusterKind.ZERO_PLAIN && !hasBacking) {
      setEntry(view, index, 0, 0);
    } else if (kind === ClusterKind.ZERO_PLAIN || kind === ClusterKind.ZERO_ALLOCATED) {
      const place = await placeFor(image, kind === ClusterKind.ZERO_ALLOCATED ? entryOffset(hi, lo) : 0, sharers, { table, index, guest: guest + index * clusterSize });
      setEntry(view, index, sharers === 1 ? (hiOf(place) | COPIED_HI) >>> 0 : hiOf(place), loOf(place));
    } else {
      continue;
    }
    changed = true;
  }
  return changed;
}

/** A cluster of zeroes for an entry of a table that `sharers` L1 tables refer to: its own place, unless others see something there. */
async function placeFor(image: Qcow2Image, own: number, sharers: number, where: { readonly table: number; readonly index: number; readonly guest: number }): Promise<number> {
  const { refcounts, file, encryption, geometry: { clusterSize } } = image;
  if (own % clusterSize !== 0) {
    throw image.signalCorruption(
      `Cluster allocation offset ${hex(own)} unaligned (L2 offset: ${hex(where.table)}, L2 index: ${hex(where.index)})`, { fatal: true });
  }
  const reusable = own !== 0 && (await run(refcounts.get(own / clusterSize))) === sharers;
  const place = reusable ? own : await run(refcounts.allocate(clusterSize));
  if (!reusable && sharers > 1) await run(refcounts.update(place, clusterSize, sharers - 1));
  try {
    image.checkOverlap(place, clusterSize);
    if (encryption?.cipher === undefined) await file.writeZeroes(place, clusterSize);
    else await file.write(place, encryption.cipher.encrypt(where.guest, place, new Uint8Array(clusterSize)));
  } catch (error) {
    if (!reusable && !image.dead) await run(refcounts.update(place, clusterSize, -sharers, 'always'));
    throw error;
  }
  if (own !== 0 && !reusable) {
    for (let times = 0; times < sharers; times++) await run(refcounts.free(own, clusterSize, 'other'));
  }
  return place;
}

