/** Converting images: what one or several of them show, stored in another, which is made for it or exists. */
import type { BlockBackend } from '../block/child.js';
import { createImageFile, protocolOf } from '../block/create.js';
import { keepsBitmaps, type DirtyBitmap } from '../block/dirty-bitmap.js';
import { Req } from '../block/driver.js';
import { BlockError, Errno } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import type { OptionValue } from '../block/options.js';
import { addBitmap, mergeBitmap } from './bitmap.js';
import { findInChain, unfiltered } from './chain.js';
import { copyImages, type CopyControl } from './copy.js';
import { creatableFormat, creatableProtocol, createFields, parseCreateOptions } from './create.js';
import { imageFiles } from './files.js';

export interface NewImage {
  readonly filename: string;
  readonly format: string;
  /** Text of -o. */
  readonly optionText?: string | undefined;
  readonly backing?: string | undefined;
  readonly backingFormat?: string | undefined;
}

export interface ConvertRequest {
  /** Shown one behind the other. */
  readonly sources: readonly BlockBackend[];
  /** Absent: what openTarget opens exists already. */
  readonly create?: NewImage | undefined;
  /** Opens the target for writing. */
  readonly openTarget: () => Promise<BlockBackend>;
  /** An existing target takes the place of an overlay on this backing file: what the source leaves to its own base is not copied. */
  readonly backing?: string | undefined;
  /** The user knows that an existing target reads as zero. */
  readonly targetIsZero?: boolean;
  readonly compress?: boolean;
  /** Persistent bitmaps come along; 'sound': but for inconsistent ones. */
  readonly bitmaps?: 'all' | 'sound' | undefined;
  readonly copy: Omit<CopyControl, 'zeroUnit' | 'compressedCluster' | 'targetIsZero' | 'targetBackingSize'>;
  readonly warn?: ((message: string) => void) | undefined;
  /** Told of each file that is made for the target; it is removed again if the conversion fails. */
  readonly creating?: (filename: string) => void;
}

/** @throws BlockError; nothing made here is left behind then */
export async function convertImages(graph: BlockGraph, request: ConvertRequest): Promise<void> {
  const { sources, create } = request;
  const size = sources.reduce((sum, source) => sum + source.size, 0);
  if (!create) refuseManyOverBacking(sources, request.backing);
  const planned = create && planImage(graph, create, size, request);
  const backing = planned?.backing ?? request.backing;
  const bitmaps = request.bitmaps === undefined ? [] : bitmapsToCopy(sources, request.bitmaps, request.warn);

  const made: string[] = [];
  const making = (filename: string): void => {
    made.push(filename);
    request.creating?.(filename);
  };
  if (planned) {
    making(create.filename);
    await createTarget(graph, create, planned);
  }
  try {
    const target = await request.openTarget();
    try {
      if (planned) imageFiles(target.node).slice(1).forEach(making);
      await fill(target, size, backing, planned?.zeroed === true, request);
      for (const bitmap of bitmaps) await copyBitmap(bitmap, sources[0]!.node, target.node);
    } catch (error) {
      await target.close().catch(() => undefined);
      throw error;
    }
    await target.close();
  } catch (error) {
    for (const filename of made) await protocolOf(graph, filename).deleteFile?.(filename).catch(() => undefined);
    throw error;
  }
}

interface PlannedImage {
  readonly size: number;
  readonly options: Readonly<Record<string, OptionValue>>;
  readonly backing: string | undefined;
  /** The new image reads as zero: the file does, or the format shows zeroes where nothing is allocated. */
  readonly zeroed: boolean;
}

/** Everything that can be refused before anything is written. */
function planImage(graph: BlockGraph, image: NewImage, size: number, { sources, compress, bitmaps }: ConvertRequest): PlannedImage {
  const format = creatableFormat(graph, image.format);
  const protocol = creatableProtocol(graph, image.filename);
  const fields = createFields(format, protocol);
  const options = parseCreateOptions(fields, image.optionText ?? '');
  if (image.backing !== undefined) {
    if (fields['backing_file'] === undefined) throw invalid(`Backing file not supported for file format '${format.name}'`);
    options['backing_file'] = image.backing;
  }
  if (image.backingFormat !== undefined) {
    if (fields['backing_fmt'] === undefined) throw invalid(`Backing file format not supported for file format '${format.name}'`);
    options['backing_fmt'] = image.backingFormat;
  }
  // as for the peer, a size among the options says nothing: it is the sources'
  const { size: _size, ...rest } = options;
  const backing = rest['backing_file'];
  refuseManyOverBacking(sources, backing);
  if (backing !== undefined && rest['backing_fmt'] === undefined) throw invalid('Use of backing file requires explicit backing format');
  if (compress) {
    if (!format.supportsCompression) throw notCompressible();
    if (rest['encryption'] === true || rest['encrypt.format'] !== undefined) throw invalid('Compression and encryption not supported at the same time');
    if (rest['preallocation'] !== undefined && rest['preallocation'] !== 'off') throw invalid('Compression and preallocation not supported at the same time');
  }
  if (bitmaps !== undefined) {
    bitmapSource(sources);
    if (!format.supportsBitmaps) throw new BlockError('NOT_SUPPORTED', `Format driver '${format.name}' does not support bitmaps`);
  }
  const unallocated = format.supportsBacking === true && (rest['preallocation'] === undefined || rest['preallocation'] === 'off');
  return {
    size, options: rest, backing: typeof backing === 'string' ? backing : undefined,
    zeroed: format.newReadsAsZero?.(rest) ?? (protocol.createsZeroed === true || unallocated),
  };
}

