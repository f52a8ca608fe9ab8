/** Driver `vvfat`: a folder of the host as a disk with a FAT file system. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { OptionSchema } from '../../block/options.js';
import { fatGeometry, type FatType } from './geometry.js';
import { VvfatOps } from './ops.js';
import { contentBytes, layOut, scan, type HostEntry } from './tree.js';

export interface VvfatOptions {
  /** The folder. */
  readonly dir?: string;
  /** Width of FAT entries: 12, 16 or 32; 16 by default, 12 on a floppy. */
  readonly 'fat-type'?: number;
  /** A floppy disk, without a partition table. */
  readonly floppy?: boolean;
  /** Volume label of at most 11 characters. */
  readonly label?: string;
  /** What is written goes to the folder with each flush. */
  readonly rw?: boolean;
}

const options: OptionSchema<VvfatOptions> = {
  dir: { type: 'string', help: 'Directory shown as a disk' },
  'fat-type': { type: 'number', help: 'Width of FAT entries: 12, 16 or 32' },
  floppy: { type: 'boolean', help: 'A floppy disk, without a partition table' },
  label: { type: 'string', help: 'Volume label' },
  rw: { type: 'boolean', help: 'Write to the directory' },
};

const defaultLabel = 'QEMU VVFAT';
const filenamePrefix = 'fat:';
const fatClusterBytes = 4096;

/** `fat:[12:|16:|32:][floppy:][rw:]DIR`, the words in any order; the peer passes over others, too, so that DIR has no colon. */
function parseFilename(filename: string): Record<string, unknown> {
  if (!filename.startsWith(filenamePrefix)) throw new BlockError('INVALID_ARGUMENT', `File name string must start with '${filenamePrefix}'`);
  const given = filename.slice(filenamePrefix.length).split(':');
  const dir = given.pop()!;
  const width = given.find((word) => /^(12|16|32)$/.test(word));
  return { 'fat-type': Number(width ?? 0), dir, floppy: given.includes('floppy'), rw: given.includes('rw') };
}

function checkedType(value: number | undefined): FatType | undefined {
  if (value === undefined || value === 0) return undefined;
  if (value === 12 || value === 16 || value === 32) return value;
  throw new BlockError('INVALID_ARGUMENT', 'Valid FAT types are only 12, 16 and 32');
}

function flatten(folder: HostEntry): HostEntry[] {
  return folder.children.flatMap((child) => [child, ...flatten(child)]);
}

export const vvfat: BlockDriver<VvfatOptions> = {
  name: 'vvfat',
  kind: 'protocol',
  options,
  children: {},
  protocolPrefixes: ['fat'],
  parseFilename,
  async open({ options: given, readOnly }) {
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
  },
};
