/** Moving bytes to and from a descriptor through the page cache. */
import { readSync, writeSync } from 'node:fs';
import type { Native } from '../../platform/native.js';
import { Errno, systemError } from '../../block/errors.js';
import type { MaybePromise } from '../../util/maybe.js';
import { errnoOf } from './errno.js';
import type { Pace } from './pace.js';
import { longest, readLater, writeLater } from './pool.js';
import { WriteQueue } from './write-queue.js';

export interface Transfer {
  /** Fills the target; what lies past the file's end is zero. */
  read(offset: number, target: Uint8Array): MaybePromise<void>;
  write(offset: number, source: Uint8Array): MaybePromise<void>;
}

/** Copying more than this takes so long that others would wait for it: it goes to another thread whether cached or not. */
const longestHere = 4 << 20;

/** Writes below are done sooner than they are handed to another thread, unless that is writing already. */
const backgroundFrom = 128 * 1024;

/** Bytes moved, or -errno. */
type Attempt = (fd: number, bytes: Uint8Array, offset: number) => number;

const mustWait: Attempt = () => -Errno.EAGAIN;

function attempt(call: (fd: number, bytes: Uint8Array, start: number, length: number, position: number) => number): Attempt {
  return (fd, bytes, offset) => {
    try {
      return call(fd, bytes, 0, Math.min(bytes.length, longest), offset);
    } catch (error) {
      return -errnoOf(error);
    }
  };
}

/**
 * Reads what is cached at once and the rest on the thread pool; writes at once while that proves quick. Nothing here waits for a
 * device on the calling thread, except a write that comes first upon a disk that turned slow.
 */
export class BufferedTransfer implements Transfer {
  readonly #fd: number;
  #readNow: Attempt;
  readonly #writeNow: Attempt;
  readonly #pace: Pace | undefined;
  #queue: WriteQueue | undefined;

  /** Without a pace every write is made at once: the file system lives in memory and has no device to wait for. */
  constructor(fd: number, native: Native | undefined, pace: Pace | undefined) {
    const inMemory = pace === undefined;
    this.#fd = fd;
    this.#pace = pace;
    if (inMemory) this.#readNow = native ? (file, bytes, offset) => native.read(file, bytes, offset) : attempt(readSync);
    else this.#readNow = native ? (file, bytes, offset) => native.readNow(file, bytes, offset) : mustWait;
    this.#writeNow = native ? (file, bytes, offset) => native.write(file, bytes, offset) : attempt(writeSync);
  }

  /** Large writes are done on another thread from now on, so that their sender can go on. */
  allowBackgroundWrites(): boolean {
    this.#queue = new WriteQueue(this.#fd);
    return true;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    if (target.length > longestHere) return readLater(this.#fd, offset, target, 0);
    const count = this.#readNow(this.#fd, target, offset);
    return count === target.length ? undefined : this.#readRest(offset, target, count);
  }

  write(offset: number, source: Uint8Array): MaybePromise<void> {
    if (this.#queue && (source.length >= backgroundFrom || this.#queue.busy)) return this.#queue.write(offset, source);
    const start = this.#pace ? this.#pace.begin() : 0;
    if (start === undefined || source.length > longestHere) return writeLater(this.#fd, offset, source, 0);
    const count = this.#writeNow(this.#fd, source, offset);
    this.#pace?.end(start, source.length);
    if (count === source.length) return undefined;
    if (count < 0 && count !== -Errno.EINTR) throw systemError(-count, { op: 'write', offset, length: source.length });
    return writeLater(this.#fd, offset, source, Math.max(count, 0));
  }

  #readRest(offset: number, target: Uint8Array, count: number): MaybePromise<void> {
    // A file system that cannot tell what is cached is not asked again; a real failure shows itself on the pool.
    if (count < 0 && count !== -Errno.EAGAIN && count !== -Errno.EINTR) this.#readNow = mustWait;
    return readLater(this.#fd, offset, target, Math.max(count, 0));
  }
}
