/**
 * VixDiskLib by the names of its C functions, over the same objects: a connection is a {@link Connection}, a handle a {@link Disk}.
 *
 * What C returns through pointers is returned (all but the simplest functions: as a promise); what C returns as an error is thrown as a
 * {@link VixError}. `Free…` functions have no counterpart: nothing is to be freed. Errors not named are those of the methods called.
 */
import type { Block } from './allocated.js';
import { planQuery, refuseTooMany } from './allocated.js';
import { type CheckReport, Connection } from './connection.js';
import type { ConnectParameters, ConnectParams } from './connect-params.js';
import { SECTOR_SIZE, type DiskType } from './constants.js';
import { Disk } from './disk.js';
import { VixErrorCode } from './error-codes.js';
import { errorNumber, VixError } from './errors.js';
import type { DiskInfo } from './info.js';
import { DiskLib } from './library.js';
import type { LogFunction } from './logging.js';
import type { CreateParams } from './making.js';
import type { LongOperation, Progress } from './progress.js';
import type { Sectors } from './sectors.js';
import { isPromise, type MaybePromise } from '../../util/maybe.js';

export { getErrorText as VixDiskLib_GetErrorText } from './error-codes.js';

/** Takes a line that is formatted already. */
export type VixDiskLibGenericLogFunc = (message: string) => void;
/** Told percentages that never fall. `false` (and nothing else) cancels, which VDDK leaves out. */
export type VixDiskLibProgressFunc = (progressData: unknown, percentCompleted: number) => boolean | void;
/** `result` is VIX_OK or the number of an error. */
export type VixDiskLibCompletionCB = (cbData: unknown, result: number) => void;

let library: Promise<DiskLib> | undefined;

/** The library of this process. @throws VixError VIX_E_DISK_NOINIT */
async function initialized(): Promise<DiskLib> {
  if (library === undefined) throw new VixError('VIX_E_DISK_NOINIT');
  return library;
}

/**
 * Once per process, before anything else. The numbers are those of the VDDK that the caller was written for; 1 to 8 are understood.
 * Functions that are null say nothing. Since VDDK 1.1.
 * @throws VixError VIX_E_DISK_SUBSYSTEM_INIT_FAIL when called again before VixDiskLib_Exit, VIX_E_INVALID_ARG, VIX_E_FILE_NOT_FOUND
 */
export async function VixDiskLib_InitEx(
  majorVersion: number, minorVersion: number, log: VixDiskLibGenericLogFunc | null, warn: VixDiskLibGenericLogFunc | null, panic: VixDiskLibGenericLogFunc | null,
  libDir?: string | null, configFile?: string | null,
): Promise<void> {
  if (library !== undefined) throw new VixError('VIX_E_DISK_SUBSYSTEM_INIT_FAIL', 'it is initialized already');
  if (!Number.isInteger(majorVersion) || majorVersion < 1 || majorVersion > 8 || !Number.isInteger(minorVersion) || minorVersion < 0) {
    throw new VixError('VIX_E_INVALID_ARG', `version ${majorVersion}.${minorVersion}`);
  }
  const plain = (given: VixDiskLibGenericLogFunc | null): LogFunction | undefined => given === null ? undefined : (message) => given(message);
  library = DiskLib.init({ log: plain(log), warn: plain(warn), panic: plain(panic), libDir: libDir ?? undefined, configFile: configFile ?? undefined });
  await library.catch((error: unknown) => {
    library = undefined;
    throw error;
  });
}

/** VixDiskLib_InitEx without a configuration file. Since VDDK 1.0. */
export function VixDiskLib_Init(
  majorVersion: number, minorVersion: number, log: VixDiskLibGenericLogFunc | null, warn: VixDiskLibGenericLogFunc | null, panic: VixDiskLibGenericLogFunc | null,
  libDir?: string | null,
): Promise<void> {
  return VixDiskLib_InitEx(majorVersion, minorVersion, log, warn, panic, libDir, null);
}

/** Closes what is open. VixDiskLib_InitEx may be called again. Since VDDK 1.0. */
export async function VixDiskLib_Exit(): Promise<void> {
  const ending = await initialized();
  library = undefined;
  await ending.close();
}

/** 'file:san:hotadd:nbdssl:nbd'. Since VDDK 5.0. */
export async function VixDiskLib_ListTransportModes(): Promise<string> {
  return (await initialized()).transportModes;
}

/** Parameters to be filled in. Since VDDK 6.7. */
export function VixDiskLib_AllocateConnectParams(): { -readonly [K in keyof ConnectParams]: ConnectParams[K] } {
  return {};
}

