/** Options of opening an image, and what they come to. */
import { BlockError, Errno } from '../../block/errors.js';
import { coerceOption, type OptionSchema, type OptionValue } from '../../block/options.js';
import type { Qcow2Header } from './header.js';
import type { ImageSettings } from './image.js';
import { overlapTemplates, structureOptions } from './overlap.js';

/** Options of opening, under their QAPI names. Sizes in bytes. */
export interface Qcow2OpenOptions {
  readonly 'lazy-refcounts'?: boolean;
  readonly 'pass-discard-request'?: boolean;
  readonly 'pass-discard-snapshot'?: boolean;
  readonly 'pass-discard-other'?: boolean;
  readonly 'discard-no-unref'?: boolean;
  /** The name of a template, or which structures to guard: {template, 'active-l2': true, …}. */
  readonly 'overlap-check'?: OptionValue;
  /** Given beside a plain overlap-check it must agree. */
  readonly 'overlap-check.template'?: string;
  readonly 'cache-size'?: number;
  readonly 'l2-cache-size'?: number;
  readonly 'l2-cache-entry-size'?: number;
  readonly 'refcount-cache-size'?: number;
  /** Seconds. */
  readonly 'cache-clean-interval'?: number;
  /** {format, 'key-secret'}. */
  readonly encrypt?: OptionValue;
}

export const openOptions: OptionSchema<Qcow2OpenOptions> = {
  'lazy-refcounts': { type: 'boolean', strong: false, mutable: true, help: 'Postpone refcount updates' },
  'pass-discard-request': { type: 'boolean', strong: false, mutable: true, help: 'Pass guest discard requests to the layer below' },
  'pass-discard-snapshot': { type: 'boolean', strong: false, mutable: true, help: 'Generate discard requests when snapshot related space is freed' },
  'pass-discard-other': { type: 'boolean', strong: false, mutable: true, help: 'Generate discard requests when other clusters are freed' },
  'discard-no-unref': { type: 'boolean', strong: false, mutable: true, help: 'Do not unreference discarded clusters' },
  'overlap-check': { type: 'any', strong: false, mutable: true, help: 'Structures that no write may hit: none, constant, cached, all, or chosen one by one' },
  'overlap-check.template': { type: 'string', strong: false, mutable: true },
  'cache-size': { type: 'size', strong: false, mutable: true, help: 'Maximum combined metadata (L2 tables and refcount blocks) cache size' },
  'l2-cache-size': { type: 'size', strong: false, mutable: true, help: 'Maximum L2 table cache size' },
  'l2-cache-entry-size': { type: 'size', strong: false, mutable: true, help: 'Size of each entry in the L2 cache' },
  'refcount-cache-size': { type: 'size', strong: false, mutable: true, help: 'Maximum refcount block cache size' },
  'cache-clean-interval': { type: 'number', strong: false, mutable: true, help: 'Clean unused cache entries after this time (in seconds)' },
  'encrypt': { type: 'object', help: 'Image decryption options' },
};

/** Maps 128 GiB at the usual cluster size. Half of the peer's, since a process has less than 100 MiB and Node takes half of that. */
export const largestDefaultL2Cache = 16 * 1024 * 1024;
const fewestL2Slices = 2;
const fewestRefcountBlocks = 4;
const maxTables = 0x7fff_ffff;

