/** Writing behind the sender's back: one thread writes while the sender prepares what comes next. */
import { writev } from 'node:fs';
import { Errno, systemError } from '../../block/errors.js';
import { errnoOf } from './errno.js';

interface Waiting {
  readonly offset: number;
  readonly source: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Most buffers one system call takes. */
const mostBuffers = 64;

/** With this many bytes waiting, a second call stands in line behind the first, so that the file is not idle until this thread has noticed. */
const aheadBytes = 1 << 20;

/**
 * Writes of one file. Kernels let no two threads write to a file at once, and those that try only keep a processor busy: there are
 * never more than two calls. What came while they were under way goes into the next one, as far as it is adjacent.
 */
export class WriteQueue {
  readonly #fd: number;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #calls = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ offset, source, resolve, reject });
      this.#waitingBytes += source.length;
      this.#next();
    });
  }

  #next(): void {
    if (this.#waiting.length === 0 || this.#calls >= (this.#waitingBytes >= aheadBytes ? 2 : 1)) return;
    const batch = this.#waiting.splice(0, this.#adjacent());
    for (const { source } of batch) this.#waitingBytes -= source.length;
    this.#calls++;
    this.#send(batch, batch[0]!.offset, batch.map(({ source }) => source));
  }

  /** How many of those waiting one call can write. */
  #adjacent(): number {
    let count = 1;
    for (; count < Math.min(this.#waiting.length, mostBuffers); count++) {
      const { offset, source } = this.#waiting[count - 1]!;
      if (this.#waiting[count]!.offset !== offset + source.length) break;
    }
    return count;
  }

  #send(batch: readonly Waiting[], position: number, buffers: readonly Uint8Array[]): void {
    writev(this.#fd, buffers, position, (error, count) => {
      const failed = error ? errnoOf(error) : count === 0 ? Errno.ENOSPC : undefined;
      if (failed !== undefined) {
        for (const { offset, source, reject } of batch) reject(systemError(failed, { op: 'write', offset, length: source.length }, undefined, error));
        return this.#ended();
      }
      const rest = after(buffers, count);
      if (rest.length > 0) return this.#send(batch, position + count, rest);
      this.#ended();
      for (const { resolve } of batch) resolve();
    });
  }

  #ended(): void {
    this.#calls--;
    this.#next();
  }
}

/** What is left of the buffers after their first `count` bytes. */
function after(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  for (const buffer of buffers) {
    if (count < buffer.length) rest.push(buffer.subarray(count));
    count = Math.max(0, count - buffer.length);
  }
  return rest;
}