/** To a server, or with null to this host: {@link DiskLib.connect}. Since VDDK 1.0. */
export async function VixDiskLib_Connect(connectParams: ConnectParams | null): Promise<Connection> {
  return (await initialized()).connect(connectParams);
}

/** Says also by which transports, and what of the machine is shown: {@link DiskLib.connect}. Since VDDK 1.2. */
export async function VixDiskLib_ConnectEx(
  connectParams: ConnectParams | null, readOnly: boolean, snapshotRef: string | null, transportModes: string | null,
): Promise<Connection> {
  return (await initialized()).connect(connectParams, { readOnly, snapshotRef, transportModes });
}

/** Closes the disks of the connection, and it: {@link Connection.disconnect}. Since VDDK 1.0. */
export async function VixDiskLib_Disconnect(connection: Connection): Promise<void> {
  await connected(connection).disconnect();
}

/** What the connection was made with; null for this host: {@link Connection.params}. Since VDDK 5.0. */
export async function VixDiskLib_GetConnectParams(connection: Connection): Promise<ConnectParameters | null> {
  return connected(connection).params ?? null;
}

/** Before a machine's disks are opened: {@link DiskLib.prepareForAccess}. Since VDDK 1.2. */
export async function VixDiskLib_PrepareForAccess(connectParams: ConnectParams, identity: string): Promise<void> {
  await (await initialized()).prepareForAccess(connectParams, identity);
}

/** After they were closed: {@link DiskLib.endAccess}. Since VDDK 1.2. */
export async function VixDiskLib_EndAccess(connectParams: ConnectParams, identity: string): Promise<void> {
  await (await initialized()).endAccess(connectParams, identity);
}

/** Removes what runs that were killed left, and returns numbers of files: {@link DiskLib.cleanup}. Since VDDK 1.2. */
export async function VixDiskLib_Cleanup(_connectParams: ConnectParams | null): Promise<{ readonly numCleanedUp: number; readonly numRemaining: number }> {
  const { removed, remaining } = await (await initialized()).cleanup();
  return { numCleanedUp: removed.length, numRemaining: remaining.length };
}

/** Opens a disk; `flags` are {@link OpenFlags}: {@link Connection.open}. Since VDDK 1.0. */
export async function VixDiskLib_Open(connection: Connection, path: string, flags: number): Promise<Disk> {
  return connected(connection).open(path, { flags });
}

/** Gives the handle up: {@link Disk.close}. Since VDDK 1.0. @throws VixError VIX_E_INVALID_HANDLE where it is closed already */
export async function VixDiskLib_Close(diskHandle: Disk): Promise<void> {
  await opened(diskHandle).close();
}

/** Makes an empty disk: {@link Connection.create}. Since VDDK 1.0. */
export async function VixDiskLib_Create(
  connection: Connection, path: string, createParams: CreateParams, progressFunc?: VixDiskLibProgressFunc | null, progressCallbackData?: unknown,
): Promise<void> {
  await connected(connection).create(path, createParams, control(progressFunc, progressCallbackData));
}

/** Makes a redo log of an open disk: {@link Disk.createChild}. Since VDDK 1.0. */
export async function VixDiskLib_CreateChild(
  diskHandle: Disk, childPath: string, diskType: DiskType, progressFunc?: VixDiskLibProgressFunc | null, progressCallbackData?: unknown,
): Promise<void> {
  await opened(diskHandle).createChild(childPath, { diskType, ...control(progressFunc, progressCallbackData) });
}

/** Copies a disk with its parents, and converts it: {@link Connection.clone}. Since VDDK 1.0. */
export async function VixDiskLib_Clone(
  dstConnection: Connection, dstPath: string, srcConnection: Connection, srcPath: string, createParams: Partial<CreateParams> | null,
  progressFunc: VixDiskLibProgressFunc | null | undefined, progressCallbackData: unknown, overWrite: boolean,
): Promise<void> {
  const params = { ...(createParams && { createParams }), overwrite: overWrite, ...control(progressFunc, progressCallbackData) };
  await connected(dstConnection).clone(dstPath, connected(srcConnection), srcPath, params);
}

/** Makes a disk larger; `capacity` is that of the whole disk then, in sectors: {@link Connection.grow}. Since VDDK 1.0. */
export async function VixDiskLib_Grow(
  connection: Connection, path: string, capacity: Sectors, updateGeometry: boolean, progressFunc?: VixDiskLibProgressFunc | null, progressCallbackData?: unknown,
): Promise<void> {
  await connected(connection).grow(path, capacity, updateGeometry, control(progressFunc, progressCallbackData));
}

/** Gives the space of zeroed blocks back: {@link Disk.shrink}. Since VDDK 1.0. */
export async function VixDiskLib_Shrink(diskHandle: Disk, progressFunc?: VixDiskLibProgressFunc | null, progressCallbackData?: unknown): Promise<void> {
  await opened(diskHandle).shrink(control(progressFunc, progressCallbackData));
}

