/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { folderOf } from '../../block/filename.js';
import type { OptionValue } from '../../block/options.js';
import { addressableSectors, isLargest, largestGeometry, maxSectors, roomyGeometry, sectorSize, type Geometry } from './geometry.js';
import { DiskType, footerSize, newFooter, timestampNow, type Footer } from './header.js';
import { defaultBlockSize, layOut, roundUp, tableSize, type ParentReference } from './layout.js';
import { newLocators } from './locator.js';
import { forcedCreator } from './options.js';

export type OptionValues = Readonly<Record<string, OptionValue>>;

const tableChunk = 256 * 1024;

/** A new image's properties, checked. */
export interface NewImage {
  readonly type: number;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly geometry: Geometry;
  readonly creator: string;
  readonly blockSize: number;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
}

/** @throws BlockError with the peer's text */
export function planImage(options: OptionValues & { readonly size: number }): NewImage {
  const subformat = options['subformat'] ?? 'dynamic';
  if (subformat !== 'dynamic' && subformat !== 'fixed') throw invalid(`Parameter 'subformat' does not accept value '${String(subformat)}'`);
  const backingFile = text(options['backing_file']);
  const backingFormat = text(options['backing_fmt']);
  if (backingFile !== undefined && subformat === 'fixed') throw invalid('A fixed disk cannot have a backing file');
  if (backingFormat !== undefined && backingFormat !== 'vpc') throw invalid('The parent of a differencing disk must be a VHD');
  const blockSize = Number(options['block_size'] ?? defaultBlockSize);
  if (!Number.isInteger(Math.log2(blockSize)) || blockSize < 4096 || blockSize > 2 ** 26) {
    throw invalid('Block size must be a power of two between 4k and 64M');
  }
  const alignment = Number(options['align_size'] ?? sectorSize);
  if (alignment === 0 || alignment % sectorSize !== 0) throw invalid('The disk size can only be aligned to a multiple of 512');
  const sectors = roundUp(options.size, alignment) / sectorSize;
  // A child is as large as its parent is, to all who read it.
  const forced = options['force_size'] === true || backingFile !== undefined;
  const geometry = forced ? largestGeometry : roomyGeometry(sectors);
  const size = (isLargest(geometry) ? sectors : addressableSectors(geometry)) * sectorSize;
  if (size / sectorSize > maxSectors) throw new BlockError('INVALID_ARGUMENT', 'File too large', { errno: Errno.EFBIG });
  const type = subformat === 'fixed' ? DiskType.FIXED : backingFile === undefined ? DiskType.DYNAMIC : DiskType.DIFFERENCING;
  return { type, size, geometry, creator: forced ? forcedCreator : 'qemu', blockSize, backingFile, backingFormat };
}

/** The footer of a new image. `uuid` and `timestamp` are made up where they are not given. */
export function footerOf({ type, size, geometry, creator }: NewImage, uuid = newUuid(), timestamp = timestampNow()): Footer {
  return newFooter({ type, dataOffset: type === DiskType.FIXED ? undefined : footerSize, timestamp, creator, currentSize: size, geometry, uuid });
}

export async function createVpc(target: BlockBackend, options: OptionValues & { readonly size: number }, context: CreateContext): Promise<void> {
  const image = planImage(options);
  const footer = footerOf(image);
  if (image.type === DiskType.FIXED) {
    await target.resize(image.size + footerSize);
    await target.write(image.size, footer.bytes);
    return;
  }
  const parent = image.backingFile === undefined ? undefined : await describeParent(image.backingFile, image.backingFormat, folderOf(target.node), context);
  const { head, header, blocksOffset } = layOut(footer, image.blockSize, parent);
  await target.resize(blocksOffset + footerSize, { exact: false });
  await target.write(0, head);
  for (let at = header.tableOffset; at < blocksOffset; at += tableChunk) {
    await target.write(at, new Uint8Array(Math.min(tableChunk, blocksOffset - at)).fill(0xff));
  }
  await target.write(header.tableOffset + tableSize(header.maxEntries), footer.bytes);
}

async function describeParent(filename: string, format: string | undefined, folder: string | undefined, context: CreateContext): Promise<ParentReference> {
  const parent = await context.openBacking(filename, format);
  try {
    const identity = parent.facet('identity');
    if (parent.node.driver.name !== 'vpc' || identity === undefined) throw invalid('The parent of a differencing disk must be a VHD');
    return {
      uuid: identity.id, timestamp: identity.timestamp ?? 0, name: filename.slice(filename.lastIndexOf('/') + 1), locators: newLocators(filename, folder),
    };
  } finally {
    await parent.close();
  }
}

/** A random one, version 4. */
function newUuid(): Uint8Array {
  const uuid = crypto.getRandomValues(new Uint8Array(16));
  uuid[6] = (uuid[6]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return uuid;
}

function text(value: OptionValue): string | undefined {
  return value === undefined || value === null ? undefined : String(value);
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
