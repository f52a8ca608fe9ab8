/** Checking an image: structures against refcounts, and repair of what differs. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { run } from '../../util/steps.js';
import { compareRefcounts } from './check-refcounts.js';
import { countReferences, type CheckJob, type Walk } from './check-walk.js';
import { Incompatible } from './header.js';
import type { Qcow2Image } from './image.js';
import { rebuildRefcounts } from './new-refcounts.js';
import { overhanging, readSnapshotTable, storeSnapshotTable, type SnapshotDamage, type SnapshotTable } from './snapshot-table.js';
import { checkCopiedFlags } from './check-copied.js';
import { maxSnapshotExtraSize, maxSnapshots } from './tables.js';

const ignore = (): void => {};

export type CheckOptions = Parameters<CheckFacet['check']>[0];

/**
 * Checks the image and repairs it as far as `options.repair` allows. Clears the dirty and the corrupt mark when nothing is wrong any more.
 * Other requests must not run meanwhile (the node is drained, or the image is being opened).
 * @throws BlockError where the check could not be finished
 */
export async function checkImage(image: Qcow2Image, options: CheckOptions): Promise<CheckResult> {
  const result: CheckResult = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
  const job: CheckJob = {
    image, result, repairLeaks: options.repair !== 'none', repairErrors: options.repair === 'all',
    report: options.report ?? ignore, reportError: options.reportError ?? options.report ?? ignore, signal: options.signal, snapshots: { entries: [], size: 0 },
  };
  await run(image.flushMetadata());
  await run(image.refcounts.cache.writeBack());
  const dropped = await readSnapshots(job);
  const incomplete = reportIncomplete(job);
  await checkRefcounts(job);
  result.corruptionsFixed += dropped;
  await mendSnapshots(job, incomplete);
  if (options.repair === 'none') return result;
  await run(image.reload());
  if (result.checkErrors === 0 && result.corruptions === 0) await markSound(image);
  return result;
}

async function markSound(image: Qcow2Image): Promise<void> {
  await run(image.flush());
  const incompatible = image.header.incompatible & ~BigInt(Incompatible.DIRTY | Incompatible.CORRUPT);
  if (incompatible === image.header.incompatible) return;
  await run(image.updateHeader({ incompatible }));
  await image.file.flush();
}

/** Reads the snapshot table anew; returns the number of snapshots that were dropped because they exceed the limits. */
async function readSnapshots(job: CheckJob): Promise<number> {
  const { image, result, report, reportError } = job;
  const surplus = Math.max(0, image.header.snapshotCount - maxSnapshots);
  if (surplus > 0 && !job.repairErrors) {
    result.checkErrors++;
    reportError(`ERROR snapshot table too large\n${overhanging(surplus)}`);
    throw failed(Errno.EFBIG);
  }
  if (surplus > 0) report(`Discarding ${surplus} overhanging snapshots`);
  let table: SnapshotTable & { damage: SnapshotDamage };
  try {
    table = await run(readSnapshotTable(image.file, image.header, job.repairErrors ? report : undefined));
  } catch (error) {
    result.checkErrors++;
    if (!(error instanceof BlockError)) throw error;
    const { hint } = error.context;
    reportError(`ERROR failed to read the snapshot table: ${error.message}${hint === undefined ? '' : `\n${hint}`}`);
    throw failed(error.errno);
  }
  job.snapshots = image.snapshots = { entries: table.entries, size: table.size };
  const dropped = surplus + table.damage.dropped;
  if (dropped > 0) await run(image.updateHeader({ snapshotCount: table.entries.length }));
  return dropped;
}

/** Version 3 wants 16 bytes of extra data in each entry; too much of it was cut while reading. Returns how many entries are to be written anew. */
function reportIncomplete({ image, report, repairErrors, snapshots: { entries } }: CheckJob): number {
  let count = 0;
  entries.forEach(({ extraSize }, index) => {
    if (extraSize > maxSnapshotExtraSize) count++;
    if (extraSize >= 16 || image.header.version < 3) return;
    report(`${repairErrors ? 'Repairing' : 'ERROR'} snapshot table entry ${index} is incomplete`);
    count++;
  });
  return count;
}

/** Writes the table again, with all data that each entry needs and without what was cut. */
async function mendSnapshots(job: CheckJob, count: number): Promise<void> {
  const { image, result, report, snapshots: { entries } } = job;
  if (!job.repairErrors) result.corruptions += count;
  if (!job.repairErrors || count === 0) return;
  try {
    await run(image.reload());
    image.snapshots = job.snapshots;
    await storeSnapshotTable(image, entries);
    await run(image.flushMetadata());
    // lazy ones, too: they are read anew
    await run(image.refcounts.cache.writeBack());
  } catch (error) {
    result.checkErrors++;
    report(`ERROR failed to update snapshot table: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  }
  result.corruptionsFixed += count;
}

async function checkRefcounts(job: CheckJob): Promise<void> {
  const { result, report } = job;
  let walk = await countReferences(job, true);
  const before = { ...result };
  let end = await compareRefcounts(job, walk, 'none');
  if (walk.rebuild && job.repairErrors) {
    ({ walk, end } = await rebuild(job, walk));
  } else if (job.repairLeaks) {
    if (walk.rebuild) {
      report('ERROR need to rebuild refcount structures');
      throw failed(Errno.EIO);
    }
    if (result.leaks > 0 || result.corruptions > 0) {
      Object.assign(result, before);
      end = await compareRefcounts(job, walk, job.repairErrors ? 'all' : 'leaks');
    }
  }
  await checkCopiedFlags(job);
  result.imageEndOffset = end;
}

/** Writes new refcount structures from what was counted, then gives the clusters of the old ones free. */
async function rebuild(job: CheckJob, found: Walk): Promise<{ walk: Walk; end: number }> {
  const { image, result, report } = job;
  report('Rebuilding refcount structure');
  const before = { ...result };
  try {
    await rebuildRefcounts(image, found.references);
  } catch (error) {
    if (error instanceof BlockError) job.reportError(`ERROR writing refblock: ${strerror(error.errno)}`);
    throw error;
  }
  await run(image.reload());
  image.snapshots = job.snapshots;
  result.corruptions = 0;
  result.leaks = 0;
  for (const key of ['allocatedClusters', 'fragmentedClusters', 'compressedClusters'] as const) delete result[key];
  const walk = await countReferences(job, false);
  const counted = { ...result };
  const end = await compareRefcounts(job, walk, 'leaks');
  if (walk.rebuild) {
    report('ERROR rebuilt refcount structure is still broken');
    result.checkErrors++;
  }
  const { corruptions, leaks, checkErrors } = result;
  Object.assign(result, counted, { checkErrors });
  result.corruptions = corruptions;
  result.leaks = leaks;
  result.corruptionsFixed = before.corruptionsFixed + Math.max(0, before.corruptions - counted.corruptions);
  result.leaksFixed = before.leaksFixed + Math.max(0, before.leaks - leaks);
  return { walk, end };
}

function failed(errno: number): BlockError {
  return new BlockError('CORRUPT_IMAGE', strerror(errno), { errno });
}
