/** Making a new image from what a user says about it. */
import { createImageFile, protocolOf } from '../block/create.js';
import type { BlockDriver } from '../block/driver.js';
import { BlockError, Errno } from '../block/errors.js';
import { resolveReference } from '../block/filename.js';
import type { BlockGraph } from '../block/graph.js';
import { parseKeyValues } from '../block/key-values.js';
import { coerceOption, type CreateField, type OptionValue } from '../block/options.js';

export type CreateFields = Readonly<Record<string, CreateField>>;
export type CreateOptions = Readonly<Record<string, OptionValue>>;

export interface CreateImageRequest {
  readonly filename: string;
  readonly format: string;
  /** Text of -o. */
  readonly optionText?: string | undefined;
  /** Bytes; may come from the backing file instead. */
  readonly size?: number | undefined;
  readonly backing?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** The backing file is opened, to learn its size and to be sure of it. */
  readonly openBacking: boolean;
  /** Called with all options in their order, before anything is written. */
  readonly announce?: (options: readonly (readonly [string, OptionValue])[]) => void;
  readonly signal?: AbortSignal;
}

/** The format driver of a new image. @throws BlockError */
export function creatableFormat(graph: BlockGraph, name: string): BlockDriver {
  const driver = graph.drivers.get(name);
  if (!driver) throw new BlockError('INVALID_ARGUMENT', `Unknown file format '${name}'`);
  if (!driver.create && !driver.createFile) throw new BlockError('NOT_SUPPORTED', `Format driver '${name}' does not support image creation`);
  return driver;
}

/** Where a new image of that name is to lie. @throws BlockError */
export function creatableProtocol(graph: BlockGraph, filename: string): BlockDriver {
  const protocol = protocolOf(graph, filename);
  if (!protocol.createFile) throw new BlockError('NOT_SUPPORTED', `Protocol driver '${protocol.name}' does not support image creation`);
  return protocol;
}

/** Options of a format on a protocol, the format's first; those of the format alone without a protocol. */
export function createFields(format: BlockDriver, protocol?: BlockDriver): CreateFields {
  return { ...format.createOptions, ...Object.fromEntries(Object.entries(protocol?.createOptions ?? {}).filter(([key]) => !format.createOptions?.[key])) };
}

/** Typed values of -o's text. @throws BlockError for unknown names and bad values */
export function parseCreateOptions(fields: CreateFields, text: string): Record<string, OptionValue> {
  const options: Record<string, OptionValue> = {};
  for (const [key, value] of parseKeyValues(text).values) {
    const field = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (field === undefined) throw new BlockError('INVALID_ARGUMENT', `Invalid parameter '${key}'`);
    options[key] = coerceOption(key, field, value);
  }
  return options;
}

/** Given options and the defaults that show, in the order of the fields. */
export function effectiveOptions(fields: CreateFields, options: CreateOptions): [string, OptionValue][] {
  return Object.entries(fields).flatMap(([key, { default: fallback }]): [string, OptionValue][] => {
    const value = options[key] ?? fallback;
    return value === undefined ? [] : [[key, value]];
  });
}

/**
 * Creates an image file.
 * @throws BlockError whose message has no filename in front; INVALID_ARGUMENT where the request makes no sense
 */
export async function createImage(graph: BlockGraph, request: CreateImageRequest): Promise<void> {
  const { filename } = request;
  const format = creatableFormat(graph, request.format);
  const protocol = creatableProtocol(graph, filename);
  const fields = createFields(format, protocol);
  const options = parseCreateOptions(fields, request.optionText ?? '');
  if (request.backing !== undefined) options['backing_file'] = requireField(fields, 'backing_file', request.backing, 'Backing file', format);
  if (request.backingFormat !== undefined) options['backing_fmt'] = requireField(fields, 'backing_fmt', request.backingFormat, 'Backing file format', format);
  if (request.size !== undefined) {
    if (options['size'] !== undefined) throw invalid('The image size must be specified only once');
    options['size'] = request.size;
  }
  const backing = options['backing_file'];
  if (typeof backing === 'string') {
    const backingSize = await checkBacking(graph, request, backing, options['backing_fmt']);
    if (options['size'] === undefined && backingSize !== undefined) options['size'] = backingSize;
  }
  const { size, ...rest } = options;
  if (typeof size !== 'number') throw invalid('Image creation needs a size parameter');
  request.announce?.(effectiveOptions(fields, options));
  checkBackingFormat(graph, options, fields['backing_fmt']);
  try {
    await createImageFile(graph, { filename, format: request.format, size, options: rest, ...(request.signal && { signal: request.signal }) });
  } catch (error) {
    if (!(error instanceof BlockError) || error.errno !== Errno.EFBIG) throw error;
    const hint = fields['cluster_size'] === undefined ? '' : ' (try using a larger cluster size)';
    throw new BlockError(error.code, `The image size is too large for file format '${request.format}'${hint}`, error.context, error);
  }
}

function requireField(fields: CreateFields, key: string, value: string, what: string, format: BlockDriver): string {
  if (fields[key] === undefined) throw invalid(`${what} not supported for file format '${format.name}'`);
  return value;
}

/** Size of the backing file, if it was opened. */
async function checkBacking(graph: BlockGraph, request: CreateImageRequest, backing: string, format: OptionValue): Promise<number | undefined> {
  if (backing === '') throw invalid('Expected backing file name, got empty string');
  if (backing === request.filename) throw invalid('Error: Trying to create an image with the same filename as the backing file');
  if (!request.openBacking) {
    if (format === undefined) throw invalid('Backing file specified without backing format');
    return undefined;
  }
  let node;
  try {
    node = await graph.open(resolveReference(backing, request.filename), { readOnly: true, noIo: true, ...(typeof format === 'string' && { driver: format }) });
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.code, error.message, { ...error.context, hint: 'Could not open backing image.' }, error);
  }
  try {
    if (format === undefined) throw invalid('Backing file specified without backing format', `Detected format of ${node.driver.name}.`);
    return node.size;
  } finally {
    await graph.release(node);
  }
}

function checkBackingFormat(graph: BlockGraph, { backing_file: backing, backing_fmt: format }: CreateOptions, field: CreateField | undefined): void {
  if (typeof format !== 'string') return;
  if (!graph.drivers.get(format)) throw invalid(field?.refusal?.(format) ?? `Parameter 'backing-fmt' does not accept value '${format}'`);
  if (typeof backing !== 'string') throw invalid('Backing format cannot be used without backing file');
}

function invalid(message: string, hint?: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint });
}
