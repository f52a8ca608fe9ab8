/** Hosted and COWD extents as their headers describe them. */
import type { BlockChild } from '../../block/child.js';
import type { GrainExtentInit } from './grain-extent.js';
import { sectorShape } from './grain-tables.js';
import { corrupt, cowdHeaderSectors, cowdTableEntries, Flag, sectorSize, type CowdHeader, type SparseHeader } from './header.js';
import { SparseExtent } from './sparse.js';

/** What streams and others have in common. */
export function hostedInit(file: BlockChild, header: SparseHeader, type: string): GrainExtentInit & { readonly knowsZeroes: boolean } {
  return {
    file, type, compressed: (header.flags & Flag.COMPRESSED) !== 0, knowsZeroes: (header.flags & Flag.ZEROED_GRAIN) !== 0,
    size: header.capacity * sectorSize, grainSize: header.grain * sectorSize, tableEntries: header.tableEntries,
    markers: (header.flags & Flag.MARKERS) !== 0, dataStart: header.overhead * sectorSize,
  };
}

/** Bytes. */
export function directoryLength({ capacity, grain, tableEntries }: SparseHeader): number {
  return Math.ceil(capacity / (grain * tableEntries)) * 4;
}

/** @param header has a directory @throws BlockError CORRUPT_IMAGE where the file is too short for it */
export function hostedExtent(file: BlockChild, header: SparseHeader & { readonly directory: number }, type: string): SparseExtent {
  const init = hostedInit(file, header, type);
  const length = directoryLength(header);
  const needed = Math.max(init.dataStart, header.directory * sectorSize + length);
  if (file.size < init.dataStart) throw corrupt(`File truncated, expecting at least ${init.dataStart} bytes`);
  if (file.size < needed) throw corrupt(`File truncated, expecting at least ${needed} bytes`);
  const redundant = (header.flags & Flag.REDUNDANT) !== 0 && header.redundantDirectory !== 0
    && header.redundantDirectory * sectorSize + length <= file.size;
  return new SparseExtent({
    ...init, kind: 'hosted',
    shape: sectorShape({
      directory: header.directory * sectorSize, tableEntries: header.tableEntries, tableCount: length / 4,
      ...(redundant && { redundant: header.redundantDirectory * sectorSize }),
    }, init.knowsZeroes),
  });
}

/** @throws BlockError CORRUPT_IMAGE where the file is too short for its directory */
export function cowdExtent(file: BlockChild, header: CowdHeader, type: string): SparseExtent {
  const end = header.directory * sectorSize + header.directoryEntries * 4;
  if (file.size < end) throw corrupt(`File truncated, expecting at least ${end} bytes`);
  return new SparseExtent({
    file, type, compressed: false, knowsZeroes: false, markers: false, kind: 'cowd',
    size: header.capacity * sectorSize, grainSize: header.grain * sectorSize, tableEntries: cowdTableEntries,
    dataStart: cowdHeaderSectors * sectorSize, free: Math.max(header.freeSector * sectorSize, end),
    shape: sectorShape({ directory: header.directory * sectorSize, tableEntries: cowdTableEntries, tableCount: header.directoryEntries }, false),
  });
}
