/** One connection in transmission: requests out, replies in, matched by cookie. */
import type { ByteChannel, ByteSink } from '../../platform/byte-channel.js';
import { clockMs } from '../../platform/clock.js';
import { getU32, getU64 } from '../../wire/nbd/bytes.js';
import { Chunk, CHUNK_ERROR_BIT, Command, CommandFlag, ReplyFlag } from '../../wire/nbd/constants.js';
import type { NegotiatedExport } from '../../wire/nbd/negotiate.js';
import {
  decodeErrorPayload, decodeHole, decodeReplyHeader, decodeStatus, emptyReplyHeader, encodeRequest, replyHeaderSize, type Request,
} from '../../wire/nbd/transmission.js';
import type { NbdRequest } from './request.js';

/** The server broke the protocol. What was in flight fails; sending it again would not help. */
export class ProtocolViolation extends Error {
  override readonly name = 'ProtocolViolation';
}

/** Told once, when the connection is over, with the requests it leaves unanswered. */
export type LossListener = (error: Error, unanswered: NbdRequest[]) => void;

const receiveSize = 256 * 1024;
/** From this many missing bytes on, the kernel writes straight into the reader's buffer. */
const directThreshold = 32 * 1024;
/** Longest payload (beside a READ's data) that is looked at. */
const maxPayload = 64 * 1024;
const disconnect: Request = { flags: 0, type: Command.DISC, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };

export class Connection implements ByteSink {
  readonly info: NegotiatedExport;
  /** Replies that arrived. */
  answered = 0;
  /** Why it was given up. */
  failure: Error | undefined;
  readonly #channel: ByteChannel;
  readonly #onLoss: LossListener;
  readonly #contextId: number | undefined;
  readonly #extended: boolean;
  readonly #inFlight = new Map<number, NbdRequest>();
  readonly #header: Request = { flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
  #nextCookie = 1;
  #unsent: NbdRequest[] = [];
  #corked = false;
  #over = false;
  #lastHeard = 0;
  #watch: NodeJS.Timeout | undefined;
  readonly #timeoutMs: number;

  // Received and not yet parsed: #received[#start, #end).
  readonly #received = new Uint8Array(receiveSize);
  #start = 0;
  #end = 0;
  readonly #reply = emptyReplyHeader();
  /** A header was read; its payload is next. */
  #inPayload = false;
  /** The request whose data arrive now: into #data, of which #dataDone bytes are there. */
  #reading: NbdRequest | undefined;
  #data: Uint8Array = this.#received;
  #dataDone = 0;
  #direct = false;

  /** @param timeoutMs longest silence of a server that owes an answer; 0 waits for ever */
  constructor(channel: ByteChannel, info: NegotiatedExport, contextId: number | undefined, timeoutMs: number, onLoss: LossListener) {
    this.info = info;
    this.#channel = channel;
    this.#contextId = contextId;
    this.#extended = info.style === 'extended';
    this.#timeoutMs = timeoutMs;
    this.#onLoss = onLoss;
  }

