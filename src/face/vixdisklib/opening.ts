/** Opening disks: of this host, with their parents, and those that servers offer. */
import type { BlockBackend } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { OpenGate } from '../../block/gate.js';
import type { BackendOptions, BlockGraph } from '../../block/graph.js';
import { Perm } from '../../block/driver.js';
import type { ConnectParameters } from './connect-params.js';
import { OpenFlags, type TransportMode } from './constants.js';
import type { VixErrorSymbol } from './error-codes.js';
import { connectFailure, isRefusal, toVixError, VixError } from './errors.js';
import { links } from './info.js';
import { exportNames, nbdServer } from './transports.js';

/** Asked where the parent of `child` lies, whose name stands in it as `hint`. undefined: as usual. */
export type ResolveParent = (request: { readonly child: string; readonly hint: string }) => string | undefined | Promise<string | undefined>;

export interface LocalOpening {
  readonly gate: OpenGate;
  readonly flags: number;
  /** Format of the file; without it a name that ends in .vmdk says it, other files are looked at. */
  readonly format?: string | undefined;
  readonly resolveParent?: ResolveParent | undefined;
  readonly signal?: AbortSignal | undefined;
}

export function isReadOnly(flags: number): boolean {
  return (flags & OpenFlags.READ_ONLY) !== 0;
}

/** The format that a name promises: what ends in .vmdk is never taken for anything else, whatever a guest wrote into it. */
export function formatOfName(path: string): string | undefined {
  return /\.vmdk$/i.test(path) ? 'vmdk' : undefined;
}

export function driverOf(path: string): { readonly driver?: string } {
  const driver = formatOfName(path);
  return driver === undefined ? {} : { driver };
}

/** How a file of this host is named to the graph: no prefix in it means anything. */
export function fileSpec(path: string, format = formatOfName(path)): Record<string, unknown> {
  return { ...(format !== undefined && { driver: format }), file: { driver: 'file', filename: path } };
}

function backendOptions(flags: number): BackendOptions {
  return {
    readOnly: isReadOnly(flags), noBacking: (flags & OpenFlags.SINGLE_LINK) !== 0, forceShare: isReadOnly(flags), discard: 'unmap',
    cache: { direct: (flags & OpenFlags.UNBUFFERED) !== 0 },
    take: Perm.CONSISTENT_READ | (isReadOnly(flags) ? 0 : Perm.WRITE),
  };
}

/** Opens a disk of this host with its parents. @throws VixError */
export async function openLocal(graph: BlockGraph, path: string, opening: LocalOpening): Promise<BlockBackend> {
  const { flags, gate, signal } = opening;
  let backend: BlockBackend | undefined;
  try {
    const spec = fileSpec(path, opening.format ?? formatOfName(path));
    const parents = opening.resolveParent === undefined || (flags & OpenFlags.SINGLE_LINK) !== 0 ? undefined : await resolvedParents(graph, path, opening);
    backend = await graph.openBackend({ ...spec, ...parents }, { ...backendOptions(flags), gate, ...(signal && { signal }) });
    for (const link of links(backend.node)) link.facet('backing')?.verify?.();
    return backend;
  } catch (error) {
    await backend?.close().catch(() => undefined);
    throw openFailure(error, path);
  }
}

/** What a hook makes of the parents' names, as options of the open: `{ backing: … }` to any depth, undefined where the usual way is taken. */
async function resolvedParents(graph: BlockGraph, path: string, opening: LocalOpening, depth = 0): Promise<Record<string, unknown> | undefined> {
  if (depth > 200) throw new VixError('VIX_E_DISK_TOOMANYREDO', undefined, { path });
  const link = await graph.openBackend(fileSpec(path), { readOnly: true, noBacking: true, forceShare: true, noIo: true, gate: opening.gate });
  const hint = link.facet('backing')?.filename;
  await link.close();
  if (hint === undefined) return undefined;
  const parent = await opening.resolveParent!({ child: path, hint });
  if (parent === undefined) return undefined;
  return { backing: { ...fileSpec(parent, formatOfName(parent) ?? 'vmdk'), ...await resolvedParents(graph, parent, opening, depth + 1) } };
}