/** Seconds after which unused tables are dropped; 0: never. */
export function cleanInterval(options: Qcow2OpenOptions): number {
  const seconds = options['cache-clean-interval'] ?? 600;
  if (seconds < 0 || seconds > 0xffff_ffff) throw bad('Cache clean interval too big');
  return seconds;
}

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export function settingsOf(options: Qcow2OpenOptions, header: Qcow2Header): ImageSettings {
  const caches = cacheSizes(options, header);
  const template = options['overlap-check.template'];
  if (template !== undefined && template !== options['overlap-check']) {
    throw bad(`Conflicting values for qcow2 options 'overlap-check' ('${String(options['overlap-check'])}') and 'overlap-check.template' ('${template}')`);
  }
  const overlapCheck = overlapMask(options['overlap-check'] ?? 'cached');
  const lazyRefcounts = options['lazy-refcounts'] ?? (header.compatible & 1n) !== 0n;
  if (lazyRefcounts && header.version < 3) throw bad('Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level');
  const discardKeepsReference = options['discard-no-unref'] ?? false;
  if (discardKeepsReference && header.version < 3) throw bad('discard-no-unref is only supported since qcow2 version 3');
  return {
    ...caches, overlapCheck, lazyRefcounts, discardKeepsReference,
    passDiscard: {
      never: false, always: true,
      // Unless the user lets requests discard, none reach this layer.
      request: options['pass-discard-request'] ?? true,
      snapshot: options['pass-discard-snapshot'] ?? true,
      other: options['pass-discard-other'] ?? false,
    },
  };
}

function overlapMask(value: OptionValue): number {
  const { template = 'cached', ...chosen }: Record<string, OptionValue> = isDictionary(value) ? value : { template: value };
  let mask = overlapTemplates[String(template)];
  if (mask === undefined) {
    throw bad(`Unsupported value '${String(template)}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all`);
  }
  for (const [bit, option] of structureOptions) {
    const name = `overlap-check.${option}`;
    if (chosen[option] !== undefined) mask = coerceOption(name, { type: 'boolean' }, chosen[option]) === true ? mask | bit : mask & ~bit;
    delete chosen[option];
  }
  const unknown = Object.keys(chosen)[0];
  if (unknown !== undefined) throw bad(`Parameter 'overlap-check.${unknown}' is unexpected`);
  return mask;
}

function isDictionary(value: OptionValue): value is { readonly [key: string]: OptionValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function cacheSizes(options: Qcow2OpenOptions, header: Qcow2Header): Pick<ImageSettings, 'l2Slices' | 'refcountBlocks' | 'sliceSize'> {
  const clusterSize = 2 ** header.clusterBits;
  const combined = options['cache-size'];
  const l2 = options['l2-cache-size'];
  const refcount = options['refcount-cache-size'];
  if (combined !== undefined) {
    if (l2 !== undefined && refcount !== undefined) throw bad('cache-size, l2-cache-size and refcount-cache-size may not be set at the same time');
    if ((l2 ?? 0) > combined) throw bad('l2-cache-size may not exceed cache-size');
    if ((refcount ?? 0) > combined) throw bad('refcount-cache-size may not exceed cache-size');
  }
  const sliceSize = options['l2-cache-entry-size'] ?? Math.min(clusterSize, 4096);
  if (sliceSize < 512 || sliceSize > clusterSize || !Number.isInteger(Math.log2(sliceSize))) {
    throw bad(`L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`);
  }
  const entrySize = (header.incompatible & 16n) !== 0n ? 16 : 8;
  const wholeDisk = Math.ceil(Math.ceil(header.size / clusterSize) * entrySize / clusterSize) * clusterSize;
  const leastRefcount = fewestRefcountBlocks * clusterSize;
  let l2Size = l2;
  let refcountSize = refcount;
  if (combined === undefined) {
    l2Size ??= Math.min(largestDefaultL2Cache, wholeDisk);
  } else if (l2Size === undefined && refcountSize === undefined) {
    // Tables first: refcounts are needed for allocation only.
    l2Size = Math.max(0, Math.min(wholeDisk, combined - leastRefcount));
    refcountSize = combined - l2Size;
  } else {
    l2Size ??= combined - refcountSize!;
    refcountSize ??= combined - l2Size;
  }
  const l2Slices = Math.max(fewestL2Slices, Math.floor(l2Size / sliceSize));
  const refcountBlocks = Math.max(fewestRefcountBlocks, Math.floor((refcountSize ?? leastRefcount) / clusterSize));
  if (l2Slices > maxTables) throw bad('L2 cache size too big');
  if (refcountBlocks > maxTables) throw bad('Refcount cache size too big');
  return { l2Slices, refcountBlocks, sliceSize };
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