/** Brings blocks into order: {@link Disk.defragment}. Since VDDK 1.0. */
export async function VixDiskLib_Defragment(diskHandle: Disk, progressFunc?: VixDiskLibProgressFunc | null, progressCallbackData?: unknown): Promise<void> {
  await opened(diskHandle).defragment(control(progressFunc, progressCallbackData));
}

/** Files of this host, which C leaves without a connection: {@link Connection.rename}. Since VDDK 1.0. */
export async function VixDiskLib_Rename(srcFileName: string, dstFileName: string): Promise<void> {
  await using host = await (await initialized()).connect();
  await host.rename(srcFileName, dstFileName);
}

/** Removes one disk, not its parents or children: {@link Connection.unlink}. Since VDDK 1.0. */
export async function VixDiskLib_Unlink(connection: Connection, path: string): Promise<void> {
  await connected(connection).unlink(path);
}

/** Succeeds where the check could be made; what it found is returned: {@link Connection.checkRepair}. Since VDDK 5.0. */
export async function VixDiskLib_CheckRepair(connection: Connection, filename: string, repair: boolean): Promise<CheckReport> {
  return connected(connection).checkRepair(filename, repair);
}

/** Bytes that a clone takes; UNKNOWN is the type the disk has: {@link Disk.spaceNeededForClone}. Since VDDK 1.0. */
export async function VixDiskLib_SpaceNeededForClone(diskHandle: Disk, diskType: DiskType): Promise<number> {
  return opened(diskHandle).spaceNeededForClone(diskType);
}

/** Succeeds where it is: {@link Disk.isAttachPossible}. Since VDDK 1.0. */
export async function VixDiskLib_IsAttachPossible(parent: Disk, child: Disk): Promise<void> {
  await opened(parent).isAttachPossible(opened(child));
}

/** Puts the child on the parent, whose handle is not valid afterwards: {@link Disk.attach}. Since VDDK 1.0. */
export async function VixDiskLib_Attach(parent: Disk, child: Disk): Promise<void> {
  await opened(parent).attach(opened(child));
}

/** Capacity (sectors), geometry, links and so on: {@link Disk.info}. Since VDDK 1.0. */
export async function VixDiskLib_GetInfo(diskHandle: Disk): Promise<DiskInfo> {
  return opened(diskHandle).info();
}

/** The way by which the disk was reached: {@link Disk.transportMode}. Since VDDK 5.0. */
export function VixDiskLib_GetTransportMode(diskHandle: Disk): string {
  return opened(diskHandle).transportMode;
}

/** An entry of the disk database, its key without `ddb.`: get() of {@link Disk.metadata}. Since VDDK 1.0. */
export async function VixDiskLib_ReadMetadata(diskHandle: Disk, key: string): Promise<string> {
  return opened(diskHandle).metadata.get(key);
}

/** Adds or changes an entry: set() of {@link Disk.metadata}. Since VDDK 1.0. */
export async function VixDiskLib_WriteMetadata(diskHandle: Disk, key: string, value: string): Promise<void> {
  await opened(diskHandle).metadata.set(key, value);
}

/** Keys of all entries, those of the parents too: keys() of {@link Disk.metadata}. Since VDDK 1.0. */
export async function VixDiskLib_GetMetadataKeys(diskHandle: Disk): Promise<readonly string[]> {
  return opened(diskHandle).metadata.keys();
}

/**
 * Runs of chunks that hold anything, all in sectors: {@link Disk.allocatedBlocks}. One call looks at no more than {@link MAX_CHUNK_NUMBER} chunks.
 * Since VDDK 6.7.
 */
export async function VixDiskLib_QueryAllocatedBlocks(diskHandle: Disk, startSector: Sectors, numSectors: Sectors, chunkSize: Sectors): Promise<readonly Block[]> {
  const options = { start: startSector, length: numSectors, chunkSize };
  refuseTooMany(planQuery(opened(diskHandle).backend.size, options));
  return diskHandle.queryAllocatedBlocks(options);
}

/**
 * Fills the first `numSectors` sectors of `readBuffer`. Since VDDK 1.0.
 * @throws VixError VIX_E_BUFFER_TOOSMALL; VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED while asynchronous calls are under way on the handle
 */
export async function VixDiskLib_Read(diskHandle: Disk, startSector: Sectors, numSectors: number, readBuffer: Uint8Array): Promise<void> {
  await synchronous(diskHandle, () => diskHandle.readInto(startSector, part(readBuffer, numSectors)));
}

