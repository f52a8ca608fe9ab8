/** How much space an image would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { chainStatus } from '../../block/status.js';
import { footerOf, planImage, type OptionValues } from './create.js';
import { DiskType, footerSize } from './header.js';
import { bitmapSize, blockCount, layOut } from './layout.js';

/** Space for a new image of `options.size` bytes, or for the content of `source`. @throws BlockError with the text of creation */
export async function measureVpc(source: BlockChild | undefined, options: OptionValues & { readonly size?: number }): Promise<MeasureResult> {
  const image = planImage({ ...options, backing_file: undefined, backing_fmt: undefined, size: source?.size ?? options.size ?? 0 });
  if (image.type === DiskType.FIXED) return { required: image.size + footerSize, fullyAllocated: image.size + footerSize };
  const { blockSize } = image;
  const metadata = layOut(footerOf(image), blockSize).blocksOffset + footerSize;
  const blockBytes = bitmapSize(blockSize) + blockSize;
  const used = source === undefined ? 0 : await usedBlocks(source, blockSize);
  return { required: metadata + used * blockBytes, fullyAllocated: metadata + blockCount(image.size, blockSize) * blockBytes };
}

/** Blocks that hold more than zeroes. */
async function usedBlocks(source: BlockChild, blockSize: number): Promise<number> {
  let blocks = 0;
  for (let offset = 0; offset < source.size;) {
    const status = await chainStatus(source.node, offset, source.size - offset);
    let end = offset + status.length;
    if (!status.zero && (status.data || status.allocated)) {
      const last = blockCount(end, blockSize);
      blocks += last - Math.floor(offset / blockSize);
      end = Math.min(source.size, last * blockSize);
    }
    offset = end;
  }
  return blocks;
}
