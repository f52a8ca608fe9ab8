/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { countClusters } from '../../block/measure.js';
import { layOut, type OptionValues } from './create.js';
import { sectorSize } from './header.js';

/** Space for a new image of `options.size` bytes, or for the content of `source`. @throws BlockError with the text of creation */
export async function measureParallels(source: BlockChild | undefined, options: OptionValues): Promise<MeasureResult> {
  const { clusterSectors, tableEntries, dataOffset } = layOut(source?.size ?? options.size ?? 0, options);
  const clusterSize = clusterSectors * sectorSize;
  const { clusters } = source === undefined ? { clusters: 0 } : await countClusters(source, clusterSize, tableEntries);
  return { required: dataOffset * sectorSize + clusters * clusterSize, fullyAllocated: dataOffset * sectorSize + tableEntries * clusterSize };
}
