/** The 64 bytes an image begins with. Little-endian. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const headerSize = 64;
const version = 2;
/** Marks an image that a writer has open, or did not close. */
export const inUseMark = 0x746f_6e59;
export const sectorSize = 512;

const oldMagic = 'WithoutFreeSpace';
const newMagic = 'WithouFreSpacExt';
export const maxClusterSectors = Math.floor(0x7fff_ffff / 513);
/** Longest table that is read. */
export const maxTableEntries = Math.floor(0x7fff_ffff / 4);

export interface ParallelsHeader {
  /** Table entries count clusters (the newer magic) rather than sectors. */
  readonly countsClusters: boolean;
  readonly heads: number;
  readonly cylinders: number;
  readonly clusterSectors: number;
  readonly tableEntries: number;
  /** Sectors of the disk. */
  readonly sectors: number;
  readonly inUse: number;
  /** Sector where data begins, as the image says; 0 in old images. */
  readonly dataOffset: number;
  readonly flags: number;
  /** Sector of the format extension; 0: there is none. */
  readonly extensionOffset: number;
}

function magicOf(bytes: Uint8Array): string {
  return new TextDecoder('latin1').decode(bytes.subarray(0, 16));
}

function hasMagic(head: Uint8Array): boolean {
  const magic = magicOf(head);
  return (magic === oldMagic || magic === newMagic) && head.length >= 20 && viewOf(head).getUint32(16, true) === version;
}

export function probeHeader(head: Uint8Array): boolean {
  return hasMagic(head);
}

/** @throws BlockError NOT_THIS_FORMAT | CORRUPT_IMAGE with the peer's texts */
export function parseHeader(bytes: Uint8Array): ParallelsHeader {
  if (!hasMagic(bytes)) throw new BlockError('NOT_THIS_FORMAT', 'Image not in Parallels format');
  const view = viewOf(bytes);
  const countsClusters = magicOf(bytes) === newMagic;
  const sectors = countsClusters ? view.getBigUint64(36, true) : BigInt(view.getUint32(36, true));
  const clusterSectors = view.getUint32(28, true);
  const tableEntries = view.getUint32(32, true);
  const extension = view.getBigUint64(56, true);
  if (clusterSectors === 0) throw broken('Invalid image: Zero sectors per track');
  if (clusterSectors > maxClusterSectors) throw broken('Invalid image: Too big cluster');
  if (tableEntries > maxTableEntries) throw broken('Catalog too large');
  if (extension > BigInt(Math.floor(Number.MAX_SAFE_INTEGER / sectorSize))) throw broken('Invalid image: Too big offset');
  if (sectors > BigInt(Math.floor(Number.MAX_SAFE_INTEGER / sectorSize))) {
    throw new BlockError('CORRUPT_IMAGE', 'Could not refresh total sector count: File too large', { errno: Errno.EFBIG });
  }
  return {
    countsClusters, clusterSectors, tableEntries, sectors: Number(sectors), extensionOffset: Number(extension),
    heads: view.getUint32(20, true), cylinders: view.getUint32(24, true), inUse: view.getUint32(44, true),
    dataOffset: view.getUint32(48, true), flags: view.getUint32(52, true),
  };
}

export function serialiseHeader(header: ParallelsHeader): Uint8Array {
  const bytes = new Uint8Array(headerSize);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(header.countsClusters ? newMagic : oldMagic));
  view.setUint32(16, version, true);
  view.setUint32(20, header.heads, true);
  view.setUint32(24, header.cylinders, true);
  view.setUint32(28, header.clusterSectors, true);
  view.setUint32(32, header.tableEntries, true);
  view.setBigUint64(36, BigInt(header.sectors), true);
  view.setUint32(44, header.inUse, true);
  view.setUint32(48, header.dataOffset, true);
  view.setUint32(52, header.flags, true);
  view.setBigUint64(56, BigInt(header.extensionOffset), true);
  return bytes;
}

/** First sector behind the table. */
export function tableEnd(header: Pick<ParallelsHeader, 'tableEntries'>): number {
  return Math.ceil((headerSize + header.tableEntries * 4) / sectorSize);
}

/**
 * Sector where data begins, and whether the header says so, too: behind the table, on a cluster's boundary where entries count
 * clusters, and not past the file's end. Old images may leave it out.
 */
export function dataStart(header: ParallelsHeader, fileSize: number): { readonly sector: number; readonly stated: boolean } {
  const { countsClusters, clusterSectors, dataOffset } = header;
  const end = tableEnd(header);
  const sector = countsClusters ? Math.ceil(end / clusterSectors) * clusterSectors : end;
  if (dataOffset === 0 && !countsClusters) return { sector, stated: true };
  const plausible = dataOffset >= end && (!countsClusters || dataOffset % clusterSectors === 0) && dataOffset * sectorSize <= fileSize;
  return plausible ? { sector: dataOffset, stated: true } : { sector, stated: false };
}

function broken(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
