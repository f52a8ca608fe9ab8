/** Reads whose reply is made piece by piece, so that no request makes the server hold more than a piece of it. */
import type { BlockBackend } from '../../block/child.js';
import { andThen, isPromise, loop, type MaybePromise } from '../../util/maybe.js';
import { ReplyFlag } from '../../wire/nbd/constants.js';
import { viewOf } from './buffers.js';
import type { Cookie, Replies } from './replies.js';

const PIECE = 128 * 1024;
/** Pieces where the backend does not answer at once. */
const ASYNC_PIECE = 1024 * 1024;

/** The connection, as far as long reads need it. */
export interface ReadHost {
  /** Nothing if a piece may be made now, else a promise of that moment. */
  room(): MaybePromise<void>;
  /** Memory lent to a piece that is being read, or given back (negative). */
  pending(bytes: number): void;
  /** Runs `answer`, which puts replies into the queue, when that is allowed. */
  emit(answer: () => void): void;
  /** Nobody hears the answer. */
  closed(): boolean;
}

export class LongReads {
  readonly #backend: BlockBackend;
  readonly #replies: Replies;
  readonly #host: ReadHost;

  constructor(backend: BlockBackend, replies: Replies, host: ReadHost) {
    this.#backend = backend;
    this.#replies = replies;
    this.#host = host;
  }

  /** A structured reply: chunks of data, and holes where the backend knows of them. `cookie` must outlive the call. */
  inChunks(cookie: Cookie, length: number): MaybePromise<void> {
    const end = cookie.offset + length;
    let offset = cookie.offset;
    let dataEnd = offset;
    let piece = PIECE;
    const advance = (bytes: number): boolean => {
      offset += bytes;
      return offset < end;
    };
    const data = (): MaybePromise<boolean> => {
      const bytes = Math.min(piece, dataEnd - offset);
      const result = this.#chunk(cookie, offset, bytes, offset + bytes === end ? ReplyFlag.DONE : 0);
      if (!isPromise(result)) return advance(bytes);
      piece = ASYNC_PIECE;
      return result.then(() => advance(bytes));
    };
    const step = (): MaybePromise<boolean> => {
      if (this.#host.closed()) return false;
      if (offset < dataEnd) return data();
      return andThen(this.#backend.status(offset, end - offset), (status) => {
        const bytes = Math.min(status.length, end - offset);
        if (!status.zero || bytes === 0) {
          dataEnd = bytes === 0 ? end : offset + bytes;
          return data();
        }
        const at = offset;
        this.#host.emit(() => this.#replies.hole(cookie, at, bytes, at + bytes === end ? ReplyFlag.DONE : 0));
        return advance(bytes);
      });
    };
    return loop(() => andThen(this.#host.room(), step));
  }

  #chunk(cookie: Cookie, offset: number, length: number, flags: number): MaybePromise<void> {
    const { queue, dataHead } = this.#replies;
    const at = queue.claim(dataHead + length);
    const end = at + dataHead + length;
    const result = this.#backend.read(offset, viewOf(queue.bytes, at + dataHead, length));
    if (!isPromise(result)) {
      this.#replies.putDataHead(queue.bytes, at, cookie, offset, length, flags);
      queue.commit(end);
      return undefined;
    }
    const block = queue.detach(end);
    this.#host.pending(length);
    return result.then(() => {
      this.#host.pending(-length);
      this.#replies.putDataHead(block.bytes, at, cookie, offset, length, flags);
      this.#host.emit(() => queue.attach(block, at, end));
    }, (error: unknown) => {
      this.#host.pending(-length);
      queue.abandon(block);
      throw error;
    });
  }

  /**
   * A reply that may not be cut: header, then data. The caller keeps other replies out meanwhile. Resolves with false where it fails
   * after the header has gone out, so that the client can no longer be told.
   */
  uncut(cookie: Cookie, length: number): MaybePromise<boolean> {
    const { queue, dataHead } = this.#replies;
    const end = cookie.offset + length;
    const piece = new Uint8Array(PIECE);
    let offset = cookie.offset;
    const send = (bytes: number): boolean => {
      const first = offset === cookie.offset;
      const at = queue.claim(dataHead + bytes);
      if (first) this.#replies.putDataHead(queue.bytes, at, cookie, offset, length, ReplyFlag.DONE);
      const to = first ? at + dataHead : at;
      queue.bytes.set(piece.subarray(0, bytes), to);
      queue.commit(to + bytes);
      offset += bytes;
      return offset < end;
    };
    const step = (): MaybePromise<boolean> => {
      if (this.#host.closed()) return false;
      const bytes = Math.min(PIECE, end - offset);
      return andThen(this.#backend.read(offset, piece.subarray(0, bytes)), () => send(bytes));
    };
    const failed = (error: unknown): boolean => {
      if (offset === cookie.offset) throw error;
      return false;
    };
    try {
      const done = loop(() => andThen(this.#host.room(), step));
      return isPromise(done) ? done.then(() => true, failed) : true;
    } catch (error) {
      return failed(error);
    }
  }
}
