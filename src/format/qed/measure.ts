/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { countClusters } from '../../block/measure.js';
import type { OptionValue } from '../../block/options.js';
import { parseCreateOptions } from './options.js';

/** Space for a new image of `options.size` bytes, or for the content of `source`. @throws BlockError with the peer's text */
export async function measureQed(source: BlockChild | undefined, options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): Promise<MeasureResult> {
  const { size, clusterSize, tableSize } = parseCreateOptions({ ...options, size: source?.size ?? options.size ?? 0 });
  const tableEntries = tableSize * clusterSize / 8;
  const clusters = Math.ceil(size / clusterSize);
  const { clusters: needed, tables } = source === undefined ? { clusters: 0, tables: 0 } : await countClusters(source, clusterSize, tableEntries);
  return {
    required: (1 + tableSize + needed + tables * tableSize) * clusterSize,
    fullyAllocated: (1 + tableSize + clusters + Math.ceil(clusters / tableEntries) * tableSize) * clusterSize,
  };
}