async function createTarget(graph: BlockGraph, { filename, format }: NewImage, { size, options }: PlannedImage): Promise<void> {
  try {
    if (options['backing_fmt'] !== undefined && options['backing_file'] === undefined) throw invalid('Backing format cannot be used without backing file');
    await createImageFile(graph, { filename, format, size, options });
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    if (error.errno === Errno.EFBIG) {
      const hint = creatableFormat(graph, format).createOptions?.['cluster_size'] === undefined ? '' : ' (try using a larger cluster size)';
      throw new BlockError(error.code, `The image size is too large for file format '${format}'${hint}`, error.context, error);
    }
    throw new BlockError(error.code, `${filename}: error while converting ${format}: ${error.message}`, error.context, error);
  }
}

async function fill(target: BlockBackend, size: number, backing: string | undefined, createdZeroed: boolean, request: ConvertRequest): Promise<void> {
  const { node } = target;
  const formatInfo = node.facet('formatInfo');
  if (target.size < size) throw invalid('output file is smaller than input file');
  if (request.bitmaps !== undefined && !keepsBitmaps(node)) {
    throw new BlockError('NOT_SUPPORTED', `Format driver '${node.driver.name}' does not support bitmaps`);
  }
  if (request.compress && (node.ops.capabilities.writeFlags & Req.COMPRESSED) === 0) throw notCompressible();
  const compress = request.compress === true || formatInfo?.needsCompressedWrites === true;
  const compressedCluster = formatInfo?.clusterSize;
  if (compress && compressedCluster === undefined) throw invalid('invalid cluster size');
  if (request.targetIsZero && node.backing) throw invalid('Cannot use --target-is-zero when the destination image has a backing file');

  const overlay = backing === undefined ? undefined : node.backing;
  const targetIsZero = node.backing === undefined && (createdZeroed || request.targetIsZero === true);
  const sources = request.sources.map((image) => ({ image, ...(overlay && { base: baseOf(image.node, backing!) }) }));
  await copyImages(sources, target, {
    ...request.copy,
    zeroUnit: node.ops.limits.writeZeroesAlignment || (formatInfo?.clusterSize ?? 1),
    ...(compress && { compressedCluster, outOfOrder: false }),
    targetIsZero,
    targetBackingSize: overlay?.size,
  });
}

/** Where the source's chain reaches what the target's backing file shows: that file itself or, as users say it, what the source stands on. */
function baseOf(source: BlockNode, backing: string): BlockNode | undefined {
  return findInChain(source, backing) ?? unfiltered(source).backing;
}

function bitmapSource(sources: readonly BlockBackend[]): BlockNode {
  if (sources.length > 1) throw invalid('Copying bitmaps only possible with single source');
  const { node } = sources[0]!;
  if (!keepsBitmaps(node)) throw new BlockError('NOT_SUPPORTED', 'Source lacks bitmap support');
  return node;
}

function bitmapsToCopy(sources: readonly BlockBackend[], which: 'all' | 'sound', warn: ConvertRequest['warn']): DirtyBitmap[] {
  const node = bitmapSource(sources);
  // The peer looks at the youngest first.
  return [...node.bitmaps.values()].reverse().filter(({ name, persistent, inconsistent }) => {
    if (inconsistent && which === 'all') {
      throw new BlockError('CORRUPT_IMAGE', `Cannot copy inconsistent bitmap '${name}'`, {
        hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
      });
    }
    if (inconsistent) warn?.(`Skipping inconsistent bitmap '${name}'`);
    return persistent && !inconsistent;
  }).reverse();
}

async function copyBitmap({ name, granularity, enabled }: DirtyBitmap, source: BlockNode, target: BlockNode): Promise<void> {
  const explain = (what: string, error: unknown): unknown =>
    error instanceof BlockError ? new BlockError(error.code, `Failed to ${what} bitmap ${name}: ${error.message}`, error.context, error) : error;
  await addBitmap(target, name, granularity).catch((error: unknown) => { throw explain('create', error); });
  try {
    mergeBitmap(target, name, source, name);
  } catch (error) {
    throw explain('populate', error);
  }
  target.bitmaps.get(name)!.enabled = enabled;
}

function refuseManyOverBacking(sources: readonly BlockBackend[], backing: OptionValue): void {
  if (backing === undefined || sources.length === 1) return;
  throw invalid('Having a backing file for the target makes no sense when concatenating multiple input images');
}

function notCompressible(): BlockError {
  return new BlockError('NOT_SUPPORTED', 'Compression not supported for this file format');
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
