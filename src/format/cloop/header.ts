/** The header of a compressed loop file (cloop 2): a script, then block size, block count and offsets. Big-endian. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

const magic = /^#!\/bin\/sh\n#V(\d+\.\d+) Format\n/;
const readable = '2.0';
const fieldsOffset = 128;
export const offsetsOffset = 136;
const largestBlockMiB = 64;
const mostBlocks = 0x1fff_ffff;
const largestOffsetTable = 512 << 20;

export interface CloopHeader {
  readonly blockSize: number;
  readonly blocks: number;
}

/** The version in the script's second line; undefined: it is no such script. */
export function versionOf(head: Uint8Array): string | undefined {
  return magic.exec(new TextDecoder('latin1').decode(head.subarray(0, 64)))?.[1];
}

/** @throws BlockError UNSUPPORTED_FEATURE | CORRUPT_IMAGE with the peer's texts */
export function parseHeader(bytes: Uint8Array): CloopHeader {
  const version = versionOf(bytes) ?? readable;
  if (version !== readable) throw new BlockError('UNSUPPORTED_FEATURE', `cloop version ${version} is not supported`);
  const view = viewOf(bytes);
  const blockSize = view.getUint32(fieldsOffset);
  const blocks = view.getUint32(fieldsOffset + 4);
  if (blockSize % 512 !== 0) throw invalid(`block_size ${blockSize} must be a multiple of 512`);
  if (blockSize === 0) throw invalid('block_size cannot be zero');
  if (blockSize > largestBlockMiB << 20) throw invalid(`block_size ${blockSize} must be ${largestBlockMiB} MB or less`);
  if (blocks > mostBlocks) throw invalid(`n_blocks ${blocks} must be ${mostBlocks} or less`);
  if ((blocks + 1) * 8 > largestOffsetTable) throw invalid('image requires too many offsets, try increasing block size');
  return { blockSize, blocks };
}

export function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
