/** Making the file that an image is laid on. */
import { close, constants, ftruncate, open, unlink } from 'node:fs';
import { promisify } from 'node:util';
import { Perm } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { Ioctl, type Native, native as systemCalls } from '../../platform/native.js';
import { PermissionLocks } from './locks.js';
import { preallocate, writeFirstBlock } from './preallocate.js';
import { errnoOf } from './errno.js';

const openFile = promisify(open);
const closeFile = promisify(close);
const truncateFile = promisify(ftruncate);
const unlinkFile = promisify(unlink);

const sector = 512;
const defaultExtentSizeHint = 1 << 20;
const FS_NOCOW = 0x00800000;
const FS_XFLAG_EXTSIZE = 0x00000800;

/**
 * Creates the file or empties it, unless another process holds it. Options: `size` in bytes (rounded up to whole sectors),
 * `preallocation` of that size (off, falloc, full), `nocow`, `extent_size_hint` in bytes.
 */
export async function createFile(filename: string, options: Readonly<Record<string, OptionValue>>): Promise<void> {
  const size = Math.ceil((typeof options['size'] === 'number' ? options['size'] : 0) / sector) * sector;
  const mode = preallocationOf(options['preallocation'], filename);
  const extentSizeHint = extentSizeHintOf(options['extent_size_hint'], filename);
  const native = systemCalls();
  const { fd, made } = await openNew(filename);
  try {
    if (native) new PermissionLocks(native, fd, filename).set(Perm.WRITE | Perm.RESIZE, Perm.ALL & ~Perm.RESIZE);
    await truncateFile(fd, 0).catch((error: unknown) => { throw systemError(errnoOf(error), { driver: 'file', filename }, 'Could not resize file', error); });
    if (native) setHints(native, fd, { nocow: options['nocow'] === true, extentSizeHint });
    if (mode === 'off') {
      await truncateFile(fd, size).catch((error: unknown) => { throw systemError(errnoOf(error), { driver: 'file', filename }, 'Could not resize file', error); });
      writeFirstBlock(fd, size);
    } else {
      await preallocate(fd, native, 0, size, mode);
    }
  } catch (error) {
    if (made) await unlinkFile(filename).catch(() => undefined);
    throw error;
  } finally {
    await closeFile(fd);
  }
}

/** Not emptied yet: somebody may hold it. */
async function openNew(filename: string): Promise<{ fd: number; made: boolean }> {
  const access = constants.O_RDWR | constants.O_CREAT;
  try {
    return { fd: await openFile(filename, access | constants.O_EXCL, 0o644), made: true };
  } catch (error) {
    const fail = (reason: unknown): never => { throw systemError(errnoOf(reason), { driver: 'file', filename, op: 'create' }, `Could not create '${filename}'`, reason); };
    if (errnoOf(error) !== Errno.EEXIST) return fail(error);
    return { fd: await openFile(filename, access, 0o644).catch(fail), made: false };
  }
}

function preallocationOf(value: OptionValue, filename: string): 'off' | 'metadata' | 'falloc' | 'full' {
  if (value === undefined || value === 'off') return 'off';
  if (value === 'metadata' || value === 'falloc' || value === 'full') return value;
  throw new BlockError('INVALID_ARGUMENT', `invalid parameter value: ${String(value)}`, { driver: 'file', filename });
}

function extentSizeHintOf(value: OptionValue, filename: string): number {
  if (typeof value !== 'number') return defaultExtentSizeHint;
  if (value > 0xffff_ffff) throw new BlockError('INVALID_ARGUMENT', 'Extent size hint is too large', { driver: 'file', filename });
  return value;
}

/** Hints that a file system without them is free to ignore. */
function setHints(native: Native, fd: number, { nocow, extentSizeHint }: { readonly nocow: boolean; readonly extentSizeHint: number }): void {
  if (nocow) {
    const flags = new BigInt64Array(1);
    if (native.ioctl(fd, Ioctl.FS_IOC_GETFLAGS, flags) === 0) {
      flags[0]! |= BigInt(FS_NOCOW);
      native.ioctl(fd, Ioctl.FS_IOC_SETFLAGS, flags);
    }
  }
  // struct fsxattr: flags, extent size, …
  const attributes = new Uint32Array(7);
  if (extentSizeHint === 0 || native.ioctl(fd, Ioctl.FS_IOC_FSGETXATTR, attributes) !== 0) return;
  attributes[0]! |= FS_XFLAG_EXTSIZE;
  attributes[1] = extentSizeHint;
  native.ioctl(fd, Ioctl.FS_IOC_FSSETXATTR, attributes);
}
