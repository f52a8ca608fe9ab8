/** Lengthening a file together with the space behind it. */
import { close, fsync, ftruncate, open, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Preallocation } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Native } from '../../platform/native.js';
import { errnoOf } from './errno.js';
import { writeLater } from './pool.js';

const openFile = promisify(open);
const closeFile = promisify(close);
const truncateFile = promisify(ftruncate);
const syncFile = promisify(fsync);
const chunk = 1 << 20;

/**
 * Lengthens the file to `size` bytes, reserving the added range (falloc) or writing it (full). Rejects with QEMU's texts; the file
 * then has its former length.
 */
export async function preallocate(fd: number, native: Native | undefined, formerSize: number, size: number, mode: Exclude<Preallocation, 'off'>, signal?: AbortSignal): Promise<void> {
  if (mode === 'metadata') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode: ${mode}`, { errno: Errno.ENOTSUP });
  if (size < formerSize) throw new BlockError('INVALID_ARGUMENT', 'Preallocation can only be used for growing images', { errno: Errno.EINVAL });
  if (size === formerSize) return;
  try {
    if (mode === 'full' || !await reserve(fd, native, formerSize, size)) await writeZeroes(fd, formerSize, size, signal);
  } catch (error) {
    await truncateFile(fd, formerSize).catch(() => undefined);
    throw error;
  }
}

/**
 * Stores zeroes at the start of a file that was empty, as QEMU does: whoever opens it past the page cache can then try out which
 * alignment the disk wants. No write may be on its way.
 */
export function writeFirstBlock(fd: number, size: number): void {
  try {
    if (size > 0) writeSync(fd, new Uint8Array(Math.min(size, 4096)), 0, undefined, 0);
  } catch {
    // It helps, it is not needed.
  }
}

/** False where the file system cannot reserve space. */
async function reserve(fd: number, native: Native | undefined, start: number, end: number): Promise<boolean> {
  const result = native ? await native.allocateLater(fd, 0, start, end - start) : -Errno.EOPNOTSUPP;
  if (result === -Errno.EOPNOTSUPP) return false;
  if (result < 0) throw systemError(-result, { op: 'resize' }, 'Could not preallocate new data');
  return true;
}

async function writeZeroes(fd: number, start: number, end: number, signal: AbortSignal | undefined): Promise<void> {
  const zeroes = new Uint8Array(Math.min(chunk, end - start));
  let plain: number | undefined;
  try {
    // The descriptor itself may want aligned memory (O_DIRECT).
    plain = await openFile(`/proc/self/fd/${fd}`, 'r+');
    for (let at = start; at < end; at += chunk) {
      signal?.throwIfAborted();
      await writeLater(plain, at, zeroes.subarray(0, Math.min(chunk, end - at)), 0);
    }
    await syncFile(plain);
  } catch (error) {
    if (signal?.aborted === true) throw error;
    throw systemError(error instanceof BlockError ? error.errno : errnoOf(error), { op: 'resize' }, 'Could not write zeros for preallocation', error);
  } finally {
    if (plain !== undefined) await closeFile(plain);
  }
}
