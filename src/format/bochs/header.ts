/** The header of a Bochs redolog, the container of growing, undoable and volatile disks. Little-endian. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const headerSize = 512;
export const sectorSize = 512;
const magic = 'Bochs Virtual HD Image';
const container = 'Redolog';
const readable = 'Growing';
const version1 = 0x10000;
const version2 = 0x20000;
const mostExtents = 1 << 20;
const largestExtent = 8 << 20;

export interface BochsHeader {
  /** Bytes before the catalog. */
  readonly headerSize: number;
  readonly extents: number;
  /** Bytes of an extent's bitmap of sectors. */
  readonly bitmapSize: number;
  /** Bytes of data in an extent. */
  readonly extentSize: number;
  /** Bytes of the disk. */
  readonly size: number;
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  return new TextDecoder('latin1').decode(bytes.subarray(offset, offset + length)).split('\0', 1)[0]!;
}

/** Whether it is a redolog, of whatever kind. */
export function isRedolog(head: Uint8Array): boolean {
  return text(head, 0, 32) === magic && text(head, 32, 16) === container;
}

/** @throws BlockError NOT_THIS_FORMAT | UNSUPPORTED_FEATURE | CORRUPT_IMAGE with the peer's texts */
export function parseHeader(bytes: Uint8Array): BochsHeader {
  if (!isRedolog(bytes)) throw new BlockError('NOT_THIS_FORMAT', 'Image not in Bochs format');
  const view = viewOf(bytes);
  const kind = text(bytes, 48, 16);
  const version = view.getUint32(64, true);
  if (kind !== readable) throw new BlockError('UNSUPPORTED_FEATURE', `Bochs images of type '${kind}' are not supported`);
  if (version !== version1 && version !== version2) {
    throw new BlockError('UNSUPPORTED_FEATURE', `Bochs image version 0x${version.toString(16)} is not supported`);
  }
  const extents = view.getUint32(72, true);
  const extentSize = view.getUint32(80, true);
  const sectors = view.getBigUint64(version === version1 ? 84 : 88, true) / BigInt(sectorSize);
  if (extents > mostExtents) throw invalid('Catalog size is too large');
  if (extentSize < sectorSize) throw invalid('Extent size must be at least 512');
  if (extentSize > largestExtent && Number.isInteger(Math.log2(extentSize))) throw invalid(`Extent size ${extentSize} is too large`);
  if (!Number.isInteger(Math.log2(extentSize))) throw invalid(`Extent size ${extentSize} is not a power of two`);
  if (sectors > BigInt(extents) * BigInt(extentSize / sectorSize)) throw invalid('Catalog size is too small for this disk size');
  return { headerSize: view.getUint32(68, true), extents, bitmapSize: view.getUint32(76, true), extentSize, size: Number(sectors) * sectorSize };
}

function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
