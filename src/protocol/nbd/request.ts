/** A request on its way: what was asked, what has come back, and the promise of its end. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import { Command } from '../../wire/nbd/constants.js';
import { errnoOfNbd } from '../../wire/nbd/errors.js';
import { NbdFormatError } from '../../wire/nbd/handshake.js';

const names: Readonly<Record<number, string>> = {
  [Command.READ]: 'read', [Command.WRITE]: 'write', [Command.FLUSH]: 'flush', [Command.TRIM]: 'discard', [Command.CACHE]: 'read',
  [Command.WRITE_ZEROES]: 'writeZeroes', [Command.BLOCK_STATUS]: 'status',
};

export class NbdRequest {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** READ: where the data go. */
  readonly target: Uint8Array | undefined;
  /** WRITE: the data. */
  readonly source: Uint8Array | undefined;
  readonly done: Promise<void>;
  /** Bytes of a READ that have arrived. */
  covered = 0;
  /** First extent of a BLOCK_STATUS; length 0: none yet. */
  statusLength = 0;
  statusFlags = 0;
  /** clockMs() until which a lost request is sent again; set by its first loss. */
  deadline = 0;
  #error: BlockError | undefined;
  #resolve!: () => void;
  #reject!: (error: Error) => void;

  constructor(type: number, flags: number, offset: number, length: number, target?: Uint8Array, source?: Uint8Array) {
    this.type = type;
    this.flags = flags;
    this.offset = offset;
    this.length = length;
    this.target = target;
    this.source = source;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** It is sent (again): forget what a former connection brought. */
  restart(): void {
    this.covered = 0;
    this.statusLength = 0;
    this.#error = undefined;
  }

  /** The part of the target for a chunk. @throws NbdFormatError outside the request */
  place(offset: number, length: number): Uint8Array {
    const at = offset - this.offset;
    if (this.target === undefined || length === 0 || at < 0 || at + length > this.target.length) {
      throw new NbdFormatError('server sent data outside what was read');
    }
    return this.target.subarray(at, at + length);
  }

  /** The server's error; the first one counts, and the request goes on until its last chunk. */
  fail(error: number, message: string): void {
    const { offset, length } = this;
    const cause = message === '' ? undefined : new Error(`server reported: ${message}`);
    this.#error ??= systemError(errnoOfNbd(error), { driver: 'nbd', op: names[this.type] ?? 'request', offset, length }, undefined, cause);
  }

  /** The server's last word has come. */
  finish(): void {
    if (this.#error !== undefined) this.#reject(this.#error);
    else if (this.target !== undefined && this.covered !== this.target.length) this.abandon(new Error('server left out a part of the data'));
    else if (this.type === Command.BLOCK_STATUS && this.statusLength === 0) this.abandon(new Error('server left out the block status'));
    else this.#resolve();
  }

  /** It will not be answered. */
  abandon(reason: Error): void {
    const { offset, length } = this;
    const context = { driver: 'nbd', op: names[this.type] ?? 'request', offset, length };
    this.#reject(new BlockError('CONNECTION_LOST', strerror(Errno.EIO), context, reason));
  }
}
