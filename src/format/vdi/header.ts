/** The header of a VirtualBox disk image. Bytes only. */
import { BlockError } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

/** Bytes of the file that are read as the header, and that a new image spends on it. */
export const headerBytes = 512;
export const newBlockSize = 1 << 20;
/** Blocks of the largest image that the peer takes. */
export const maxBlocks = 0x1fff_ff80;
const signature = 0xbeda107f;
const version = 0x0001_0001;
const sectorSize = 512;
const blockSizes = [4096, 16 << 20] as const;

export const ImageType = { DYNAMIC: 1, FIXED: 2, UNDO: 3, DIFFERENCING: 4 } as const;

/** Where fields lie that change in place. */
export const Field = { BLOCKS: 384, ALLOCATED: 388 } as const;

export interface VdiHeader {
  readonly type: number;
  /** Host offset of the table of blocks. */
  readonly tableOffset: number;
  readonly dataOffset: number;
  readonly size: number;
  readonly blockSize: number;
  /** Bytes in front of each block that hold none of the disk. */
  readonly blockExtra: number;
  readonly blocks: number;
  /** Blocks that have a place in the file. */
  readonly allocated: number;
  readonly uuid: Uint8Array;
  /** The parent's UUID; undefined where the image stands alone. */
  readonly parent: Uint8Array | undefined;
}

export function probeVdi(head: Uint8Array): number {
  return head.length >= headerBytes && viewOf(head).getUint32(64, true) === signature ? 100 : 0;
}

/**
 * @param head the first {@link headerBytes} of the file
 * @throws BlockError NOT_THIS_FORMAT, UNSUPPORTED_FEATURE or CORRUPT_IMAGE with the peer's text
 */
export function parseHeader(head: Uint8Array): VdiHeader {
  const view = viewOf(head);
  const u32 = (at: number): number => view.getUint32(at, true);
  if (u32(64) !== signature) {
    throw new BlockError('NOT_THIS_FORMAT', `Image not in VDI format (bad signature ${u32(64).toString(16).padStart(8, '0')})`);
  }
  if (u32(68) !== version) throw unsupported(`version ${u32(68) >>> 16}.${u32(68) & 0xffff}`);
  const type = u32(76);
  const [tableOffset, dataOffset, blockSize, blockExtra, blocks] = [u32(340), u32(344), u32(376), u32(380), u32(Field.BLOCKS)];
  if (tableOffset % sectorSize !== 0) throw unsupported(`unaligned block map offset 0x${tableOffset.toString(16)}`);
  if (u32(360) !== sectorSize) throw unsupported(`sector size ${u32(360)} is not ${sectorSize}`);
  if (!Number.isInteger(Math.log2(blockSize)) || blockSize < blockSizes[0] || blockSize > blockSizes[1]) {
    throw unsupported(`block size ${blockSize} is not ${newBlockSize}`);
  }
  const bytes = view.getBigUint64(368, true);
  const size = (bytes + 511n) / 512n * 512n;
  if (size > BigInt(maxBlocks) * BigInt(newBlockSize)) throw tooLarge(size);
  if (size > BigInt(blocks) * BigInt(blockSize)) throw unsupported(`disk size ${size}, image bitmap has room for ${BigInt(blocks) * BigInt(blockSize)}`);
  if (blocks > maxBlocks) throw unsupported(`too many blocks ${blocks}, max is ${maxBlocks}`);
  if (blockExtra > blockSize) throw unsupported(`block extra data of ${blockExtra} bytes`);
  if (size > Number.MAX_SAFE_INTEGER || dataOffset + blocks * (blockSize + blockExtra) > Number.MAX_SAFE_INTEGER) throw unsupported('disk size');
  const link = head.slice(424, 440);
  const standsAlone = isNil(link);
  if (standsAlone && !isNil(head.subarray(440, 456))) throw unsupported('non-NULL parent UUID');
  return {
    type, tableOffset, dataOffset, size: Number(size), blockSize, blockExtra, blocks, allocated: u32(Field.ALLOCATED),
    uuid: head.slice(392, 408), parent: standsAlone ? undefined : link,
  };
}

/** @throws BlockError CORRUPT_IMAGE where the map of blocks is not where it can be, in a file of so many bytes */
export function requireTable({ tableOffset, dataOffset, blocks }: VdiHeader, fileSize: number): void {
  if (tableOffset < headerBytes || dataOffset < tableOffset + blocks * 4) throw corrupt('The block map overlaps the header or the data');
  if (tableOffset + blocks * 4 > fileSize) throw corrupt('The block map is cut off');
}

/** Refusal of disks beyond the format. */
export function tooLarge(size: number | bigint): BlockError {
  const largest = maxBlocks * newBlockSize;
  return new BlockError('INVALID_ARGUMENT', `Unsupported VDI image size (size is 0x${size.toString(16)}, max supported is 0x${largest.toString(16)})`);
}

/** A header as the peer makes it. `snapshot` is the UUID of the state the image is in. */
export function newHeader({ type, size, blocks, dataOffset, uuid, snapshot }: {
  readonly type: number; readonly size: number; readonly blocks: number; readonly dataOffset: number; readonly uuid: Uint8Array; readonly snapshot: Uint8Array;
}): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode('<<< QEMU VM Virtual Disk Image >>>\n'));
  const fields: readonly (readonly [at: number, value: number])[] = [
    [64, signature], [68, version], [72, 0x180], [76, type], [340, headerBytes], [344, dataOffset], [360, sectorSize],
    [376, newBlockSize], [Field.BLOCKS, blocks], [Field.ALLOCATED, type === ImageType.FIXED ? blocks : 0],
  ];
  for (const [at, value] of fields) view.setUint32(at, value, true);
  view.setBigUint64(368, BigInt(size), true);
  bytes.set(uuid, 392);
  bytes.set(snapshot, 408);
  return bytes;
}

/** A UUID as people write it; the first three groups are stored little-endian. */
export function uuidText(uuid: Uint8Array): string {
  const order = [3, 2, 1, 0, -1, 5, 4, -1, 7, 6, -1, 8, 9, -1, 10, 11, 12, 13, 14, 15];
  return order.map((at) => (at < 0 ? '-' : uuid[at]!.toString(16).padStart(2, '0'))).join('');
}

function isNil(uuid: Uint8Array): boolean {
  return uuid.every((byte) => byte === 0);
}

function unsupported(what: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', `unsupported VDI image (${what})`);
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message);
}
