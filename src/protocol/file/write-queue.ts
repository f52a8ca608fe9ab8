/** Writing behind the sender's back: one thread writes while the sender prepares what comes next. */
import { Errno, systemError } from '../../block/errors.js';
import { QueuedWrites } from '../../platform/queued-writes.js';
import { writeLater } from './pool.js';

/**
 * Writes of one file. Kernels let no two threads write to a file at once, and those that try only keep a processor busy: there is
 * never more than one.
 */
export class WriteQueue {
  readonly #fd: number;
  readonly #queued: QueuedWrites | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(fd: number) {
    this.#fd = fd;
    this.#queued = QueuedWrites.of(fd);
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    if (this.#queued) return this.#finish(this.#queued.write(offset, source), offset, source);
    const written = this.#last.then(() => writeLater(this.#fd, offset, source, 0));
    this.#last = written.catch(() => undefined);
    return written;
  }

  async #finish(result: Promise<number>, offset: number, source: Uint8Array): Promise<void> {
    const count = await result;
    if (count === -Errno.EAGAIN) return writeLater(this.#fd, offset, source, 0);
    if (count < 0) throw systemError(-count, { op: 'write', offset, length: source.length });
    if (count < source.length) return writeLater(this.#fd, offset, source, count);
  }
}
