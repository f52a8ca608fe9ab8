/** Options of a new image: what there is, and what goes together. */
import { BlockError } from '../../block/errors.js';
import type { Preallocation } from '../../block/driver.js';
import type { CreateSchema, OptionValue } from '../../block/options.js';
import { encryptionCreateOptions, encryptionFormat } from './encryption.js';
import type { CompressionType } from './header.js';

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  ...encryptionCreateOptions,
  'cluster_size': { type: 'size', help: 'qcow2 cluster size', default: 65536 },
  'extended_l2': { type: 'boolean', help: 'Extended L2 tables', default: false },
  'preallocation': { type: 'string', help: 'Preallocation mode (allowed values: off, metadata, falloc, full)' },
  'compression_type': { type: 'string', help: 'Compression method used for image cluster compression', default: 'zlib' },
  'size': { type: 'size', help: 'Virtual disk size' },
  'compat': { type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  'backing_file': { type: 'string', help: 'File name of a base image' },
  'backing_fmt': { type: 'string', help: 'Image format of the base image' },
  'data_file': { type: 'string', help: 'File name of an external data file' },
  'data_file_raw': { type: 'boolean', help: 'The external data file must stay valid as a raw image' },
  'lazy_refcounts': { type: 'boolean', help: 'Postpone refcount updates', default: false },
  'refcount_bits': { type: 'number', help: 'Width of a reference count entry in bits', default: 16 },
};

export type OptionValues = Readonly<Record<string, OptionValue>>;

/** A new image's properties, checked. */
export interface NewImage {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly extendedL2: boolean;
  readonly refcountOrder: number;
  readonly preallocation: Preallocation;
  readonly compression: CompressionType;
  readonly lazyRefcounts: boolean;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
  readonly dataFile: string | undefined;
  readonly dataFileRaw: boolean;
}

const preallocations = ['off', 'metadata', 'falloc', 'full'] as const;

function text(value: OptionValue): string | undefined {
  return value === undefined || value === null ? undefined : String(value);
}

function oneOf<T extends string>(value: string | undefined, allowed: readonly T[], fallback: T, refuse: (value: string) => BlockError): T {
  if (value === undefined) return fallback;
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) throw refuse(value);
  return found;
}

/** The version that a compat option names; undefined where there is no such. */
export function versionOfCompat(compat: string | undefined): 2 | 3 | undefined {
  if (compat === undefined || compat === '1.1' || compat === 'v3') return 3;
  return compat === '0.10' || compat === 'v2' ? 2 : undefined;
}

/** Checks cluster_size; returns its logarithm. */
export function clusterBitsOption(value: OptionValue, extendedL2: boolean): number {
  const size = value === undefined ? 65536 : Number(value);
  const bits = Math.log2(size);
  if (!Number.isInteger(bits) || bits < 9 || bits > 21) throw bad('Cluster size must be a power of two between 512 and 2048k');
  if (extendedL2 && bits < 14) throw bad('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes');
  return bits;
}

/** Checks refcount_bits; returns its logarithm. */
export function refcountOrderOption(value: OptionValue): number {
  const order = Math.log2(value === undefined ? 16 : Number(value));
  if (!Number.isInteger(order) || order < 0 || order > 6) throw bad('Refcount width must be a power of two and may not exceed 64 bits');
  return order;
}

/** Checks options as creation does. @throws BlockError with the peer's text */
export function parseCreateOptions(options: OptionValues): NewImage {
  encryptionFormat(options);
  const notAccepted = (name: string) => (value: string): BlockError => bad(`Parameter '${name}' does not accept value '${value}'`);
  const preallocation = oneOf(text(options['preallocation']), preallocations, 'off', notAccepted('preallocation'));
  const compression = oneOf(text(options['compression_type']), ['zlib', 'zstd'], 'zlib', notAccepted('compression-type'));
  const compat = text(options['compat']);
  const version = versionOfCompat(compat);
  if (version === undefined) throw notAccepted('version')(compat ?? '');
  const extendedL2 = options['extended_l2'] === true;
  const lazyRefcounts = options['lazy_refcounts'] === true;
  const backingFile = text(options['backing_file']);
  const dataFile = text(options['data_file']);
  const dataFileRaw = options['data_file_raw'] === true;
  const needsV3 = (thing: string): BlockError => bad(`${thing} only supported with compatibility level 1.1 and above (use version=v3 or greater)`);

  if (extendedL2 && version < 3) throw needsV3('Extended L2 entries are');
  const clusterBits = clusterBitsOption(options['cluster_size'], extendedL2);
  if (preallocation !== 'off' && backingFile !== undefined && !extendedL2) {
    throw bad('Backing file and preallocation can only be used at the same time if extended_l2 is on');
  }
  if (backingFile === undefined && options['backing_fmt'] !== undefined) throw bad('Backing format cannot be used without backing file');
  if (lazyRefcounts && version < 3) throw needsV3('Lazy refcounts');
  const refcountOrder = refcountOrderOption(options['refcount_bits']);
  if (refcountOrder !== 4 && version < 3) {
    throw bad('Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)');
  }
  if (dataFileRaw && dataFile === undefined) throw bad('data-file-raw requires data-file');
  if (dataFileRaw && backingFile !== undefined) throw bad('Backing file and data-file-raw cannot be used at the same time');
  if (dataFile !== undefined && version < 3) throw needsV3('External data files are');
  if (compression !== 'zlib' && version < 3) throw needsV3('Non-zlib compression type is');
  return {
    version, clusterBits, extendedL2, refcountOrder, preallocation, compression, lazyRefcounts, backingFile,
    backingFormat: text(options['backing_fmt']), dataFile, dataFileRaw,
  };
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
