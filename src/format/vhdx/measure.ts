/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import type { OptionValue } from '../../block/options.js';
import { chainStatus } from '../../block/status.js';
import { layoutOf } from './create.js';
import { parseCreateOptions } from './options.js';

/**
 * Space for a new image of `options.size` bytes, or for the content of `source`.
 * @throws BlockError INVALID_ARGUMENT
 */
export async function measureVhdx(source: BlockChild | undefined, options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): Promise<MeasureResult> {
  const image = parseCreateOptions({ ...options, size: source?.size ?? options.size ?? 0 });
  const { size, blockSize, fixed } = image;
  const metadata = layoutOf(image).dataOffset;
  const all = Math.ceil(size / blockSize);
  const blocks = fixed ? all : source === undefined ? 0 : await blocksOf(source, blockSize);
  return { required: metadata + blocks * blockSize, fullyAllocated: metadata + all * blockSize };
}

/** Blocks that hold data. */
async function blocksOf(source: BlockChild, blockSize: number): Promise<number> {
  let blocks = 0;
  const { size } = source;
  for (let offset = 0; offset < size;) {
    const status = await chainStatus(source.node, offset, size - offset);
    let end = offset + status.length;
    if (!status.zero && (status.data || status.allocated)) {
      const lastBlock = Math.ceil(end / blockSize);
      blocks += lastBlock - Math.floor(offset / blockSize);
      end = Math.min(size, lastBlock * blockSize);
    }
    offset = end;
  }
  return blocks;
}
