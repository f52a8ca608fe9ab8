/** Options of a new image. */
import { BlockError } from '../../block/errors.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { clusterSizeLimits, isPowerOfTwo, largestImage, tableSizeLimits } from './header.js';

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  'size': { type: 'size', help: 'Virtual disk size' },
  'backing_file': { type: 'string', help: 'File name of a base image' },
  'backing_fmt': { type: 'string', help: 'Image format of the base image' },
  'cluster_size': { type: 'size', help: 'Cluster size (in bytes)', default: 65536 },
  'table_size': { type: 'size', help: 'L1/L2 table size (in clusters)' },
};

/** A new image's properties, checked. */
export interface NewImage {
  readonly size: number;
  readonly clusterSize: number;
  readonly tableSize: number;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
}

/** @throws BlockError with the peer's text */
export function parseCreateOptions(options: Readonly<Record<string, OptionValue>> & { readonly size: number }): NewImage {
  const size = Math.ceil(options.size / 512) * 512;
  const clusterSize = Number(options['cluster_size'] ?? 65536);
  const tableSize = Number(options['table_size'] ?? 4);
  const [smallest, largest] = clusterSizeLimits;
  if (!isPowerOfTwo(clusterSize) || clusterSize < smallest || clusterSize > largest) {
    throw bad(`QED cluster size must be within range [${smallest}, ${largest}] and power of 2`);
  }
  const [fewest, most] = tableSizeLimits;
  if (!isPowerOfTwo(tableSize) || tableSize < fewest || tableSize > most) {
    throw bad(`QED table size must be within range [${fewest}, ${most}] and power of 2`);
  }
  const limit = largestImage(clusterSize, tableSize);
  if (BigInt(size) > limit) throw bad(`QED image size must be a non-zero multiple of cluster size and less than ${limit} bytes`);
  const backingFile = text(options['backing_file']);
  return { size, clusterSize, tableSize, backingFile, backingFormat: text(options['backing_fmt']) };
}

function text(value: OptionValue): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
