/** Drivers `file`, `host_device` and `host_cdrom`: images in files of the host, and its disks. */
import { close, constants, fstat, open, realpath, type Stats, statfs, statSync, unlink } from 'node:fs';
import { promisify } from 'node:util';
import type { BlockDriver, OpenContext } from '../../block/driver.js';
import { BlockError, Errno, notTaken, systemError } from '../../block/errors.js';
import type { OptionSchema } from '../../block/options.js';
import { type Native, native as systemCalls } from '../../platform/native.js';
import { createFile } from './create.js';
import { deviceGeometry } from './device.js';
import { probeAlignment } from './direct.js';
import { folders } from './folder.js';
import { PermissionLocks } from './locks.js';
import { FileOps } from './ops.js';
import { errnoOf } from './errno.js';

const openFile = promisify(open);
const closeFile = promisify(close);
const statOpenFile = promisify(fstat);
const statFileSystem = promisify(statfs);
const realPath = promisify(realpath);
const unlinkFile = promisify(unlink);

/** Options as in QAPI's BlockdevOptionsFile. */
export interface FileOptions {
  readonly filename?: string;
  /** Locks between processes: `auto` where the host has them. */
  readonly locking?: 'auto' | 'on' | 'off';
  /** All three are served the same way here. */
  readonly aio?: 'threads' | 'native' | 'io_uring';
  readonly 'aio-max-batch'?: number;
  readonly 'pr-manager'?: string;
  readonly 'drop-cache'?: boolean;
  readonly 'x-check-cache-dropped'?: boolean;
}

/** What the graph adds to a protocol's options. */
interface NodeOptions {
  readonly cache?: { readonly direct?: boolean };
  readonly 'auto-read-only'?: boolean;
}

const options: OptionSchema<FileOptions> = {
  filename: { type: 'string', help: 'File name of the image' },
  locking: { type: 'enum', values: ['auto', 'on', 'off'], default: 'auto', help: 'file locking mode (on/off/auto, default: auto)', strong: false },
  aio: { type: 'enum', values: ['threads', 'native', 'io_uring'], default: 'threads', help: 'host AIO implementation (threads, native, io_uring)', strong: false },
  'aio-max-batch': { type: 'number', help: 'AIO max batch size (0 = auto handled by AIO backend, default: 0)', strong: false },
  'pr-manager': { type: 'string', help: 'id of persistent reservation manager object (default: none)', strong: false },
  'drop-cache': { type: 'boolean', help: 'invalidate page cache during live migration (default: on)', strong: false },
  'x-check-cache-dropped': { type: 'boolean', help: 'check that page cache was dropped on live migration (default: off)', strong: false },
};

/** Magic numbers of file systems that live in memory: reading them never waits. */
const memoryFileSystems = new Set([0x01021994 /* tmpfs */, 0x858458f6 /* ramfs */, 0x958458f6 /* hugetlbfs */]);

type DriverName = 'file' | 'host_device' | 'host_cdrom';

function isRightKind(driver: DriverName, stats: Stats): boolean {
  return driver === 'file' ? stats.isFile() : stats.isBlockDevice() || stats.isCharacterDevice();
}

function wrongKind(driver: DriverName, filename: string): BlockError {
  const wanted = driver === 'file' ? 'a regular file' : 'either a character or block device';
  return new BlockError('INVALID_ARGUMENT', `'${driver}' driver requires '${filename}' to be ${wanted}`, { driver, filename, errno: Errno.EINVAL });
}

function checkOptions(driver: DriverName, given: FileOptions & NodeOptions): string {
  const refuse = (message: string): BlockError => new BlockError('INVALID_ARGUMENT', message, { driver, errno: Errno.EINVAL });
  if (given.filename === undefined || given.filename === '') throw refuse(`The '${driver}' block driver requires a file name`);
  if (given['pr-manager'] !== undefined) throw refuse(`No persistent reservation manager with id '${given['pr-manager']}'`);
  if (given.aio === 'native' && given.cache?.direct !== true) {
    throw refuse('aio=native was specified, but it requires cache.direct=on, which was not specified.');
  }
  return given.filename;
}

async function openDescriptor(driver: DriverName, filename: string, flags: number, context: OpenContext<FileOptions & NodeOptions>): Promise<{ fd: number; readOnly: boolean }> {
  const attempt = (access: number): Promise<number> => openFile(filename, flags | access);
  const fail = (error: unknown): never => {
    throw systemError(errnoOf(error), { driver, filename, op: 'open' }, `Could not open '${filename}'`, error);
  };
  if (context.readOnly) return { fd: await attempt(constants.O_RDONLY).catch(fail), readOnly: true };
  try {
    return { fd: await attempt(constants.O_RDWR), readOnly: false };
  } catch (error) {
    const denied = ([Errno.EACCES, Errno.EROFS, Errno.EPERM] as number[]).includes(errnoOf(error));
    if (!denied || context.options['auto-read-only'] !== true) return fail(error);
    return { fd: await attempt(constants.O_RDONLY).catch(() => fail(error)), readOnly: true };
  }
}

