/** Options of a new image. */
import { BlockError, Errno } from '../../block/errors.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { MiB } from './header.js';
import { maxVirtualSize } from './metadata.js';

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  size: { type: 'size', help: 'Virtual disk size; max of 64TB.' },
  log_size: { type: 'size', help: 'Log size; min 1MB.', default: MiB },
  block_size: { type: 'size', help: 'Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.', default: 0 },
  subformat: { type: 'string', help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'." },
  block_state_zero: {
    type: 'boolean',
    help: "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img convert' with subformat=dynamic.",
  },
  backing_file: { type: 'string', help: 'File name of the parent, a VHDX image', beyondPeer: true },
  backing_fmt: { type: 'string', help: "Image format of the parent: 'vhdx'", beyondPeer: true },
  logical_sector_size: { type: 'size', help: 'Logical sector size: 512 or 4096', beyondPeer: true },
};

const maxBlockSize = 256 * MiB;
const maxLogSize = 2 ** 32;
const GiB = 2 ** 30;

/** A new image's properties, checked. Sizes in bytes. */
export interface NewImage {
  readonly size: number;
  readonly logSize: number;
  readonly blockSize: number;
  readonly fixed: boolean;
  /** Blocks that are not there are marked as zero. */
  readonly markZero: boolean;
  readonly sectorSize: 512 | 4096;
  readonly backingFile: string | undefined;
}

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export function parseCreateOptions(options: Readonly<Record<string, OptionValue>> & { readonly size?: number }): NewImage {
  const sectorSize = Number(options['logical_sector_size'] ?? 512);
  if (sectorSize !== 512 && sectorSize !== 4096) throw bad('Logical sector size must be 512 or 4096');
  const size = Math.ceil((options.size ?? 0) / sectorSize) * sectorSize;
  if (size > maxVirtualSize) throw bad('Image size too large; max of 64TB');
  const subformat = options['subformat'] ?? 'dynamic';
  if (subformat !== 'dynamic' && subformat !== 'fixed') throw bad(`Parameter 'subformat' does not accept value '${String(subformat)}'`);
  const backingFile = options['backing_file'];
  const backingFormat = options['backing_fmt'];
  if (backingFormat !== undefined && backingFormat !== 'vhdx') throw bad("The parent of a VHDX image must be of format 'vhdx'");
  if (backingFile !== undefined && subformat === 'fixed') throw bad('A VHDX image with a parent cannot be fixed');
  return {
    size, sectorSize, fixed: subformat === 'fixed', markZero: options['block_state_zero'] !== false,
    logSize: logSizeOf(Number(options['log_size'] ?? MiB)), blockSize: blockSizeOf(Number(options['block_size'] ?? 0), size),
    backingFile: typeof backingFile === 'string' ? backingFile : undefined,
  };
}

function logSizeOf(given: number): number {
  const size = Math.ceil(given / MiB) * MiB;
  if (size >= maxLogSize) throw bad('Log size must be smaller than 4 GB');
  if (size === 0) throw bad('Log size must be a multiple of 1 MB');
  return size;
}

function blockSizeOf(given: number, size: number): number {
  if (given === 0) {
    if (size > 32 * 1024 * GiB) return 64 * MiB;
    if (size > 100 * GiB) return 32 * MiB;
    return size > GiB ? 16 * MiB : 8 * MiB;
  }
  const blockSize = Math.min(Math.ceil(given / MiB) * MiB, maxBlockSize);
  if (!Number.isInteger(Math.log2(blockSize))) throw bad('Block size must be a power of two');
  return blockSize;
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