  /** Takes replies from now on. What came with the last word of the handshake may end the connection before this returns. */
  begin(): void { this.#channel.beginTransmission(this); }

  get alive(): boolean { return !this.#over; }
  get idle(): boolean { return this.#inFlight.size === 0 && this.#unsent.length === 0; }

  /** The request's own promise tells its end. */
  send(request: NbdRequest): void {
    if (this.#unsent.length > 0 || this.#channel.congested) {
      if (this.#unsent.push(request) === 1) this.#channel.onDrain(() => this.#sendUnsent());
      return;
    }
    this.#transmit(request);
  }

  /** Says goodbye. Nothing may be in flight. */
  close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopWatch();
    const bytes = new Uint8Array(32);
    this.#channel.write(bytes.subarray(0, encodeRequest(bytes, 0, this.#extended, disconnect)));
    this.#channel.end();
  }

  /** Gives up at once. */
  abandon(error: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.failure = error;
    this.#stopWatch();
    this.#channel.destroy();
    const unanswered = [...this.#inFlight.values(), ...this.#unsent];
    this.#inFlight.clear();
    this.#unsent = [];
    this.#onLoss(error, unanswered);
  }

  #sendUnsent(): void {
    const waiting = this.#unsent;
    this.#unsent = [];
    for (const request of waiting) this.send(request);
  }

  #transmit(request: NbdRequest): void {
    const header = this.#header;
    const cookie = this.#nextCookie;
    this.#nextCookie = cookie === 0xffffffff ? 1 : cookie + 1;
    header.type = request.type;
    header.flags = request.source !== undefined && this.#extended ? request.flags | CommandFlag.PAYLOAD_LEN : request.flags;
    header.cookieLow = cookie;
    header.offset = request.offset;
    header.length = request.length;
    request.restart();
    this.#inFlight.set(cookie, request);
    if (!this.#corked) {
      this.#corked = true;
      this.#channel.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#channel.uncork();
      });
    }
    const bytes = Buffer.allocUnsafe(32);
    this.#channel.write(bytes.subarray(0, encodeRequest(bytes, 0, this.#extended, header)));
    if (request.source !== undefined) this.#channel.write(request.source);
    if (this.#timeoutMs !== 0 && this.#watch === undefined) {
      this.#lastHeard = clockMs();
      this.#watch = setTimeout(() => this.#checkSilence(), this.#timeoutMs);
    }
  }

