/** Checking an image: every cluster is referred to once, and from within the file. */
import type { BlockChild } from '../../block/child.js';
import { ClusterSet } from '../../block/cluster-set.js';
import { scanTable } from '../../block/entry-tables.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { QedHeader } from './header.js';
import { entryAt, setEntry } from './entries.js';

export type CheckOptions = Parameters<CheckFacet['check']>[0];

/** What a check needs of an image whose tables are on disk as they are. */
export interface CheckedImage {
  readonly file: BlockChild;
  readonly header: QedHeader;
  /** Whether a cluster may lie there. */
  isPlace(offset: number): boolean;
  /** Room at the end of the file. */
  reserve(bytes: number): number;
}

/** What is found wrong with an entry of a table, and the place of that entry in the file. */
interface Finding {
  readonly entry: number;
  readonly kind: 'misplaced' | 'shared';
  /** What the entry says. */
  readonly offset: number;
  readonly isTable: boolean;
}

const maxFindings = 100_000;

/**
 * Checks the image. Repair takes entries out that name no place in the file, and gives clusters that have two owners to each.
 * Leaked clusters stay.
 * @throws BlockError where the check could not be finished
 */
export async function checkQed(image: CheckedImage, { repair, signal }: CheckOptions): Promise<CheckResult> {
  const { file, header: { clusterSize, tableSize, headerSize, l1Offset, size } } = image;
  const result: CheckResult = {
    corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0,
    totalClusters: Math.ceil(size / clusterSize), allocatedClusters: 0, fragmentedClusters: 0,
  };
  const used = new ClusterSet(Math.floor(file.size / clusterSize));
  const findings: Finding[] = [];
  const report = (finding: Finding): void => {
    result.corruptions++;
    if (repair !== 'none' && findings.length < maxFindings) findings.push(finding);
  };
  for (let cluster = 0; cluster < headerSize; cluster++) used.add(cluster);
  for (let at = 0; at < tableSize; at++) used.add(l1Offset / clusterSize + at);

  const tableBytes = tableSize * clusterSize;
  const tables: number[] = [];
  await scanTable({ file, offset: l1Offset, length: tableBytes }, (view, at, index) => {
    const offset = entryAt(view, at);
    if (offset === 0) return;
    const entry = l1Offset + index * 8;
    if (!image.isPlace(offset) || !image.isPlace(offset + tableBytes - clusterSize)) return report({ entry, kind: 'misplaced', offset, isTable: true });
    let shared = false;
    for (let part = 0; part < tableSize; part++) {
      if (used.add(offset / clusterSize + part)) continue;
      report({ entry, kind: 'shared', offset, isTable: true });
      shared = true;
    }
    if (!shared) tables.push(offset);
  });
  for (const table of tables) {
    if (signal?.aborted) throw new BlockError('CANCELLED', strerror(Errno.ECANCELED), { errno: Errno.ECANCELED });
    let last = 0;
    await scanTable({ file, offset: table, length: tableBytes }, (view, at, index) => {
      const offset = entryAt(view, at);
      if (offset === 0 || offset === 1) return;
      result.allocatedClusters!++;
      if (last !== 0 && last + clusterSize !== offset) result.fragmentedClusters!++;
      last = offset;
      const entry = table + index * 8;
      if (!image.isPlace(offset)) report({ entry, kind: 'misplaced', offset, isTable: false });
      else if (!used.add(offset / clusterSize)) report({ entry, kind: 'shared', offset, isTable: false });
    });
  }
  result.leaks = used.size - used.count;
  for (const finding of findings) await mend(image, finding, result);
  if (result.corruptionsFixed > 0) await file.flush();
  return result;
}

/** Two tables in one place cannot be told apart: those are left alone. */
async function mend(image: CheckedImage, { entry, kind, offset, isTable }: Finding, result: CheckResult): Promise<void> {
  const { file, header: { clusterSize } } = image;
  if (kind === 'shared' && isTable) return;
  let place = 0;
  if (kind === 'shared') {
    const content = new Uint8Array(clusterSize);
    await file.read(offset, content);
    place = image.reserve(clusterSize);
    await file.write(place, content);
    await file.flush();
  }
  const bytes = new Uint8Array(8);
  setEntry(new DataView(bytes.buffer), 0, place);
  await file.write(entry, bytes);
  result.corruptionsFixed++;
}
