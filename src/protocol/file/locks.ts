/**
 * Locks between processes, as QEMU keeps them on image files: byte 100+n is read-locked by whoever uses permission n, byte 200+n by
 * whoever does not share it.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import type { Native } from '../../platform/native.js';
import { Perm } from '../../block/driver.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';

const usedBytes = 100;
const unsharedBytes = 200;
const names = ['consistent read', 'write', 'write unchanged', 'resize'] as const;

/** The locks one file description holds. */
export class PermissionLocks {
  readonly #native: Native;
  readonly #fd: number;
  readonly #filename: string;
  #used = 0;
  #unshared = 0;

  constructor(native: Native, fd: number, filename: string) {
    this.#native = native;
    this.#fd = fd;
    this.#filename = filename;
  }

  /** Holds exactly what is asked. Throws PERMISSION_CONFLICT where another process is in the way, and then holds what it held before. */
  set(take: number, share: number): void {
    const unshared = Perm.ALL & ~share;
    const newlyUsed = take & ~this.#used;
    const newlyUnshared = unshared & ~this.#unshared;
    try {
      this.#lock(usedBytes, newlyUsed);
      this.#lock(unsharedBytes, newlyUnshared);
      this.#refuseConflicts(unsharedBytes, newlyUsed, 'Failed to get');
      this.#refuseConflicts(usedBytes, newlyUnshared, 'Failed to get shared');
    } catch (error) {
      this.#unlock(usedBytes, newlyUsed);
      this.#unlock(unsharedBytes, newlyUnshared);
      throw error;
    }
    this.#unlock(usedBytes, this.#used & ~take);
    this.#unlock(unsharedBytes, this.#unshared & ~unshared);
    this.#used = take;
    this.#unshared = unshared;
  }

  /** The same locks on another description of the same file; to be made before this one is closed. */
  moveTo(fd: number): PermissionLocks {
    const moved = new PermissionLocks(this.#native, fd, this.#filename);
    moved.#lock(usedBytes, this.#used);
    moved.#lock(unsharedBytes, this.#unshared);
    moved.#used = this.#used;
    moved.#unshared = this.#unshared;
    return moved;
  }

  #lock(base: number, bits: number): void {
    for (const bit of bitsOf(bits)) {
      const result = this.#native.lock(this.#fd, 'read', base + bit, 1);
      if (result === 0) continue;
      const taken = result === -Errno.EAGAIN || result === -Errno.EACCES;
      throw this.#conflict(taken ? `Failed to lock byte ${base + bit}` : `Failed to lock byte ${base + bit}: ${strerror(-result)}`, base + bit, -result);
    }
  }

  #unlock(base: number, bits: number): void {
    for (const bit of bitsOf(bits)) this.#native.lock(this.#fd, 'none', base + bit, 1);
  }

  #refuseConflicts(base: number, bits: number, failed: string): void {
    for (const bit of bitsOf(bits)) {
      const result = this.#native.lockConflicts(this.#fd, 'write', base + bit, 1);
      if (result === 0) continue;
      throw this.#conflict(`${failed} "${names[bit]}" lock`, base + bit, result < 0 ? -result : Errno.EAGAIN);
    }
  }

  #conflict(message: string, byte: number, errno: number): BlockError {
    const holder = describeHolder(this.#filename, byte, this.#fd);
    return new BlockError('PERMISSION_CONFLICT', message, {
      driver: 'file', filename: this.#filename, errno, hint: `Is another process using the image [${this.#filename}]?`,
      ...(holder !== undefined && { holder }),
    });
  }
}

function bitsOf(bits: number): number[] {
  return [0, 1, 2, 3].filter((bit) => (bits & (1 << bit)) !== 0);
}

/**
 * The processes that hold a lock on that byte of the file, as far as this user may look: `process 4711 (qemu-system-x86)`. The
 * kernel names no owner for such locks, so the open files of all processes are searched, all but this one's `ownFd`.
 */
function describeHolder(filename: string, byte: number, ownFd: number): string | undefined {
  const holders: string[] = [];
  try {
    const { ino } = statSync(filename);
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      if (holdsLock(pid, ino, byte, ownFd)) holders.push(`process ${pid} (${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()})`);
    }
  } catch {
    // No /proc, or the file or the process went away: the names are a courtesy.
  }
  return holders.length > 0 ? holders.join(', ') : undefined;
}

function holdsLock(pid: string, inode: number, byte: number, ownFd: number): boolean {
  const folder = `/proc/${pid}/fdinfo`;
  try {
    return readdirSync(folder).some((fd) => {
      if (pid === String(process.pid) && fd === String(ownFd)) return false;
      for (const [, start, end] of readFileSync(`${folder}/${fd}`, 'latin1').matchAll(lockLines(inode))) {
        if (Number(start) <= byte && (end === 'EOF' || byte <= Number(end))) return true;
      }
      return false;
    });
  } catch {
    return false;
  }
}

/** `lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:131 100 101` */
function lockLines(inode: number): RegExp {
  return new RegExp(`^lock:.*[0-9a-f]+:[0-9a-f]+:${inode} (\\d+) (\\d+|EOF)$`, 'gm');
}