  #checkSilence(): void {
    this.#watch = undefined;
    if (this.#inFlight.size === 0) return;
    const silentMs = clockMs() - this.#lastHeard;
    if (silentMs >= this.#timeoutMs) this.abandon(new Error(`The server did not answer for ${Math.round(silentMs / 1000)} s`));
    else this.#watch = setTimeout(() => this.#checkSilence(), this.#timeoutMs - silentMs);
  }

  #stopWatch(): void {
    clearTimeout(this.#watch);
    this.#watch = undefined;
  }

  buffer(): Uint8Array {
    if (this.#reading !== undefined && this.#start === this.#end && this.#data.length - this.#dataDone >= directThreshold) {
      this.#direct = true;
      return this.#data.subarray(this.#dataDone);
    }
    this.#direct = false;
    if (this.#start === this.#end) this.#start = this.#end = 0;
    else if (this.#end === receiveSize) {
      this.#received.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#end === 0 ? this.#received : this.#received.subarray(this.#end);
  }

  filled(length: number): void {
    if (this.#over) return;
    if (this.#timeoutMs !== 0) this.#lastHeard = clockMs();
    try {
      if (this.#direct) this.#dataArrived(length);
      else {
        this.#end += length;
        while (this.#parse());
      }
    } catch (error) {
      this.abandon(error instanceof ProtocolViolation ? error : new ProtocolViolation(error instanceof Error ? error.message : String(error)));
    }
  }

  closed(error?: Error): void {
    this.abandon(error ?? new Error('Unexpected end-of-file before all data were read'));
  }

  /** Takes the next piece out of the received bytes; false if it has not arrived whole. */
  #parse(): boolean {
    const available = this.#end - this.#start;
    if (this.#over || available === 0) return false;
    if (this.#reading !== undefined) {
      const length = Math.min(available, this.#data.length - this.#dataDone);
      this.#data.set(this.#received.subarray(this.#start, this.#start + length), this.#dataDone);
      this.#start += length;
      this.#dataArrived(length);
      return true;
    }
    return this.#inPayload ? this.#parsePayload(available) : this.#parseHeader(available);
  }

  #parseHeader(available: number): boolean {
    if (available < 4) return false;
    const size = replyHeaderSize(getU32(this.#received, this.#start));
    if (size === 0) throw new ProtocolViolation('invalid magic number in a reply');
    if (available < size) return false;
    const reply = this.#reply;
    decodeReplyHeader(this.#received, this.#start, reply);
    this.#start += size;
    const request = reply.cookieHigh === 0 ? this.#inFlight.get(reply.cookieLow) : undefined;
    if (request === undefined) throw new ProtocolViolation('reply to a request that was not made');
    const { style } = this.info;
    if (reply.kind === 'simple' ? style === 'extended' : reply.kind !== style) throw new ProtocolViolation(`${reply.kind} reply where ${style} ones were agreed`);
    if (reply.kind === 'simple') this.#simpleReply(request);
    else this.#chunkHeader(request);
    return true;
  }

  #simpleReply(request: NbdRequest): void {
    const { error } = this.#reply;
    if (error !== 0) {
      request.fail(error, '');
      this.#finish(request);
    } else if (request.target !== undefined) {
      if (this.info.style !== 'simple') throw new ProtocolViolation('simple reply to READ where structured ones were agreed');
      this.#expectData(request, request.target);
    } else if (request.type === Command.BLOCK_STATUS) {
      throw new ProtocolViolation('simple reply to BLOCK_STATUS');
    } else {
      this.#finish(request);
    }
  }

  #chunkHeader(request: NbdRequest): void {
    const { type, length, flags } = this.#reply;
    if (type === Chunk.NONE) {
      if (length !== 0 || (flags & ReplyFlag.DONE) === 0) throw new ProtocolViolation('invalid NBD_REPLY_TYPE_NONE chunk');
      this.#chunkDone(request);
    } else if (type === Chunk.OFFSET_DATA) {
      if (request.target === undefined || length < 9 || length - 8 > request.length) throw new ProtocolViolation('invalid NBD_REPLY_TYPE_OFFSET_DATA chunk');
      this.#inPayload = true;
    } else {
      if (length > maxPayload) throw new ProtocolViolation(`chunk of type ${type} with ${length} bytes`);
      this.#inPayload = true;
    }
  }

  #parsePayload(available: number): boolean {
    const { type, length, cookieLow } = this.#reply;
    const needed = type === Chunk.OFFSET_DATA ? 8 : length;
    if (available < needed) return false;
    const request = this.#inFlight.get(cookieLow)!;
    const payload = this.#received.subarray(this.#start, this.#start + needed);
    this.#start += needed;
    this.#inPayload = false;
    if (type === Chunk.OFFSET_DATA) {
      this.#expectData(request, request.place(getU64(payload, 0), length - 8));
      return true;
    }
    if (type === Chunk.OFFSET_HOLE) {
      const hole = decodeHole(payload);
      request.place(hole.offset, hole.length).fill(0);
      request.covered += hole.length;
    } else if (type === Chunk.BLOCK_STATUS || type === Chunk.BLOCK_STATUS_EXT) {
      this.#status(request, payload, type === Chunk.BLOCK_STATUS_EXT);
    } else if ((type & CHUNK_ERROR_BIT) !== 0) {
      const { error, message } = decodeErrorPayload(type, payload);
      if (error === 0) throw new ProtocolViolation('error chunk without an error');
      request.fail(error, message);
    } else {
      throw new ProtocolViolation(`unknown chunk type ${type}`);
    }
    this.#chunkDone(request);
    return true;
  }

  #status(request: NbdRequest, payload: Uint8Array, extended: boolean): void {
    if (request.type !== Command.BLOCK_STATUS || extended !== this.#extended) throw new ProtocolViolation('block status that was not asked for');
    const { contextId, extents } = decodeStatus(payload, extended);
    if (contextId !== this.#contextId || request.statusLength !== 0) throw new ProtocolViolation('block status of an unknown context');
    request.statusLength = extents[0]!;
    request.statusFlags = extents[1]!;
    if (request.statusLength === 0) throw new ProtocolViolation('block status of an empty extent');
  }

  #expectData(request: NbdRequest, into: Uint8Array): void {
    this.#reading = request;
    this.#data = into;
    this.#dataDone = 0;
  }

  #dataArrived(length: number): void {
    this.#dataDone += length;
    if (this.#dataDone < this.#data.length) return;
    const request = this.#reading!;
    request.covered += this.#data.length;
    this.#reading = undefined;
    this.#data = this.#received;
    if (this.#reply.kind === 'simple') this.#finish(request);
    else this.#chunkDone(request);
  }

  #chunkDone(request: NbdRequest): void {
    if ((this.#reply.flags & ReplyFlag.DONE) !== 0) this.#finish(request);
  }

  #finish(request: NbdRequest): void {
    this.#inFlight.delete(this.#reply.cookieLow);
    this.answered++;
    if (this.#inFlight.size === 0) this.#stopWatch();
    request.finish();
  }
}
