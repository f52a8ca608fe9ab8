/** Options of opening an image, and of making one. */
import type { CreateSchema, OptionSchema } from '../../block/options.js';
import { BlockError, Errno } from '../../block/errors.js';
import { addressableSectors, isLargest, maxSectors, sectorSize } from './geometry.js';
import type { Footer } from './header.js';

export interface VpcOpenOptions {
  /** 'chs' or 'current_size': which of the footer's two sizes is the disk's. Absent: what the program that made it means. */
  readonly force_size_calc?: string;
}

export const openOptions: OptionSchema<VpcOpenOptions> = {
  force_size_calc: { type: 'string', help: 'Force disk size calculation to use either CHS geometry, or use the disk current_size specified in the VHD footer. {chs, current_size}' },
};

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  size: { type: 'size', help: 'Virtual disk size' },
  subformat: { type: 'string', help: 'Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ' },
  force_size: { type: 'boolean', help: 'Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation' },
  backing_file: { type: 'string', help: 'File name of the parent of a differencing disk', beyondPeer: true },
  backing_fmt: { type: 'string', help: 'Image format of the parent: vpc', beyondPeer: true },
  block_size: { type: 'size', help: 'Allocation unit of a dynamic disk', beyondPeer: true },
  align_size: { type: 'size', help: 'Round the disk size up to a multiple of this (Azure wants 1M)', beyondPeer: true },
};

/** Who makes disks whose exact size counts; to QEMU, too. */
export const forcedCreator = 'qem2';
/** Programs that take the disk's size from its geometry. */
export const countsByGeometry: ReadonlySet<string> = new Set(['vpc ', 'qemu']);

/** Virtual size in bytes. @throws BlockError INVALID_ARGUMENT for an unknown mode, and where the disk is too large */
export function diskSize(footer: Footer, mode: string | undefined): number {
  if (mode !== undefined && mode !== 'chs' && mode !== 'current_size') {
    throw new BlockError('INVALID_ARGUMENT', `Invalid size calculation mode: '${mode}'`);
  }
  const byGeometry = mode === undefined ? countsByGeometry.has(footer.creator) : mode === 'chs';
  const sectors = byGeometry && !isLargest(footer.geometry) ? addressableSectors(footer.geometry) : Math.floor(footer.currentSize / sectorSize);
  if (sectors > maxSectors) throw new BlockError('UNSUPPORTED_FEATURE', 'File too large', { errno: Errno.EFBIG });
  return sectors * sectorSize;
}