function makeLocks(driver: DriverName, filename: string, fd: number, mode: FileOptions['locking'], native: Native | undefined): PermissionLocks | undefined {
  if (mode === 'off') return undefined;
  if (native) return new PermissionLocks(native, fd, filename);
  if (mode === 'on') throw new BlockError('NOT_SUPPORTED', 'File lock requested but OFD locking syscall is unavailable', { driver, filename, errno: Errno.ENOTSUP });
  return undefined;
}

async function openOps(driver: DriverName, context: OpenContext<FileOptions & NodeOptions>): Promise<FileOps> {
  const filename = checkOptions(driver, context.options);
  const native = systemCalls();
  const direct = context.options.cache?.direct === true;
  // O_NONBLOCK: a pipe of that name must not hold up the open; on files and disks it means nothing.
  const flags = constants.O_NONBLOCK | (direct ? constants.O_DIRECT : 0);
  const { fd, readOnly } = await openDescriptor(driver, filename, flags, context);
  try {
    const stats = await statOpenFile(fd);
    if (!isRightKind(driver, stats)) throw wrongKind(driver, filename);
    const geometry = stats.isBlockDevice() ? deviceGeometry(fd, stats.rdev, native) : undefined;
    const { type } = await statFileSystem(filename).catch(() => ({ type: 0 }));
    return new FileOps({
      driver, filename, fd, readOnly, flags, native,
      size: geometry?.size ?? stats.size,
      blockSize: geometry?.blockSize,
      directAlignment: direct ? native?.directAlignment(fd) ?? geometry?.blockSize ?? probeAlignment(fd) : 0,
      inMemory: stats.isFile() && memoryFileSystems.has(type),
      locks: makeLocks(driver, filename, fd, context.options.locking, native),
    });
  } catch (error) {
    await closeFile(fd);
    throw error instanceof BlockError ? error : systemError(errnoOf(error), { driver, filename, op: 'open' }, `Could not open '${filename}'`, error);
  }
}

/** Of a link what it leads to, for that is what was made. */
async function deleteFile(filename: string): Promise<void> {
  await realPath(filename).then(unlinkFile).catch((error: unknown) => {
    throw systemError(errnoOf(error), { driver: 'file', filename, op: 'delete' }, undefined, error);
  });
}

/** A device is not created: it is there, and large enough. */
async function checkDevice(driver: DriverName, filename: string, given: { readonly size?: unknown }): Promise<void> {
  const fd = await openFile(filename, constants.O_RDWR | constants.O_NONBLOCK).catch((error: unknown) => {
    throw notTaken(driver, systemError(errnoOf(error), { driver, filename }, `Could not open '${filename}'`, error));
  });
  try {
    const stats = await statOpenFile(fd);
    if (!isRightKind(driver, stats)) throw notTaken(driver, wrongKind(driver, filename));
    const size = stats.isBlockDevice() ? deviceGeometry(fd, stats.rdev, systemCalls()).size : 0;
    if (typeof given.size === 'number' && given.size > size) throw new BlockError('INVALID_ARGUMENT', 'Cannot grow device files', { driver, filename });
  } finally {
    await closeFile(fd);
  }
}

/** Whether a plain filename leads to a device. */
function namesDevice(filename: string): boolean {
  try {
    const stats = statSync(filename);
    return stats.isBlockDevice() || stats.isCharacterDevice();
  } catch {
    return false;
  }
}

export const file: BlockDriver<FileOptions> = {
  name: 'file',
  kind: 'protocol',
  options,
  createOptions: {
    size: { type: 'size', help: 'Virtual disk size' },
    nocow: { type: 'boolean', help: 'Turn off copy-on-write (valid only on btrfs)' },
    preallocation: { type: 'string', help: 'Preallocation mode (allowed values: off, falloc, full)' },
    extent_size_hint: { type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
  },
  children: {},
  protocolPrefixes: ['file'],
  parseFilename: (filename) => ({ filename: filename.replace(/^file:/, '') }),
  open: (context) => openOps('file', context),
  createFile,
  createsZeroed: true,
  deleteFile,
  folders,
};

function deviceDriver(name: 'host_device' | 'host_cdrom'): BlockDriver<FileOptions> {
  return {
    name,
    kind: 'protocol',
    options,
    createOptions: { size: { type: 'size', help: 'Virtual disk size' } },
    children: {},
    protocolPrefixes: [name],
    parseFilename: (filename) => ({ filename: filename.replace(new RegExp(`^${name}:`), '') }),
    open: (context) => openOps(name, context),
    createFile: (filename, given) => checkDevice(name, filename, given),
  };
}

export const hostDevice: BlockDriver<FileOptions> = { ...deviceDriver('host_device'), claims: namesDevice };
export const hostCdrom: BlockDriver<FileOptions> = deviceDriver('host_cdrom');
