/** Replies in the dialect the handshake agreed on: simple, structured or extended. */
import { Chunk, ReplyFlag, Size } from '../../wire/nbd/constants.js';
import { putU64 } from '../../wire/nbd/bytes.js';
import {
  HOLE_PAYLOAD, encodeErrorPayload, putExtendedReply, putHole, putSimpleReply, putStatus, putStructuredReply, statusPayloadSize, type Request,
} from '../../wire/nbd/transmission.js';
import type { ReplyQueue } from './reply-queue.js';

/** What a reply repeats of its request. */
export type Cookie = Readonly<Pick<Request, 'cookieHigh' | 'cookieLow' | 'offset'>>;

/** A copy that outlives the request's buffer. */
export function cookieOf({ cookieHigh, cookieLow, offset }: Cookie): Cookie {
  return { cookieHigh, cookieLow, offset };
}

export interface Dialect { readonly structured: boolean; readonly extended: boolean }

export class Replies {
  readonly queue: ReplyQueue;
  /** Bytes before the data of a read's reply. */
  readonly dataHead: number;
  readonly #structured: boolean;
  readonly #extended: boolean;

  constructor(queue: ReplyQueue, { structured, extended }: Dialect) {
    this.queue = queue;
    this.#extended = extended;
    this.#structured = structured || extended;
    this.dataHead = extended ? Size.EXTENDED_REPLY + 8 : structured ? Size.STRUCTURED_REPLY + 8 : Size.SIMPLE_REPLY;
  }

  /** Puts {@link dataHead} bytes: the header of a reply (or its chunk) that carries `length` bytes of data from `offset`. */
  putDataHead(bytes: Uint8Array, at: number, cookie: Cookie, offset: number, length: number, flags: number): void {
    if (!this.#structured) putSimpleReply(bytes, at, 0, cookie.cookieHigh, cookie.cookieLow);
    else putU64(bytes, this.#putChunkHead(bytes, at, cookie, flags, Chunk.OFFSET_DATA, length + 8), offset);
  }

  /** A stretch of a read that is all zeroes. */
  hole(cookie: Cookie, offset: number, length: number, flags: number): void {
    const at = this.#claimChunk(cookie, flags, Chunk.OFFSET_HOLE, HOLE_PAYLOAD);
    this.queue.commit(putHole(this.queue.bytes, at, offset, length));
  }

  /** The request is done. */
  success(cookie: Cookie): void {
    if (this.#extended) return this.#emptyChunk(cookie);
    const at = this.queue.claim(Size.SIMPLE_REPLY);
    this.queue.commit(putSimpleReply(this.queue.bytes, at, 0, cookie.cookieHigh, cookie.cookieLow));
  }

  /** A read of no bytes is done. */
  emptyRead(cookie: Cookie): void {
    if (this.#structured) this.#emptyChunk(cookie);
    else this.success(cookie);
  }

  failure(cookie: Cookie, error: number, message: string): void {
    if (this.#structured) {
      const payload = encodeErrorPayload(error, message);
      const at = this.#claimChunk(cookie, ReplyFlag.DONE, Chunk.ERROR, payload.length);
      this.queue.bytes.set(payload, at);
      this.queue.commit(at + payload.length);
    } else {
      const at = this.queue.claim(Size.SIMPLE_REPLY);
      this.queue.commit(putSimpleReply(this.queue.bytes, at, error, cookie.cookieHigh, cookie.cookieLow));
    }
  }

  /** One context's answer to a block status request; `extents` holds lengths and flags by turns. */
  status(cookie: Cookie, contextId: number, extents: readonly number[], flags: number): void {
    const type = this.#extended ? Chunk.BLOCK_STATUS_EXT : Chunk.BLOCK_STATUS;
    const at = this.#claimChunk(cookie, flags, type, statusPayloadSize(this.#extended, extents.length / 2));
    this.queue.commit(putStatus(this.queue.bytes, at, this.#extended, contextId, extents));
  }

  #emptyChunk(cookie: Cookie): void {
    this.queue.commit(this.#claimChunk(cookie, ReplyFlag.DONE, Chunk.NONE, 0));
  }

  /** Claims a chunk with this payload, puts its header and returns where the payload goes. */
  #claimChunk(cookie: Cookie, flags: number, type: number, length: number): number {
    const at = this.queue.claim((this.#extended ? Size.EXTENDED_REPLY : Size.STRUCTURED_REPLY) + length);
    return this.#putChunkHead(this.queue.bytes, at, cookie, flags, type, length);
  }

  #putChunkHead(bytes: Uint8Array, at: number, cookie: Cookie, flags: number, type: number, length: number): number {
    return this.#extended
      ? putExtendedReply(bytes, at, flags, type, cookie.cookieHigh, cookie.cookieLow, cookie.offset, length)
      : putStructuredReply(bytes, at, flags, type, cookie.cookieHigh, cookie.cookieLow, length);
  }
}
