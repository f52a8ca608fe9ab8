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
  #pending = 0;

  constructor(fd: number) {
    this.#fd = fd;
    this.#queued = QueuedWrites.of(fd);
  }

  /** Something is being written: who would write beside it has to wait, and keeps a processor busy. */
  get busy(): boolean {
    return this.#pending > 0;
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    this.#pending++;
    return this.#send(offset, source).finally(() => { this.#pending--; });
  }

  #send(offset: number, source: Uint8Array): Promise<void> {
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
