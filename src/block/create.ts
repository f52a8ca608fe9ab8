/** Making new images: an empty file by the protocol, then the format's layout on it. */
import type { BlockBackend } from './child.js';
import type { CreateField, OptionValue } from './options.js';
import { BlockError, Errno } from './errors.js';
import { protocolPrefix, resolveReference } from './filename.js';
import type { BlockGraph } from './graph.js';
import type { BlockDriver } from './driver.js';

export interface CreateRequest {
  readonly filename: string;
  readonly format: string;
  /** Virtual size in bytes. */
  readonly size: number;
  /** Further create options under their -o names, already typed. Unknown ones are refused. */
  readonly options?: Readonly<Record<string, OptionValue>>;
  readonly signal?: AbortSignal;
}

/** The driver that stores files of that name. */
export function protocolOf(graph: BlockGraph, filename: string): BlockDriver {
  const prefix = protocolPrefix(filename);
  const driver = prefix === undefined ? graph.drivers.byPath(filename) : graph.drivers.byPrefix(prefix);
  if (!driver) throw new BlockError('INVALID_ARGUMENT', `Unknown protocol '${prefix ?? 'file'}'`, { filename });
  return driver;
}

/** Create options a format offers on that protocol: its own and the file's. */
export function createFields(format: BlockDriver, protocol: BlockDriver): Readonly<Record<string, CreateField>> {
  return { ...protocol.createOptions, ...format.createOptions };
}

/**
 * Creates an image; the file is replaced if it exists. A file made here is removed again when the format cannot be laid on it.
 */
export async function createImageFile(graph: BlockGraph, request: CreateRequest): Promise<void> {
  const { filename, size } = request;
  const options = request.options ?? {};
  const format = graph.drivers.get(request.format);
  if (!format) throw new BlockError('INVALID_ARGUMENT', `Unknown file format '${request.format}'`);
  if (format.createFile) return format.createFile(ownName(graph, filename, format), { ...options, size });
  const create = format.create?.bind(format);
  if (!create) throw new BlockError('NOT_SUPPORTED', `Format driver '${format.name}' does not support image creation`);
  const protocol = protocolOf(graph, filename);
  const createFile = protocol.createFile?.bind(protocol);
  if (!createFile) throw new BlockError('NOT_SUPPORTED', `Protocol driver '${protocol.name}' does not support image creation`, { filename });
  const fields = createFields(format, protocol);
  for (const key of Object.keys(options)) if (!fields[key]) throw new BlockError('INVALID_ARGUMENT', `Invalid parameter '${key}'`);
  const fileOptions: Record<string, OptionValue> = Object.fromEntries(Object.entries(options).filter(([key]) => protocol.createOptions?.[key] && !format.createOptions?.[key]));
  // The bytes of the file are those of the disk (raw): it is made as long.
  if (fileOptions['preallocation'] !== undefined && format.children['file']?.role === 'filtered') fileOptions['size'] = size;
  const formatOptions = { ...Object.fromEntries(Object.entries(options).filter(([key]) => format.createOptions?.[key])), size };
  const place = (name: string): string => ownName(graph, name, protocol);
  await format.checkCreate?.(formatOptions, filename);
  await createFile(place(filename), fileOptions);
  const open = (name: string): Promise<BlockBackend> => graph.openBackend(graph.toOptions(name, protocol.name), { discard: 'unmap' });
  let target: BlockBackend | undefined;
  try {
    target = await open(filename);
    await create(target, formatOptions, {
      filename,
      ...(request.signal && { signal: request.signal }),
      createFile: async (name) => {
        await createFile(place(name), {});
        return open(name);
      },
      openTarget: async (extra) => {
        await target?.close();
        return graph.openBackend({ ...graph.toOptions(filename, format.name), ...extra }, { noBacking: true, discard: 'unmap', gate: () => true });
      },
      openBacking: (name, driver) => graph.openBackend(resolveReference(name, filename), { readOnly: true, driver }),
      object: (id) => graph.object(id),
      warn: graph.onWarning,
    });
    await target.close();
  } catch (error) {
    await target?.close().catch(() => undefined);
    await protocol.deleteFile?.(place(filename)).catch(() => undefined);
    if (request.signal?.aborted) throw new BlockError('CANCELLED', 'Creation was cancelled', { filename, errno: Errno.ECANCELED }, error);
    throw error;
  }
}

/** The name without a protocol's prefix. */
function ownName(graph: BlockGraph, name: string, protocol: BlockDriver): string {
  const own = protocolOf(graph, name) === protocol ? graph.toOptions(name, protocol.name)['filename'] : undefined;
  return typeof own === 'string' ? own : name;
}
