/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { countClusters } from '../../block/measure.js';
import type { OptionValue } from '../../block/options.js';
import { newDataOffset } from './create.js';
import { newBlockSize } from './header.js';

/** Space for a new image of `options.size` bytes, or for the content of `source`. */
export async function measureVdi(source: BlockChild | undefined, options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): Promise<MeasureResult> {
  const blocks = Math.ceil((source?.size ?? options.size ?? 0) / newBlockSize);
  const start = newDataOffset(blocks);
  const fullyAllocated = start + blocks * newBlockSize;
  if (options['static'] === true) return { required: fullyAllocated, fullyAllocated };
  const needed = source === undefined ? 0 : (await countClusters(source, newBlockSize, blocks)).clusters;
  return { required: start + needed * newBlockSize, fullyAllocated };
}
