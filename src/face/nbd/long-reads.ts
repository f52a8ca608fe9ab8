/** Reads whose reply is made piece by piece, so that no request makes the server hold more than a piece of it. */
import type { BlockBackend } from '../../block/child.js';
import { andThen, isPromise, loop, type MaybePromise } from '../../util/maybe.js';
import { ReplyFlag } from '../../wire/nbd/constants.js';
import { viewOf } from './buffers.js';
import { PlainFile } from './plain-file.js';
import type { Cookie, Replies } from './replies.js';

const PIECE = 128 * 1024;
/** Pieces where the backend does not answer at once. */
const ASYNC_PIECE = 1024 * 1024;
/** Stretches of data remembered. */
const MAX_KNOWN = 32;
/** Shorter stretches are quicker read than sent from the file. */
const FILE_FROM = 128 * 1024;
/**
 * Of such a piece the socket takes from the file what it holds, some 200 KiB. The rest is read, all of it at once, while the client
 * empties the socket: a client is slower at bytes that no processor has touched yet.
 */
const FILE_PIECE = 1024 * 1024;

/** The connection, as far as long reads need it. */
export interface ReadHost {
  /** Nothing if a piece may be made now, else a promise of that moment. `uncut`: for the reply that has the queue to itself. */
  room(uncut: boolean): MaybePromise<void>;
  /** Keeps other replies out of the queue while `run` is not done. */
  exclusively<T>(run: () => MaybePromise<T>): MaybePromise<T>;
  /** Ends the connection: what its client was promised cannot be kept, and it can no longer be told. */
  cutOff(): void;
  /** Nothing if the socket has taken all there was, else a promise of that moment. */
  drained(): MaybePromise<void>;
  /** Where bytes may go straight from a file to the client, behind what was sent before. */
  socketFd(): number | undefined;
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
  readonly #file: PlainFile | undefined;
  readonly #known = new KnownData();

  constructor(backend: BlockBackend, replies: Replies, host: ReadHost) {
    this.#backend = backend;
    this.#replies = replies;
    this.#host = host;
    this.#file = PlainFile.of(backend);
  }

  /** Part of what holds data may be a hole now. */
  forget(): void {
    this.#known.clear();
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
      const socketFd = this.#host.socketFd();
      const file = this.#file;
      if (file !== undefined && socketFd !== undefined && dataEnd - offset >= FILE_FROM && file.cached(offset, Math.min(FILE_PIECE, dataEnd - offset))) {
        return this.#host.exclusively(() => andThen(this.#host.drained(), () => {
          const bytes = Math.min(FILE_PIECE, dataEnd - offset);
          return andThen(this.#fromFile(file, socketFd, cookie, offset, bytes, offset + bytes === end ? ReplyFlag.DONE : 0), () => advance(bytes));
        }));
      }
      const bytes = Math.min(piece, dataEnd - offset);
      const result = this.#chunk(cookie, offset, bytes, offset + bytes === end ? ReplyFlag.DONE : 0);
      if (!isPromise(result)) return advance(bytes);
      piece = ASYNC_PIECE;
      return result.then(() => advance(bytes));
    };
    const step = (): MaybePromise<boolean> => {
      if (this.#host.closed()) return false;
      if (offset < dataEnd) return data();
      dataEnd = Math.min(end, this.#known.endOf(offset));
      if (offset < dataEnd) return data();
      return andThen(this.#backend.status(offset, this.#backend.size - offset), (status) => {
        const bytes = Math.min(status.length, end - offset);
        if (!status.zero || bytes === 0) {
          this.#known.add(offset, offset + (status.length || end - offset));
          return true;
        }
        const at = offset;
        this.#host.emit(() => this.#replies.hole(cookie, at, bytes, at + bytes === end ? ReplyFlag.DONE : 0));
        return advance(bytes);
      });
    };
    return loop(() => andThen(this.#host.room(false), step));
  }

  /** A chunk whose data the socket takes from the file as far as it can; the rest is read and follows. */
  #fromFile(file: PlainFile, socketFd: number, cookie: Cookie, offset: number, length: number, flags: number): MaybePromise<void> {
    const { queue, dataHead } = this.#replies;
    if (this.#host.closed()) return undefined;
    const at = queue.claim(dataHead);
    this.#replies.putDataHead(queue.bytes, at, cookie, offset, length, flags);
    queue.commit(at + dataHead);
    queue.send();
    let done = queue.queued === 0 ? file.send(socketFd, offset, length) : 0;
    return this.#orCutOff(() => loop(() => {
      if (done === length || this.#host.closed()) return false;
      const bytes = Math.min(PIECE, length - done);
      const from = queue.claim(bytes);
      const result = this.#backend.read(offset + done, viewOf(queue.bytes, from, bytes));
      done += bytes;
      if (!isPromise(result)) {
        queue.commit(from + bytes);
        return true;
      }
      const block = queue.detach(from + bytes);
      return result.then(() => {
        if (!this.#host.closed()) queue.attach(block, from, from + bytes);
        return true;
      });
    }));
  }

  #orCutOff(send: () => MaybePromise<void>): MaybePromise<void> {
    const fail = (): void => this.#host.cutOff();
    try {
      const done = send();
      return isPromise(done) ? done.catch(fail) : done;
    } catch {
      return fail();
    }
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

  /** A reply that may not be cut: header, then data. The caller keeps other replies out meanwhile. */
  uncut(cookie: Cookie, length: number): MaybePromise<void> {
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
    const failed = (error: unknown): void => {
      if (offset === cookie.offset) throw error;
      this.#host.cutOff();
    };
    try {
      const done = loop(() => andThen(this.#host.room(true), step));
      return isPromise(done) ? done.catch(failed) : done;
    } catch (error) {
      return failed(error);
    }
  }
}

/**
 * Stretches last seen to hold data. To read them is right whatever became of them; to ask again costs a file system much (tmpfs walks
 * all pages up to the next hole).
 */
class KnownData {
  readonly #stretches: { readonly from: number; readonly to: number }[] = [];
  #next = 0;

  /** Where the known stretch that holds `offset` ends; `offset` itself where there is none. */
  endOf(offset: number): number {
    for (const { from, to } of this.#stretches) if (offset >= from && offset < to) return to;
    return offset;
  }

  add(from: number, to: number): void {
    this.#stretches[this.#next++ % MAX_KNOWN] = { from, to };
  }

  clear(): void {
    this.#stretches.length = 0;
    this.#next = 0;
  }
}
