/** What is to be known of an open disk. */
import type { BlockNode } from '../../block/node.js';
import { AdapterType, SECTOR_SIZE, type DiskType } from './constants.js';
import { adapterTypeOf, diskTypeOf } from './disk-types.js';
import { toSectors } from './sectors.js';

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectors: number;
}

/** VixDiskLibInfo. */
export interface DiskInfo {
  /** Geometry as a BIOS shows it; all zero where the disk does not say. */
  readonly biosGeo: Geometry;
  readonly physGeo: Geometry;
  /** Sectors. */
  readonly capacity: number;
  readonly adapterType: AdapterType;
  /** Disks in the chain, the base included. */
  readonly numLinks: number;
  /** Name of the parent as it stands in the disk; null for a base. */
  readonly parentFileNameHint: string | null;
  /** As text; '' where the disk has none. Since VDDK 6.0. */
  readonly uuid: string;
  /** Bytes. Since VDDK 7.0. */
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  /** How it is stored; beyond VDDK. */
  readonly diskType: DiskType;
}

/** Layers from the one that is written to the base. */
export function* links(top: BlockNode): Generator<BlockNode> {
  for (let node: BlockNode | undefined = top; node !== undefined; node = node.backing) yield node;
}

/** Entries of a layer's disk database; empty where it has none. */
export function databaseOf(node: BlockNode): ReadonlyMap<string, string> {
  return node.facet('diskDatabase')?.entries() ?? new Map();
}

export function createTypeOf(node: BlockNode): string | undefined {
  const name = node.facet('formatInfo')?.specific()?.data['create-type'];
  return typeof name === 'string' ? name : undefined;
}

export function describeDisk(top: BlockNode): DiskInfo {
  const chain = [...links(top)];
  const own = databaseOf(top);
  const base = databaseOf(chain.at(-1)!);
  const entry = (key: string): string | undefined => own.get(key) ?? base.get(key);
  const number = (key: string): number => Number(entry(key) ?? 0) || 0;
  const capacity = toSectors(top.size);
  const adapterType = adapterTypeOf(entry('adapterType'));
  const given = { cylinders: number('geometry.cylinders'), heads: number('geometry.heads'), sectors: number('geometry.sectors') };
  return {
    biosGeo: { cylinders: number('geometry.biosCylinders'), heads: number('geometry.biosHeads'), sectors: number('geometry.biosSectors') },
    physGeo: given.heads > 0 ? given : usualGeometry(capacity, adapterType),
    capacity,
    adapterType,
    numLinks: chain.length,
    parentFileNameHint: top.facet('backing')?.filename ?? null,
    uuid: own.get('uuid') ?? '',
    logicalSectorSize: number('logicalSectorSize') || SECTOR_SIZE,
    physicalSectorSize: number('physicalSectorSize') || SECTOR_SIZE,
    diskType: diskTypeOf(createTypeOf(top), own.get('thinProvisioned') === '1'),
  };
}

/** Geometry that the controllers take a disk for which does not say. */
export function usualGeometry(capacity: number, adapterType: AdapterType): Geometry {
  const scsi = adapterType === AdapterType.SCSI_BUSLOGIC || adapterType === AdapterType.SCSI_LSILOGIC;
  const [heads, sectors, most] = !scsi ? [16, 63, 16383] : capacity < 2 ** 21 ? [64, 32, 65535] : [255, 63, 65535];
  return { cylinders: Math.min(most, Math.floor(capacity / (heads * sectors))), heads, sectors };
}
