/** How much of a disk a sparse image would have to store. */
import type { BlockChild } from './child.js';
import { chainStatus } from './status.js';

/** Clusters that hold anything but zeroes, and tables (each for `perTable` clusters) that would refer to them. */
export async function countClusters(source: BlockChild, clusterSize: number, perTable: number): Promise<{ clusters: number; tables: number }> {
  const { size } = source;
  let clusters = 0;
  let tables = 0;
  let next = 0;
  let nextTable = 0;
  for (let offset = 0; offset < size;) {
    const status = await chainStatus(source.node, offset, size - offset);
    const end = offset + status.length;
    if (!status.zero && (status.data || status.allocated)) {
      const first = Math.max(next, Math.floor(offset / clusterSize));
      next = Math.max(first, Math.ceil(end / clusterSize));
      clusters += next - first;
      const firstTable = Math.max(nextTable, Math.floor(first / perTable));
      nextTable = Math.max(nextTable, Math.ceil(next / perTable));
      tables += Math.max(0, nextTable - firstTable);
    }
    offset = end;
  }
  return { clusters, tables };
}
