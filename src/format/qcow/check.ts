/** Checking an image: tables and clusters lie in the file, and no two in one place. */
import { ClusterSet } from '../../block/cluster-set.js';
import { scanTable, type TablePlace } from '../../block/entry-tables.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { compressedPlace, entryAt, isCompressed, setEntry } from './entries.js';
import { headerBytes } from './header.js';

export type CheckOptions = Parameters<CheckFacet['check']>[0];

/** What a check needs of an image whose tables are on disk as they are. */
export interface CheckedImage {
  readonly file: TablePlace['file'];
  readonly directory: TablePlace;
  readonly tableBytes: number;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly clusterBits: number;
  /** Room at the end of the file. */
  reserve(bytes: number): number;
}

/** What is wrong with the entry at host offset `entry`: it names no place in the file, or one that another has. */
interface Finding {
  readonly entry: number;
  readonly offset: number;
  readonly kind: 'misplaced' | 'shared' | 'shared table';
}

const maxFindings = 100_000;

/**
 * Checks the image. Repair takes entries out that name no place in the file, and gives clusters that share one a place each. Space that
 * is lost stays so.
 * @throws BlockError where the check could not be finished
 */
export async function checkQcow(image: CheckedImage, { repair, report = () => undefined, signal }: CheckOptions): Promise<CheckResult> {
  const { file, directory, tableBytes, clusterBits } = image;
  const clusterSize = 2 ** clusterBits;
  const end = file.size;
  const result = {
    corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0,
    totalClusters: Math.ceil(image.size / clusterSize), allocatedClusters: 0, fragmentedClusters: 0, compressedClusters: 0,
  } satisfies CheckResult;
  const used = new ClusterSet(Math.ceil(end / clusterSize));
  const packed = new ClusterSet(used.size);
  const findings: Finding[] = [];
  const found = (finding: Finding, what: string): void => {
    if (++result.corruptions > maxFindings) return;
    report(`ERROR ${what} at offset 0x${finding.offset.toString(16)} ${finding.kind === 'misplaced' ? 'is not in the file' : 'is used twice'}`);
    findings.push(finding);
  };
  /** Whether all clusters of a range were free. */
  const take = (offset: number, length: number): boolean => {
    let free = true;
    for (let cluster = Math.floor(offset / clusterSize); cluster * clusterSize < offset + length; cluster++) free = used.add(cluster) && free;
    return free;
  };
  take(0, headerBytes);
  take(directory.offset, directory.length);

  const tables: number[] = [];
  await scanTable(directory, (view, at, index) => {
    const offset = entryAt(view, at);
    if (offset === 0) return;
    const entry = directory.offset + index * 8;
    if (offset < headerBytes || offset + tableBytes > end) found({ entry, offset, kind: 'misplaced' }, 'L2 table');
    else if (!take(offset, tableBytes)) found({ entry, offset, kind: 'shared table' }, 'L2 table');
    else tables.push(offset);
  });
  for (const table of tables) {
    if (signal?.aborted) throw new BlockError('CANCELLED', strerror(Errno.ECANCELED), { errno: Errno.ECANCELED });
    let next = 0;
    await scanTable({ file, offset: table, length: tableBytes }, (view, at, index) => {
      const entry = table + index * 8;
      const compressed = isCompressed(view, at);
      const { offset, length } = compressed ? compressedPlace(view, at, clusterBits) : { offset: entryAt(view, at), length: clusterSize };
      if (!compressed && offset === 0) return;
      result.allocatedClusters++;
      if (compressed) result.compressedClusters++;
      if (next !== 0 && next !== offset) result.fragmentedClusters++;
      next = offset + length;
      if (offset < headerBytes || (compressed ? offset + length > end : offset % 512 !== 0 || offset >= end)) found({ entry, offset, kind: 'misplaced' }, 'Cluster');
      else if (compressed) for (let cluster = Math.floor(offset / clusterSize); cluster * clusterSize < offset + length; cluster++) packed.add(cluster);
      else if (!take(offset, length)) found({ entry, offset, kind: 'shared' }, 'Cluster');
    });
  }
  result.leaks = Math.max(0, used.size - used.count - packed.count);
  if (repair === 'none') return result;
  for (const finding of findings) await mend(image, finding, result);
  if (result.corruptionsFixed > 0) await file.flush();
  return result;
}

/** Two tables in one place cannot be told apart: those are left alone. */
async function mend({ file, clusterBits, reserve }: CheckedImage, { entry, offset, kind }: Finding, result: CheckResult): Promise<void> {
  if (kind === 'shared table') return;
  let place = 0;
  if (kind === 'shared') {
    const content = new Uint8Array(2 ** clusterBits);
    await file.read(offset, content);
    place = reserve(content.length);
    await file.write(place, content);
    await file.flush();
  }
  const bytes = new Uint8Array(8);
  setEntry(new DataView(bytes.buffer), 0, place);
  await file.write(entry, bytes);
  result.corruptionsFixed++;
}
