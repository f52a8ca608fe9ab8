/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { countClusters } from '../../block/measure.js';
import type { OptionValue } from '../../block/options.js';
import { newDirectory, newGeometry } from './create.js';

/** Space for a new image of `options.size` bytes, or for the content of `source`, not compressed. */
export async function measureQcow(source: BlockChild | undefined, options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): Promise<MeasureResult> {
  const size = source?.size ?? options.size ?? 0;
  const geometry = newGeometry(options['backing_file'] !== undefined);
  const clusterSize = 2 ** geometry.clusterBits;
  const tableEntries = 2 ** geometry.tableBits;
  const { offset, length } = newDirectory(size, geometry, new TextEncoder().encode(String(options['backing_file'] ?? '')).length);
  const metadata = Math.ceil((offset + length) / clusterSize) * clusterSize;
  const clusters = Math.ceil(size / clusterSize);
  const { clusters: needed, tables } = source === undefined ? { clusters: 0, tables: 0 } : await countClusters(source, clusterSize, tableEntries);
  return {
    required: metadata + needed * clusterSize + tables * tableEntries * 8,
    fullyAllocated: metadata + clusters * clusterSize + Math.ceil(clusters / tableEntries) * tableEntries * 8,
  };
}
