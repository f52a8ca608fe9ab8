/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { headerSize, maxClusterSectors, sectorSize, serialiseHeader, tableEnd } from './header.js';

const defaultClusterSize = 1 << 20;
const heads = 16;
const sectorsPerTrack = 32;

export const createOptions: CreateSchema = {
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: { type: 'size', help: 'Parallels image cluster size', default: defaultClusterSize },
};

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export async function createParallels(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }): Promise<void> {
  const clusterSectors = Math.ceil(Number(options['cluster_size'] ?? defaultClusterSize) / sectorSize);
  const sectors = Math.ceil(options.size / sectorSize);
  if (clusterSectors > maxClusterSectors) throw tooLarge('Cluster size is too large');
  const tableEntries = Math.ceil(sectors / clusterSectors);
  if (clusterSectors === 0 || tableEntries >= 2 ** 29 - 1) throw tooLarge('Image size is too large for this cluster size');
  const dataOffset = Math.ceil(tableEnd({ tableEntries }) / clusterSectors) * clusterSectors;
  const header = serialiseHeader({
    countsClusters: true, heads, cylinders: Math.min(Math.floor(sectors / heads / sectorsPerTrack), 0xffff_ffff), clusterSectors,
    tableEntries, sectors, inUse: 0, dataOffset, flags: 0, extensionOffset: 0,
  });
  const first = new Uint8Array(sectorSize);
  first.set(header.subarray(0, headerSize));
  await target.resize(dataOffset * sectorSize, { exact: false });
  await target.write(0, first);
  await target.writeZeroes(sectorSize, dataOffset * sectorSize - sectorSize);
}

function tooLarge(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
