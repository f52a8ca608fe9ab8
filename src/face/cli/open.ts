/** How the tools open what a user names: -f, --image-opts, -U, cache modes; references an image makes are followed as the peers do. */
import { realpathSync } from 'node:fs';
import { Perm } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockBackend } from '../../block/child.js';
import { allowImplicitOpens } from '../../block/gate.js';
import { BlockGraph, type BackendOptions } from '../../block/graph.js';
import { nestOptions, parseKeyValues, type Options } from '../../block/key-values.js';
import { userObjects } from './objects.js';
import { CliError, err, ExitError, programName, reportError, warn } from './output.js';
import { asPeersKnow } from './peer-view.js';

export interface CacheMode {
  readonly direct: boolean;
  readonly noFlush: boolean;
  /** Every write completes only when durable. */
  readonly writethrough: boolean;
}

const cacheModes: Readonly<Record<string, CacheMode>> = {
  none: { direct: true, noFlush: false, writethrough: false },
  off: { direct: true, noFlush: false, writethrough: false },
  directsync: { direct: true, noFlush: false, writethrough: true },
  writeback: { direct: false, noFlush: false, writethrough: false },
  writethrough: { direct: false, noFlush: false, writethrough: true },
  unsafe: { direct: false, noFlush: true, writethrough: false },
};

export function parseCacheMode(name: string): CacheMode | undefined {
  return Object.hasOwn(cacheModes, name) ? cacheModes[name] : undefined;
}

/** @throws CliError `Invalid cache option: …` (or with `what` 'source cache') */
export function cacheArgument(name: string, what = 'cache'): CacheMode {
  const mode = parseCacheMode(name);
  if (mode === undefined) throw new CliError(`Invalid ${what} option: ${name}`);
  return mode;
}

let graph: Promise<BlockGraph> | undefined;

/** The process's graph. Drivers are loaded with it. */
export function sharedGraph(): Promise<BlockGraph> {
  graph ??= import('../../drivers.js').then(({ createRegistry }) => {
    const created = new BlockGraph({ drivers: createRegistry(programName().startsWith('qemu-') ? asPeersKnow : undefined), gate: allowImplicitOpens, objects: userObjects() });
    created.onWarning = (message) => (message.startsWith('WARNING') ? err(`${message}\n`) : warn(message));
    created.onReport = (line, kind) => (kind === 'note' ? err(`${line}\n`) : reportError(line));
    return created;
  });
  return graph;
}

/** Closes everything that is still open. */
export async function closeGraph(): Promise<void> {
  if (graph !== undefined) await (await graph).close();
  graph = undefined;
}

export interface ImageSource {
  /** What messages call it, where its name is none that a user knows. */
  readonly title?: string | undefined;
  /** -f */
  readonly format?: string | undefined;
  /** --image-opts: the name is an option list. */
  readonly imageOpts?: boolean | undefined;
  readonly cache?: CacheMode | undefined;
  /** -U */
  readonly forceShare?: boolean | undefined;
  readonly writable?: boolean | undefined;
  /** Writable, and its size may change. */
  readonly resize?: boolean | undefined;
  readonly options?: BackendOptions | undefined;
  /** Options of the format's driver beside a plain name, dotted. */
  readonly driverOptions?: Options | undefined;
}

/**
 * Opens an image the way the peers' tools do.
 * @throws BlockError `Could not open 'NAME': reason`
 */
export async function openImage(filename: string, source: ImageSource = {}): Promise<BlockBackend> {
  const spec = imageSpec(filename, source);
  try {
    const graph = await sharedGraph();
    const { driverOptions } = source;
    const backend = driverOptions === undefined || typeof spec !== 'string' ? await graph.openBackend(spec, openOptions(source))
      : await graph.openBackend({ ...graph.toOptions(spec, source.format), ...nestOptions(driverOptions) }, openOptions(source));
    backend.writethrough = source.cache?.writethrough ?? false;
    return backend;
  } catch (error) {
    throw prefixed(`Could not open ${source.title ?? `'${filename}'`}`, error);
  }
}

/** Does some work with an open image and closes it. A failure of the work is told rather than one of closing. */
export async function withImage<T>(image: BlockBackend, work: (image: BlockBackend) => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await work(image);
  } catch (error) {
    await image.close().catch(() => undefined);
    throw error;
  }
  await image.close();
  return result;
}

/**
 * Shows that an image could not be closed the way it should be, as the peer does, which usually tries (and fails) twice.
 * @throws what ends the tool
 */
export function reportCloseFailure(error: unknown, twice = true): never {
  if (!(error instanceof BlockError)) throw error;
  reportError(error.message);
  reportError('Error while closing the image: Invalid argument');
  throw twice ? error : new ExitError(1);
}

/** What the graph is to open: the name itself, or the options written in its place. */
export function imageSpec(filename: string, { imageOpts, format, forceShare }: ImageSource): string | Options {
  if (!imageOpts) return filename;
  if (format !== undefined) throw new CliError('--image-opts and --format are mutually exclusive');
  const { values, shorthand } = parseKeyValues(filename, 'file');
  for (const { written, meant } of shorthand) reportError(`warning: short-form boolean option '${written}' deprecated`, `Please use ${meant} instead`);
  if (forceShare && ![undefined, 'on'].includes(values.get('force-share'))) {
    throw new CliError('--force-share/-U conflicts with image options');
  }
  try {
    return nestOptions(Object.fromEntries(values));
  } catch (error) {
    throw prefixed(`Could not open '${filename}'`, error);
  }
}

function openOptions({ format, cache, forceShare, writable, resize, options }: ImageSource): BackendOptions {
  return {
    readOnly: !writable,
    ...(format !== undefined && { driver: format }),
    ...(forceShare && { forceShare }),
    ...(cache && { cache: { direct: cache.direct, noFlush: cache.noFlush } }),
    take: Perm.CONSISTENT_READ | (writable ? Perm.WRITE : 0) | (resize ? Perm.RESIZE : 0),
    ...options,
  };
}

/** One form for all names of a file: absolute, links followed. Names that are no files stay as they are. */
export function canonicalPath(filename: string): string {
  try {
    return realpathSync(filename);
  } catch {
    return filename;
  }
}

/** The same error with `prefix: ` before its message. */
export function prefixed(prefix: string, error: unknown): unknown {
  if (!(error instanceof BlockError)) return error;
  // the peers say it twice where the file itself cannot be opened
  const said = !programName().startsWith('qemu-') && error.message.startsWith(`${prefix}: `);
  return new BlockError(error.code, said ? error.message : `${prefix}: ${error.message}`, error.context, error);
}

