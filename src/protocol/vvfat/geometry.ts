/** Where the parts of a FAT disk lie. Everything is counted in sectors of 512 bytes. */
export const sectorSize = 512;

export type FatType = 12 | 16 | 32;

export interface FatGeometry {
  readonly fatType: FatType;
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
  /** Sectors before the volume: a partition table and its track; 0 on a floppy. */
  readonly volumeStart: number;
  readonly volumeSectors: number;
  readonly sectorsPerCluster: number;
  readonly reservedSectors: number;
  readonly sectorsPerFat: number;
  /** Room of the root directory where it has a place of its own (FAT12, FAT16); else 0. */
  readonly rootSectors: number;
  /** First sector of cluster 2, counted from the volume's start. */
  readonly dataStart: number;
  /** Clusters 2 to clusterCount + 1 exist. */
  readonly clusterCount: number;
}

export const fatCopies = 2;
/** End of a chain; what the first two entries of a FAT hold. */
export const endOfChain: Readonly<Record<FatType, number>> = { 12: 0xfff, 16: 0xffff, 32: 0x0fff_ffff };

const rootSectors = 32;

/**
 * The shapes of QEMU: a disk of 504 MiB (31.5 MiB with FAT12), a floppy of 2.88 MB (1.44 MB where FAT12 was asked for). With FAT32,
 * whose fields theirs get wrong, a disk is as large as `contentBytes` need.
 */
export function fatGeometry(asked: FatType | undefined, floppy: boolean, contentBytes: number): FatGeometry {
  const fatType = asked ?? (floppy ? 12 : 16);
  if (floppy) return volume(fatType, { cylinders: 80, heads: 2, sectorsPerTrack: asked === 12 ? 18 : 36 }, 0);
  const cylinder = 16 * 63;
  let cylinders = fatType === 12 ? 64 : 1024;
  if (fatType === 32) cylinders = Math.max(cylinders, Math.ceil((contentBytes * 1.01) / sectorSize / cylinder) + 256);
  return volume(fatType, { cylinders, heads: 16, sectorsPerTrack: 63 }, 63);
}

function volume(fatType: FatType, shape: { cylinders: number; heads: number; sectorsPerTrack: number }, volumeStart: number): FatGeometry {
  const volumeSectors = shape.cylinders * shape.heads * shape.sectorsPerTrack - volumeStart;
  const large = fatType === 32;
  const sectorsPerCluster = large ? 8 : 16;
  const reservedSectors = large ? 32 : 1;
  const entriesPerSector = Math.floor((sectorSize * 8) / fatType);
  const sectorsPerFat = 1 + Math.floor(Math.floor(volumeSectors / sectorsPerCluster) / entriesPerSector);
  const root = large ? 0 : rootSectors;
  const dataStart = reservedSectors + fatCopies * sectorsPerFat + root;
  const clusterCount = Math.floor((volumeSectors - dataStart) / sectorsPerCluster);
  return { fatType, ...shape, volumeStart, volumeSectors, sectorsPerCluster, reservedSectors, sectorsPerFat, rootSectors: root, dataStart, clusterCount };
}

/** What lies before the volume's FAT: partition table, boot sector and, for FAT32, their helpers. */
export function headSector(geometry: FatGeometry, sector: number, label: string, freeFrom: number): Uint8Array {
  const { volumeStart, fatType } = geometry;
  if (sector < volumeStart) return sector === 0 ? partitionTable(geometry) : new Uint8Array(sectorSize);
  switch (fatType === 32 ? (sector - volumeStart) % 6 : sector - volumeStart) {
    case 0: return sector - volumeStart <= 6 ? bootSector(geometry, label) : new Uint8Array(sectorSize);
    case 1: return sector - volumeStart <= 7 ? freeSpaceSector(geometry, freeFrom) : new Uint8Array(sectorSize);
    default: return new Uint8Array(sectorSize);
  }
}

function sectorView(): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(sectorSize);
  const view = new DataView(bytes.buffer);
  view.setUint16(510, 0xaa55, true);
  return { bytes, view };
}

function partitionTable({ fatType, cylinders, heads, sectorsPerTrack, volumeStart, volumeSectors }: FatGeometry): Uint8Array {
  const { bytes, view } = sectorView();
  view.setUint32(0x1b8, 0xbe1a_fdfa, true);
  const beyondChs = cylinders > 1024;
  const lastCylinder = Math.min(cylinders, 1024) - 1;
  const type = fatType === 12 ? 0x01 : fatType === 16 ? 0x06 : beyondChs ? 0x0c : 0x0b;
  bytes.set([0x80, 1, 1, 0, type, heads - 1, sectorsPerTrack | ((lastCylinder >> 2) & 0xc0), lastCylinder & 0xff], 0x1be);
  view.setUint32(0x1c6, volumeStart, true);
  view.setUint32(0x1ca, volumeSectors, true);
  return bytes;
}

function bootSector(geometry: FatGeometry, label: string): Uint8Array {
  const { fatType, volumeStart, volumeSectors } = geometry;
  const { bytes, view } = sectorView();
  const large = fatType === 32;
  const floppy = volumeStart === 0;
  bytes.set([0xeb, large ? 0x58 : 0x3e, 0x90]);
  putText(bytes, 3, 'MSWIN4.1', 8);
  view.setUint16(11, sectorSize, true);
  bytes[13] = geometry.sectorsPerCluster;
  view.setUint16(14, geometry.reservedSectors, true);
  bytes[16] = fatCopies;
  view.setUint16(17, (geometry.rootSectors * sectorSize) / 32, true);
  if (!large && volumeSectors < 0x1_0000) view.setUint16(19, volumeSectors, true);
  else view.setUint32(32, volumeSectors, true);
  bytes[21] = mediaByte(geometry);
  if (!large) view.setUint16(22, geometry.sectorsPerFat, true);
  view.setUint16(24, geometry.sectorsPerTrack, true);
  view.setUint16(26, geometry.heads, true);
  view.setUint32(28, volumeStart, true);
  if (large) {
    view.setUint32(36, geometry.sectorsPerFat, true);
    view.setUint32(44, 2, true); // the root directory's first cluster
    view.setUint16(48, 1, true); // the free space sector
    view.setUint16(50, 6, true); // copies of both
  }
  const tail = large ? 64 : 36;
  bytes[tail] = floppy ? 0 : 0x80;
  bytes[tail + 2] = 0x29;
  view.setUint32(tail + 3, 0xfabe_1afd, true);
  putText(bytes, tail + 7, label, 11);
  putText(bytes, tail + 18, `FAT${fatType}`, 8);
  return bytes;
}

function freeSpaceSector({ clusterCount }: FatGeometry, freeFrom: number): Uint8Array {
  const { bytes, view } = sectorView();
  view.setUint32(0, 0x4161_5252, true);
  view.setUint32(484, 0x6141_7272, true);
  view.setUint32(488, clusterCount + 2 - freeFrom, true);
  view.setUint32(492, freeFrom, true);
  return bytes;
}

export function mediaByte({ volumeStart }: FatGeometry): number {
  return volumeStart === 0 ? 0xf0 : 0xf8;
}

/** ASCII, padded with blanks. */
export function putText(bytes: Uint8Array, at: number, text: string, length: number): void {
  for (let i = 0; i < length; i++) bytes[at + i] = i < text.length ? text.charCodeAt(i) & 0xff : 0x20;
}
