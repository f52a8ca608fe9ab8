/** Checking an image: structures against refcounts, and repair of what differs. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { run } from '../../util/steps.js';
import { compareRefcounts } from './check-refcounts.js';
import { countReferences, hexEntry, type CheckJob, type Walk } from './check-walk.js';
import { Incompatible } from './header.js';
import type { Qcow2Image } from './image.js';
import { rebuildRefcounts } from './new-refcounts.js';
import { overhanging, readSnapshotTable, storeSnapshotTable, type SnapshotTable } from './snapshot-table.js';
import { checkCopiedFlags } from './check-copied.js';
import { maxSnapshotExtraSize, maxSnapshots } from './tables.js';

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
    report: options.report ?? ((): void => {}), signal: options.signal, snapshots: { entries: [], size: 0 },
  };
  await run(image.flushMetadata());
  const damage = await readSnapshots(job, options.reportError ?? job.report);
  await checkRefcounts(job);
  await mendSnapshots(job, damage);
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

/** Reads the snapshot table anew; returns the number of damages that remain to be written back mended. */
async function readSnapshots(job: CheckJob, reportError: (line: string) => void): Promise<number> {
  const { image, result, report } = job;
  const surplus = Math.max(0, image.header.snapshotCount - maxSnapshots);
  if (surplus > 0 && !job.repairErrors) {
    result.checkErrors++;
    reportError(`ERROR snapshot table too large\n${overhanging(surplus)}`);
    throw failed(Errno.EFBIG);
  }
  if (surplus > 0) report(`Discarding ${surplus} overhanging snapshots`);
  let table: SnapshotTable & { damage: { cut: number; dropped: number } };
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
  const damage = surplus + table.damage.cut + table.damage.dropped;
  result.corruptions += damage;
  const incomplete = countIncomplete(job);
  if (surplus + table.damage.dropped > 0) {
    await run(image.updateHeader({ snapshotCount: table.entries.length }));
    result.corruptionsFixed += surplus + table.damage.dropped;
    result.corruptions -= surplus + table.damage.dropped;
  }
  return damage + incomplete;
}

/** Version 3 wants 16 bytes of extra data in each entry; returns how many entries have less. */
function countIncomplete({ image, result, report, repairErrors, snapshots: { entries } }: CheckJob): number {
  if (image.header.version < 3) return 0;
  let incomplete = 0;
  entries.forEach((entry, index) => {
    if (entry.extraSize >= 16) return;
    report(`${repairErrors ? 'Repairing' : 'ERROR'} snapshot table entry ${index} is incomplete`);
    incomplete++;
  });
  result.corruptions += incomplete;
  return incomplete;
}

/** Writes the table again, with all data that each entry needs and without what was cut. */
async function mendSnapshots(job: CheckJob, damage: number): Promise<void> {
  const { image, result, report, snapshots: { entries } } = job;
  if (!job.repairErrors || damage === 0) return;
  const open = entries.filter(({ extraSize }) => extraSize > maxSnapshotExtraSize || (extraSize < 16 && image.header.version >= 3)).length;
  try {
    await run(image.reload());
    image.snapshots = job.snapshots;
    await storeSnapshotTable(image, entries);
    await run(image.flushMetadata());
  } catch (error) {
    result.checkErrors++;
    report(`ERROR failed to update snapshot table: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  }
  result.corruptionsFixed += open;
  result.corruptions -= open;
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
  await rebuildRefcounts(image, found.references);
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
  result.corruptionsFixed = before.corruptionsFixed + Math.max(0, before.corruptions - corruptions);
  result.leaksFixed = before.leaksFixed + Math.max(0, before.leaks - leaks);
  return { walk, end };
}

function failed(errno: number): BlockError {
  return new BlockError('CORRUPT_IMAGE', strerror(errno), { errno });
}