/** Writes the first `numSectors` sectors of `writeBuffer`. Since VDDK 1.0. @throws VixError as VixDiskLib_Read */
export async function VixDiskLib_Write(diskHandle: Disk, startSector: Sectors, numSectors: number, writeBuffer: Uint8Array): Promise<void> {
  await synchronous(diskHandle, () => diskHandle.write(startSector, part(writeBuffer, numSectors)));
}

/**
 * Starts to read and returns VIX_ASYNC. The buffer must be left alone until `callback` has been told the result. Since VDDK 6.0.
 * @throws VixError VIX_E_BUFFER_TOOSMALL; VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED while a synchronous call is under way on the handle
 */
export function VixDiskLib_ReadAsync(
  diskHandle: Disk, startSector: Sectors, numSectors: number, readBuffer: Uint8Array, callback: VixDiskLibCompletionCB, cbData?: unknown,
): number {
  const target = part(readBuffer, numSectors);
  return asynchronous(diskHandle, () => diskHandle.readInto(startSector, target), callback, cbData);
}

/** Starts to write and returns VIX_ASYNC. Since VDDK 6.0. @throws VixError as VixDiskLib_ReadAsync */
export function VixDiskLib_WriteAsync(
  diskHandle: Disk, startSector: Sectors, numSectors: number, writeBuffer: Uint8Array, callback: VixDiskLibCompletionCB, cbData?: unknown,
): number {
  const source = part(writeBuffer, numSectors);
  return asynchronous(diskHandle, () => diskHandle.write(startSector, source), callback, cbData);
}

/** Resolves when all callbacks of the handle's asynchronous calls were called. Since VDDK 6.5. */
export async function VixDiskLib_Wait(diskHandle: Disk): Promise<void> {
  const use = useOf(opened(diskHandle));
  if (use.asynchronous > 0) await new Promise<void>((resolve) => use.waiters.push(resolve));
}

/** All that was written becomes durable: {@link Disk.flush}. Since VDDK 6.0. */
export async function VixDiskLib_Flush(diskHandle: Disk): Promise<void> {
  await opened(diskHandle).flush();
}

/** Calls under way on a handle. */
interface Use {
  synchronous: number;
  asynchronous: number;
  waiters: (() => void)[];
}
const uses = new WeakMap<Disk, Use>();

function useOf(disk: Disk): Use {
  let use = uses.get(disk);
  if (use === undefined) uses.set(disk, use = { synchronous: 0, asynchronous: 0, waiters: [] });
  return use;
}

async function synchronous(disk: Disk, request: () => MaybePromise<void>): Promise<void> {
  const use = useOf(opened(disk));
  if (use.asynchronous > 0) throw new VixError('VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED', undefined, { path: disk.path });
  use.synchronous++;
  try {
    await request();
  } finally {
    use.synchronous--;
  }
}

function asynchronous(disk: Disk, request: () => MaybePromise<void>, callback: VixDiskLibCompletionCB, cbData: unknown): number {
  const use = useOf(opened(disk));
  if (use.synchronous > 0) throw new VixError('VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED', undefined, { path: disk.path });
  const result = request();
  use.asynchronous++;
  const finish = (code: number): void => {
    try {
      callback(cbData, code);
    } finally {
      if (--use.asynchronous === 0) for (const wake of use.waiters.splice(0)) wake();
    }
  };
  // never before this call has returned
  if (isPromise(result)) void result.then(() => VixErrorCode.VIX_OK, errorNumber).then(finish);
  else queueMicrotask(() => finish(VixErrorCode.VIX_OK));
  return VixErrorCode.VIX_ASYNC;
}

function connected(connection: Connection): Connection {
  if (connection instanceof Connection) return connection;
  throw new VixError('VIX_E_DISK_INVALID_CONNECTION');
}

function opened(disk: Disk): Disk {
  if (disk instanceof Disk && disk.isOpen) return disk;
  throw new VixError('VIX_E_INVALID_HANDLE');
}

function part(buffer: Uint8Array, sectors: number): Uint8Array {
  const length = sectors * SECTOR_SIZE;
  if (!Number.isInteger(sectors) || sectors <= 0) throw new VixError('VIX_E_INVALID_ARG', `${sectors} sectors`);
  if (buffer.length < length) throw new VixError('VIX_E_BUFFER_TOOSMALL', `${buffer.length} bytes for ${sectors} sectors`);
  return buffer.length === length ? buffer : buffer.subarray(0, length);
}

function control(progress: VixDiskLibProgressFunc | null | undefined, data: unknown): LongOperation {
  if (!progress) return {};
  return {
    onProgress: ({ percent }: Progress) => {
      if (progress(data, percent) === false) throw new VixError('VIX_E_CANCELLED');
    },
  };
}
