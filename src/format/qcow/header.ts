/** The header of a qcow image, version 1. Bytes only. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const headerBytes = 48;
export const maxBackingName = 1023;
const magic = 0x514649fb;
const clusterBitsLimits = [9, 16] as const;
const tableBitsLimits = [6, 13] as const;
const maxDirectoryEntries = Math.floor(0x7fff_ffff / 8);

export const Crypt = { NONE: 0, AES: 1 } as const;

export interface QcowHeader {
  readonly clusterBits: number;
  /** Logarithm of the entries of an L2 table. */
  readonly tableBits: number;
  readonly crypt: number;
  readonly size: number;
  readonly l1Offset: number;
  readonly backingFile: string | undefined;
}

export function probeQcow(head: Uint8Array): number {
  if (head.length < headerBytes) return 0;
  const view = viewOf(head);
  return view.getUint32(0) === magic && view.getUint32(4) === 1 ? 100 : 0;
}

/** Entries of the L1 table. @throws BlockError where the disk is too large for the format */
export function directoryEntries({ size, clusterBits, tableBits }: Pick<QcowHeader, 'size' | 'clusterBits' | 'tableBits'>): number {
  const entries = Math.ceil(size / 2 ** (clusterBits + tableBits));
  if (entries > maxDirectoryEntries) throw new BlockError('INVALID_ARGUMENT', 'Image too large', { errno: Errno.EINVAL });
  return entries;
}

/**
 * The header, and where the backing file's name lies.
 * @param head the first {@link headerBytes} of the file
 * @throws BlockError NOT_THIS_FORMAT, UNSUPPORTED_FEATURE or CORRUPT_IMAGE with the peer's text
 */
export function parseHeader(head: Uint8Array): { header: QcowHeader; name: { offset: number; length: number } | undefined } {
  const view = viewOf(head);
  if (view.getUint32(0) !== magic) throw new BlockError('NOT_THIS_FORMAT', 'Image not in qcow format');
  if (view.getUint32(4) !== 1) {
    throw new BlockError('UNSUPPORTED_FEATURE', `qcow (v1) does not support qcow version ${view.getUint32(4)}`, {
      ...((view.getUint32(4) === 2 || view.getUint32(4) === 3) && { hint: "Try the 'qcow2' driver instead." }),
    });
  }
  const size = view.getBigUint64(24);
  const [clusterBits, tableBits, crypt] = [head[32]!, head[33]!, view.getUint32(36)];
  if (size <= 1n) throw corrupt('Image size is too small (must be at least 2 bytes)');
  if (clusterBits < clusterBitsLimits[0] || clusterBits > clusterBitsLimits[1]) throw corrupt('Cluster size must be between 512 and 64k');
  if (tableBits < tableBitsLimits[0] || tableBits > tableBitsLimits[1]) throw corrupt('L2 table size must be between 512 and 64k');
  if (crypt > Crypt.AES) throw corrupt('invalid encryption method in qcow header');
  if (size > Number.MAX_SAFE_INTEGER - 2 ** 32) throw corrupt('Image too large');
  // a part of a sector behind the last one is not shown
  const header = { clusterBits, tableBits, crypt, size: Number(size - size % 512n), l1Offset: Number(view.getBigUint64(40)), backingFile: undefined };
  const l1End = header.l1Offset + directoryEntries(header) * 8;
  if (header.l1Offset < headerBytes || !Number.isSafeInteger(l1End)) throw corrupt(strerror(Errno.EIO));
  const name = { offset: Number(view.getBigUint64(8)), length: view.getUint32(16) };
  if (name.offset === 0) return { header, name: undefined };
  if (name.length > maxBackingName || !Number.isSafeInteger(name.offset)) throw corrupt('Backing file name too long');
  return { header, name };
}

/** The header, and the backing file's name right behind it. */
export function serialiseHeader(header: QcowHeader): Uint8Array {
  const name = new TextEncoder().encode(header.backingFile ?? '');
  const bytes = new Uint8Array(headerBytes + name.length);
  const view = viewOf(bytes);
  view.setUint32(0, magic);
  view.setUint32(4, 1);
  if (header.backingFile !== undefined) {
    view.setBigUint64(8, BigInt(headerBytes));
    view.setUint32(16, name.length);
    bytes.set(name, headerBytes);
  }
  view.setBigUint64(24, BigInt(header.size));
  bytes[32] = header.clusterBits;
  bytes[33] = header.tableBits;
  view.setUint32(36, header.crypt);
  view.setBigUint64(40, BigInt(header.l1Offset));
  return bytes;
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message);
}
