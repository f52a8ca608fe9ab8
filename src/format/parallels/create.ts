/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { headerSize, maxClusterSectors, maxTableEntries, sectorSize, serialiseHeader, tableEnd } from './header.js';
import { defaultClusterSize } from './options.js';

const heads = 16;
const sectorsPerTrack = 32;

export type OptionValues = Readonly<Record<string, OptionValue>> & { readonly size?: number };

/** A new image: sectors, and where things lie. */
export interface Layout {
  readonly sectors: number;
  readonly clusterSectors: number;
  readonly tableEntries: number;
  /** Sector where data begins. */
  readonly dataOffset: number;
}

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export function layOut(size: number, options: OptionValues): Layout {
  const clusterSectors = Math.ceil(Number(options['cluster_size'] ?? defaultClusterSize) / sectorSize);
  const sectors = Math.ceil(size / sectorSize);
  if (clusterSectors > maxClusterSectors) throw tooLarge('Cluster size is too large');
  const tableEntries = Math.ceil(sectors / clusterSectors);
  if (clusterSectors === 0 || tableEntries > maxTableEntries) throw tooLarge('Image size is too large for this cluster size');
  return { sectors, clusterSectors, tableEntries, dataOffset: Math.ceil(tableEnd({ tableEntries }) / clusterSectors) * clusterSectors };
}

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export async function createParallels(target: BlockBackend, options: OptionValues & { readonly size: number }): Promise<void> {
  const layout = layOut(options.size, options);
  const { sectors, dataOffset } = layout;
  const header = serialiseHeader({
    ...layout, countsClusters: true, heads, cylinders: cylindersOf(sectors), inUse: 0, flags: 0, extensionOffset: 0,
  });
  const first = new Uint8Array(sectorSize);
  first.set(header.subarray(0, headerSize));
  await target.resize(dataOffset * sectorSize, { exact: false });
  await target.write(0, first);
  await target.writeZeroes(sectorSize, dataOffset * sectorSize - sectorSize);
}

/** As the header states them for so many sectors. */
export function cylindersOf(sectors: number): number {
  return Math.min(Math.floor(sectors / heads / sectorsPerTrack), 0xffff_ffff);
}

function tooLarge(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
