/** Options of the `vvfat` driver and the file names that stand for them. */
import { BlockError } from '../../block/errors.js';
import type { OptionSchema } from '../../block/options.js';

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

export const vvfatOptions: OptionSchema<VvfatOptions> = {
  dir: { type: 'string', help: 'Directory shown as a disk' },
  'fat-type': { type: 'number', help: 'Width of FAT entries: 12, 16 or 32' },
  floppy: { type: 'boolean', help: 'A floppy disk, without a partition table' },
  label: { type: 'string', help: 'Volume label' },
  rw: { type: 'boolean', help: 'Write to the directory' },
};

const filenamePrefix = 'fat:';

/** `fat:[12:|16:|32:][floppy:][rw:]DIR`, the words in any order; the peer passes over others, too, so that DIR has no colon. */
export function parseVvfatFilename(filename: string): Record<string, unknown> {
  if (!filename.startsWith(filenamePrefix)) throw new BlockError('INVALID_ARGUMENT', `File name string must start with '${filenamePrefix}'`);
  const given = filename.slice(filenamePrefix.length).split(':');
  const dir = given.pop()!;
  const width = given.find((word) => /^(12|16|32)$/.test(word));
  return { 'fat-type': Number(width ?? 0), dir, floppy: given.includes('floppy'), rw: given.includes('rw') };
}
