/** Reading a folder and laying it out as a disk. */
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { fatGeometry, type FatType } from './geometry.js';
import { VvfatOps } from './ops.js';
import type { VvfatOptions } from './options.js';
import { contentBytes, layOut, scan, type HostEntry } from './tree.js';

const defaultLabel = 'QEMU VVFAT';
const fatClusterBytes = 4096;

/** @throws BlockError with the peer's texts */
export async function openVvfat({ options: given, readOnly }: OpenContext<VvfatOptions>): Promise<BlockOps> {
  const { dir, floppy = false, label = defaultLabel, rw = false } = given;
  if (dir === undefined) throw new BlockError('INVALID_ARGUMENT', "vvfat block driver requires a 'dir' option");
  const fatType = checkedType(given['fat-type']);
  if (label.length > 11) throw new BlockError('INVALID_ARGUMENT', 'vvfat label cannot be longer than 11 bytes');
  if (rw && readOnly) throw new BlockError('PERMISSION', "Unable to set VVFAT to 'rw' when drive is read-only");
  if (!rw && !readOnly) throw new BlockError('PERMISSION', 'Image is read-only');
  const tree = await scan(dir);
  const geometry = fatGeometry(fatType, floppy, contentBytes(tree, fatClusterBytes));
  const laidOut = layOut(tree, geometry, label);
  return new VvfatOps({ dir, geometry, label, ...laidOut, known: flatten(tree) }, rw);
}

function checkedType(value: number | undefined): FatType | undefined {
  if (value === undefined || value === 0) return undefined;
  if (value === 12 || value === 16 || value === 32) return value;
  throw new BlockError('INVALID_ARGUMENT', 'Valid FAT types are only 12, 16 and 32');
}

function flatten(folder: HostEntry): HostEntry[] {
  return folder.children.flatMap((child) => [child, ...flatten(child)]);
}
