/** Sizes in cylinders, heads and sectors, as the VHD specification's appendix has it. */

export const sectorSize = 512;
/** Largest disk: 2040 GiB. */
export const maxSectors = 0xff00_0000;

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

/** The geometry of disks too large for any, and of those whose size is not to be taken from it. */
export const largestGeometry: Geometry = { cylinders: 65_535, heads: 16, sectorsPerTrack: 255 };
export const noGeometry: Geometry = { cylinders: 0, heads: 0, sectorsPerTrack: 0 };

/** Sectors that a geometry can address. */
export function addressableSectors({ cylinders, heads, sectorsPerTrack }: Geometry): number {
  return cylinders * heads * sectorsPerTrack;
}

const largestAddressable = addressableSectors(largestGeometry);

export function isLargest(geometry: Geometry): boolean {
  return addressableSectors(geometry) === largestAddressable;
}

/** The geometry for a disk; it addresses all of its sectors or somewhat fewer. */
export function geometryOf(sectors: number): Geometry {
  const total = Math.min(sectors, largestAddressable);
  if (total >= 65_535 * 16 * 63) return cut(total, 16, 255);
  let tracks = Math.floor(total / 17);
  const heads = Math.max(4, Math.ceil(tracks / 1024));
  if (heads <= 16 && tracks < heads * 1024) return cut(total, heads, 17);
  tracks = Math.floor(total / 31);
  return tracks < 16 * 1024 ? cut(total, 16, 31) : cut(total, 16, 63);
}

function cut(total: number, heads: number, sectorsPerTrack: number): Geometry {
  return { cylinders: Math.floor(Math.floor(total / sectorsPerTrack) / heads), heads, sectorsPerTrack };
}

/** The smallest geometry, in the order of disk sizes, that addresses all sectors of a disk; the largest of all where none does. */
export function roomyGeometry(sectors: number): Geometry {
  if (sectors === 0) return noGeometry;
  for (let total = sectors; ; total++) {
    const geometry = geometryOf(total);
    if (addressableSectors(geometry) >= sectors || isLargest(geometry)) return geometry;
  }
}
