/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { viewOf } from '../../util/view.js';
import { parseCreateOptions, type NewImage } from './options.js';
import { growsZeroed } from './grows-zeroed.js';
import { newGuid, nilGuid } from './guid.js';
import {
  batGuid, headerOffsets, metadataGuid, MiB, regionTableOffsets, serialiseHeader, serialiseIdentifier, serialiseRegionTable, type VhdxHeader,
} from './header.js';
import { serialiseMetadata, type DiskParameters } from './metadata.js';
import { VhdxOps } from './ops.js';
import { newLocator } from './parent.js';
import { bitmapIndex, entryCount, entrySize, geometryOf, State, writeEntry } from './tables.js';

const creator = 'vdisk';
/** Room behind the metadata, where the peer leaves it. */
const spareRoom = 4 * MiB;

/** Where the parts of a new image lie. */
export interface Layout {
  readonly logOffset: number;
  readonly batOffset: number;
  readonly batLength: number;
  readonly metadataOffset: number;
  readonly dataOffset: number;
}

export function layoutOf({ size, blockSize, logSize, sectorSize, backingFile }: NewImage): Layout {
  const geometry = geometryOf({ blockSize, logicalSectorSize: sectorSize });
  // of a disk without bytes QEMU expects so many, and opens no smaller table
  const entries = size === 0 ? 2 ** 32 / geometry.chunkRatio : entryCount(geometry, size, backingFile !== undefined);
  const batLength = Math.max(1, Math.ceil(entries * entrySize / MiB)) * MiB;
  const batOffset = MiB + logSize;
  const metadataOffset = batOffset + batLength;
  return { logOffset: MiB, batOffset, batLength, metadataOffset, dataOffset: metadataOffset + MiB + spareRoom };
}

/**
 * Lays an empty image on `target`. The headers come last: before them it is no image.
 * @throws BlockError with the peer's text
 */
export async function createVhdx(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }, context: CreateContext): Promise<void> {
  const image = parseCreateOptions(options);
  const { size, blockSize, fixed, sectorSize, logSize } = image;
  const layout = layoutOf(image);
  const disk: DiskParameters = {
    blockSize, fixed, size, diskId: newGuid(), logicalSectorSize: sectorSize, physicalSectorSize: sectorSize, parent: await locatorFor(image, context),
  };
  const blocks = Math.ceil(size / blockSize);
  const end = layout.dataOffset + (fixed ? blocks * blockSize : 0);
  await target.resize(end, { exact: false });
  if (!growsZeroed(target.node)) await target.writeZeroes(0, end);
  await target.write(0, serialiseIdentifier(creator));
  const regions = serialiseRegionTable([
    { guid: batGuid, offset: layout.batOffset, length: layout.batLength, required: true },
    { guid: metadataGuid, offset: layout.metadataOffset, length: MiB, required: true },
  ]);
  for (const offset of regionTableOffsets) await target.write(offset, regions);
  await target.write(layout.metadataOffset, serialiseMetadata(disk));
  if (fixed || (image.markZero && disk.parent === undefined)) await writeTable(target, image, layout, blocks, context.signal);
  const header: VhdxHeader = {
    sequence: 1n, fileWriteGuid: newGuid(), dataWriteGuid: newGuid(), logGuid: nilGuid, logVersion: 0, logLength: logSize, logOffset: layout.logOffset,
  };
  await target.flush();
  await target.write(headerOffsets[0], serialiseHeader(header));
  await target.write(headerOffsets[1], serialiseHeader({ ...header, sequence: 2n }));
}

/** The entries of all blocks: at their places in a fixed image, else known to be zero. */
async function writeTable(target: BlockBackend, { fixed, blockSize, sectorSize }: NewImage, layout: Layout, blocks: number, signal?: AbortSignal): Promise<void> {
  const geometry = geometryOf({ blockSize, logicalSectorSize: sectorSize });
  const total = entryCount(geometry, blocks * blockSize, false);
  const perChunk = MiB / entrySize;
  let block = 0;
  for (let first = 0; first < total; first += perChunk) {
    signal?.throwIfAborted();
    const bytes = new Uint8Array(Math.min(perChunk, total - first) * entrySize);
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length / entrySize; at++) {
      if (first + at === bitmapIndex(geometry, block) - geometry.chunkRatio - 1) continue;
      writeEntry(view, at, fixed ? layout.dataOffset + block * blockSize + State.FULLY_PRESENT : State.ZERO);
      block++;
    }
    await target.write(layout.batOffset + first * entrySize, bytes);
  }
}

/** What leads to the parent. */
async function locatorFor({ backingFile }: NewImage, context: CreateContext): Promise<ReadonlyMap<string, string> | undefined> {
  if (backingFile === undefined) return undefined;
  const parent = await context.openBacking(backingFile, 'vhdx');
  try {
    const { ops } = parent.node;
    if (!(ops instanceof VhdxOps)) throw new BlockError('INVALID_ARGUMENT', "The parent of a VHDX image must be of format 'vhdx'", { errno: Errno.EINVAL });
    return newLocator(backingFile, ops.image.header.dataWriteGuid);
  } finally {
    await parent.close();
  }
}