const ofFault: Readonly<Record<NonNullable<BlockError['context']['fault']>, VixErrorSymbol>> = {
  'parent-missing': 'VIX_E_DISK_OPENPARENT', 'parent-changed': 'VIX_E_DISK_CID_MISMATCH', 'size-mismatch': 'VIX_E_DISK_CAPACITY_MISMATCH',
  'parent-refused': 'VIX_E_DISK_PARENT_NOTALLOWED', 'needs-repair': 'VIX_E_DISK_NEEDSREPAIR', 'out-of-order': 'VIX_E_DISK_NOTSUPPORTED',
};

/** A disk's own failures have errors of their own; the rest is as for all files. */
export function diskFailure(error: unknown, path: string | undefined): unknown {
  const fault = error instanceof BlockError ? error.context.fault : undefined;
  if (fault === undefined) return toVixError(error, path);
  return new VixError(ofFault[fault], (error as BlockError).message, { path, cause: error });
}

function openFailure(error: unknown, path: string): unknown {
  const denied = error instanceof BlockError && error.code === 'GATE_DENIED' && error.message.startsWith('Could not open backing file');
  return denied ? new VixError('VIX_E_DISK_PARENT_NOTALLOWED', error.message, { path, cause: error }) : diskFailure(error, path);
}

export interface RemoteOpening {
  readonly params: ConnectParameters;
  readonly modes: readonly TransportMode[];
  readonly snapshot?: string | undefined;
  readonly flags: number;
  /** Id of the credentials for nbdssl. */
  readonly credentials: string;
  readonly log: (message: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens a disk that a server offers, by the first of the modes that leads to it. A certificate that is not the expected one ends the
 * search: nothing goes unencrypted to a server that is not who it should be.
 * @throws VixError of the last mode that was tried; its message names them all
 */
export async function openRemote(graph: BlockGraph, path: string, opening: RemoteOpening): Promise<{ readonly backend: BlockBackend; readonly mode: TransportMode }> {
  const tried: TransportMode[] = [];
  let failure: VixError | undefined;
  for (const mode of opening.modes) {
    tried.push(mode);
    try {
      return { backend: await openExport(graph, path, mode, opening), mode };
    } catch (error) {
      const reason = connectFailure(error, path);
      if (!(reason instanceof VixError)) throw reason;
      failure = reason;
      opening.log(`${mode}: ${failure.message}`);
      if (failure.symbol === 'VIX_E_AUTHENTICATION_FAIL' || failure.symbol === 'VIX_E_CANCELLED') break;
    }
  }
  if (failure === undefined) throw new VixError('VIX_E_CANNOT_CONNECT_TO_HOST', undefined, { path });
  const { message } = failure.cause instanceof Error ? failure.cause : failure;
  throw new VixError(failure.symbol, `${message} (tried: ${tried.join(', ')})`, { path, cause: failure.cause });
}

async function openExport(graph: BlockGraph, path: string, mode: TransportMode, opening: RemoteOpening): Promise<BlockBackend> {
  let failure: unknown;
  for (const name of exportNames(opening.params, path, opening.snapshot)) {
    const file = { driver: 'nbd', server: nbdServer(opening.params), export: name, ...(mode === 'nbdssl' && { 'tls-creds': opening.credentials }) };
    try {
      return await graph.openBackend({ driver: 'raw', file }, { ...backendOptions(opening.flags), forceShare: false, ...(opening.signal && { signal: opening.signal }) });
    } catch (error) {
      failure = error;
      if (!(isRefusal(error) && error instanceof BlockError && error.code === 'NOT_FOUND')) break;
    }
  }
  throw failure;
}
