/**
 * The transmission phase of one connection: requests are parsed in the receive buffer, served in place, and all replies of a turn
 * leave in one write. What completes at once allocates nothing but a view; the rest is answered in any order, batched per tick.
 *
 * Bounds: replies waiting for the socket, requests in flight, memory held by them, work per turn. A client that does not read its
 * replies is not read from.
 */
import type { Duplex } from 'node:stream';
import { Req } from '../../block/driver.js';
import { always, andThen, isPromise, loop, type MaybePromise } from '../../util/maybe.js';
import { Command, CommandFlag, MAX_PAYLOAD, NbdErrno, ReplyFlag, Size } from '../../wire/nbd/constants.js';
import { decodeRequest, decodeStatusFilter, emptyRequest, type Request } from '../../wire/nbd/transmission.js';
import { statusExtents, type NegotiatedContext } from './block-status.js';
import { viewOf, type BlockPool } from './buffers.js';
import { errorText, wireError } from './errors.js';
import type { NbdExport } from './exports.js';
import { LongReads } from './long-reads.js';
import { ReceiveBuffer } from './receive-buffer.js';
import { Replies, cookieOf, type Cookie } from './replies.js';
import { ReplyQueue } from './reply-queue.js';

/** What the handshake agreed on. */
export interface Session {
  readonly lent: NbdExport;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly NegotiatedContext[];
}

/** The socket's input side, as far as the transmission steers it. */
export interface Intake {
  resume(): void;
  /** Hands bytes to the kernel at once and returns how many it took; undefined where the socket has no such way. */
  readonly writeNow: ((bytes: Uint8Array) => number) | undefined;
  /** The socket itself, where bytes may bypass the stream while that has nothing queued; undefined from its close on. */
  readonly socketFd: number | undefined;
}

/** Replies are handed to the socket when this much is ready, and no request is taken while more than MAX_QUEUED waits there. */
const SEND_AT = 128 * 1024;
const MAX_QUEUED = 512 * 1024;
const MAX_IN_FLIGHT = 256;
/** Memory lent to reads that have not completed. */
const MAX_PENDING_BYTES = 8 * 1024 * 1024;
/** Bytes moved for one connection before the others get their turn; a request without data counts as some. */
const TURN_BYTES = 4 * 1024 * 1024;
const REQUEST_COST = 512;
const PIECE_COST = 64 * 1024;
/** Shorter reads are one piece and not looked at for holes. */
const HOLE_SEARCH = 32 * 1024;
/** A reply that may not be cut (simple, or DF) is gathered in memory up to this length; longer ones flow. */
const MAX_GATHERED = 2 * 1024 * 1024;
/** Ranges without data are worked on in steps of this length. */
const ZERO_STEP = 64 * 1024 * 1024;
const CACHE_STEP = 1024 * 1024;
/** Longest write payload that is waited for in one piece; longer ones are passed on while they arrive, cut at multiples of WRITE_ALIGNMENT. */
const WHOLE_WRITE = 128 * 1024;
const WRITE_ALIGNMENT = 64 * 1024;

/** A write whose payload is passed on while it arrives. */
interface WriteStream {
  readonly cookie: Cookie;
  readonly fua: boolean;
  offset: number;
  remaining: number;
  /** Pieces not complete. */
  pending: number;
  /** Set: the rest of the payload is only read, then the request fails. */
  failure: Failure | undefined;
}

interface Failure { readonly error: number; readonly message: string }

export class Transmission {
  /** Requests taken since bytes last arrived. */
  served = 0;
  readonly #session: Session;
  readonly #queue: ReplyQueue;
  readonly #replies: Replies;
  readonly #input: ReceiveBuffer;
  readonly #longReads: LongReads;
  readonly #request = emptyRequest();
  readonly #performRequest = (): void => this.#perform(this.#request);
  readonly #headerSize: number;
  readonly #alignment: number;
  #sink: Duplex | undefined;
  #intake: Intake | undefined;
  #stream: WriteStream | undefined;
  #inFlight = 0;
  #pendingBytes = 0;
  #turnBytes = 0;
  /** A reply that may not be interrupted is on its way; answers of other requests wait here for its end. */
  #deferred: (() => void)[] | undefined;
  readonly #waiters: (() => void)[] = [];
  /** Requests wait for room. */
  #blocked = false;
  #paused = false;
  #turnScheduled = false;
  #ending = false;
  #dead = false;
  #onIdle: (() => void) | undefined;

  constructor(session: Session, pool: BlockPool) {
    this.#session = session;
    this.#queue = new ReplyQueue(pool, () => this.#progress());
    this.#replies = new Replies(this.#queue, session);
    this.#input = new ReceiveBuffer(pool);
    this.#headerSize = session.extended ? Size.EXTENDED_REQUEST : Size.REQUEST;
    this.#alignment = session.lent.blockSizes.minimum;
    this.#longReads = new LongReads(session.lent.backend, this.#replies, {
      room: (uncut) => this.#roomForPiece(uncut),
      drained: () => this.#drained(),
      exclusively: (run) => this.#exclusively(run),
      cutOff: () => this.#sink?.destroy(),
      socketFd: () => this.#intake?.socketFd,
      pending: (bytes) => { this.#pendingBytes += bytes; },
      emit: (answer) => this.#emit(answer),
      closed: () => this.#dead,
    });
  }

  /** Where replies go, and the input to resume after {@link received} answered false. */
  connect(sink: Duplex, intake: Intake): void {
    this.#sink = sink;
    this.#queue.connect(sink, intake.writeNow);
    this.#intake = intake;
  }

  /** Where the next bytes of the client go. Asked after each {@link received}. */
  target(): Uint8Array {
    return this.#input.target();
  }

  /** Bytes have arrived in the target; false: read no more until resumed. */
  received(length: number): boolean {
    this.#input.received(length);
    this.#turnBytes = 0;
    this.served = 0;
    this.#serve();
    this.#paused = this.#blocked || this.#ending;
    return !this.#paused;
  }

  /** Nothing of the client is in flight, waiting or half received. */
  get idle(): boolean {
    return this.#inFlight === 0 && !this.#ending && this.#queue.queued === 0 && this.#stream === undefined && this.#input.available === 0;
  }

  /** No more requests: what is in flight is finished and answered, then the socket ends. */
  finish(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#scheduleTurn();
  }

  /** The socket is gone. Requests in flight run to their end unheard; resolves when there are none. */
  abort(): Promise<void> {
    this.#dead = this.#ending = true;
    this.#queue.close();
    this.#input.close();
    this.#wakeWaiters();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
      if (this.#inFlight === 0) resolve();
    });
  }

  // -- turns ----------------------------------------------------------------------------------------------------------------

  #serve(): void {
    while (!this.#ending) {
      this.#blocked = !this.#hasRoom();
      if (this.#blocked || !this.#serveOne()) break;
      if (this.#queue.unsent >= SEND_AT) this.#queue.send();
    }
    this.#queue.send();
  }

  /** Takes one step through the input; false: it needs more bytes. */
  #serveOne(): boolean {
    const input = this.#input;
    if (this.#stream !== undefined) return this.#advanceStream(this.#stream);
    if (input.available < this.#headerSize) return false;
    if (decodeRequest(input.bytes, input.start, this.#session.extended, this.#request)) return this.#dispatch(this.#request);
    this.finish();
    return false;
  }

  #hasRoom(): boolean {
    if (this.#turnBytes >= TURN_BYTES) {
      this.#scheduleTurn();
      return false;
    }
    return this.#deferred === undefined && this.#queue.queued < MAX_QUEUED && this.#inFlight < MAX_IN_FLIGHT
      && this.#pendingBytes < MAX_PENDING_BYTES && !this.#input.exhausted;
  }

  /** A turn after everybody else's: sends what was completed since and goes on with what waits. */
  #scheduleTurn(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    setImmediate(() => {
      this.#turnScheduled = false;
      this.#turnBytes = 0;
      if (this.#dead) return;
      this.#queue.send();
      this.#progress();
    });
  }

  /** Room was made: goes on with what waited for it. */
  #progress(): void {
    if (this.#dead) return;
    this.#wakeWaiters();
    if (this.#blocked && !this.#ending && this.#hasRoom()) {
      this.#serve();
      if (this.#paused && !this.#blocked && !this.#ending) {
        this.#paused = false;
        this.#intake?.resume();
      }
    }
    if (this.#ending && this.#inFlight === 0) {
      this.#queue.send();
      const sink = this.#sink;
      sink?.end(() => sink.destroy());
    }
  }

  #canEmit(): boolean {
    return this.#queue.queued < MAX_QUEUED && this.#turnBytes < TURN_BYTES;
  }

  /** Nothing if another piece of a long reply may be made now, else a promise of that moment. */
  #roomForPiece(uncut: boolean): MaybePromise<void> {
    this.#turnBytes += PIECE_COST;
    if (this.#queue.unsent >= SEND_AT) this.#queue.send();
    return this.#until(() => (uncut || this.#deferred === undefined) && this.#canEmit());
  }

  #drained(): MaybePromise<void> {
    this.#queue.send();
    return this.#until(() => this.#queue.queued === 0);
  }

  /** Nothing if the condition holds now, else a promise of the moment when it does. It is asked whenever something was sent. */
  #until(condition: () => boolean): MaybePromise<void> {
    if (this.#dead || condition()) return undefined;
    if (this.#turnBytes >= TURN_BYTES) this.#scheduleTurn();
    return new Promise<void>((resolve) => this.#waiters.push(resolve)).then(() => this.#until(condition));
  }

  /** Runs what must have the queue to itself, when nothing else has. */
  #exclusively<T>(run: () => MaybePromise<T>): MaybePromise<T> {
    if (this.#deferred !== undefined) return andThen(this.#until(() => this.#deferred === undefined), () => this.#exclusively(run));
    const deferred: (() => void)[] = [];
    this.#deferred = deferred;
    return always(run, () => {
      this.#deferred = undefined;
      for (const answer of deferred) answer();
      if (this.#waiters.length > 0 || this.#blocked) this.#scheduleTurn();
    });
  }

  #wakeWaiters(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** Puts an answer into the queue, now or when the reply that may not be interrupted has ended. */
  #emit(answer: () => void): void {
    if (this.#dead) return;
    if (this.#deferred === undefined) answer();
    else this.#deferred.push(answer);
  }

  #fail(cookie: Cookie, error: unknown): void {
    this.#emit(() => this.#replies.failure(cookie, wireError(error), errorText(error)));
  }

  /** An asynchronous request is done: its answer leaves with the others of this tick. */
  #leave(): void {
    this.#inFlight--;
    if (this.#dead && this.#inFlight === 0) this.#onIdle?.();
    this.#scheduleTurn();
  }

  // -- requests -------------------------------------------------------------------------------------------------------------

  /** Serves the request at the input's start and steps over it; false: more bytes are needed. */
  #dispatch(request: Request): boolean {
    const { type, length } = request;
    const input = this.#input;
    // QEMU's client leaves PAYLOAD_LEN out of its extended writes.
    if (type === Command.WRITE || (this.#session.extended && (request.flags & CommandFlag.PAYLOAD_LEN) !== 0)) {
      const problem = this.#payloadProblem(request);
      if (problem !== undefined || length > WHOLE_WRITE) {
        input.consume(this.#headerSize);
        this.#stream = {
          cookie: cookieOf(request), fua: (request.flags & CommandFlag.FUA) !== 0, offset: request.offset, remaining: length, pending: 0,
          failure: problem,
        };
        return true;
      }
      if (input.available < this.#headerSize + length) return false;
    }
    this.served++;
    this.#turnBytes += REQUEST_COST;
    input.consume(this.#headerSize);
    this.#attempt(request, this.#performRequest);
    return true;
  }

  #attempt(request: Cookie, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#replies.failure(request, wireError(error), errorText(error));
    }
  }

  #perform(request: Request): void {
    const { type, flags, length } = request;
    const { backend } = this.#session.lent;
    if (this.#session.extended && (flags & CommandFlag.PAYLOAD_LEN) !== 0 && type === Command.BLOCK_STATUS) return this.#filteredStatus(request);
    switch (type) {
      case Command.READ: return this.#read(request);
      case Command.WRITE: return this.#write(request);
      case Command.DISC: return this.finish();
      case Command.FLUSH: return this.#run(request, backend.flush());
      case Command.TRIM:
      case Command.WRITE_ZEROES: return this.#zeroOrTrim(request);
      case Command.CACHE: return this.#cache(request);
      case Command.BLOCK_STATUS: return this.#status(request, this.#session.contexts, length);
      default: this.#replies.failure(request, NbdErrno.EINVAL, 'Unknown command');
    }
  }

  /** Why a request with payload is refused. */
  #payloadProblem({ type, flags, offset, length }: Request): Failure | undefined {
    const { lent, extended } = this.#session;
    const malformed = { error: NbdErrno.EINVAL, message: 'Malformed request' };
    if (type === Command.BLOCK_STATUS && extended) return length <= WHOLE_WRITE ? undefined : malformed;
    if (type !== Command.WRITE || (flags & ~(CommandFlag.FUA | CommandFlag.PAYLOAD_LEN)) !== 0 || length > MAX_PAYLOAD) return malformed;
    if (!lent.writable) return { error: NbdErrno.EPERM, message: 'Export is read-only' };
    if (offset + length > lent.size) return { error: NbdErrno.ENOSPC, message: 'Write past the end of the export' };
    return this.#misaligned(offset, length) ? malformed : undefined;
  }

  #misaligned(offset: number, length: number): boolean {
    const alignment = this.#alignment;
    return alignment !== 1 && (offset % alignment !== 0 || (length % alignment !== 0 && offset + length !== this.#session.lent.size));
  }

  /** Answers when `result` is there; `reply` false: it answers itself, unless it fails. */
  #run(request: Cookie, result: MaybePromise<void>, reply = true): void {
    if (!isPromise(result)) {
      if (reply) this.#replies.success(request);
      return;
    }
    const cookie = cookieOf(request);
    this.#inFlight++;
    void result.then(
      () => { if (reply) this.#emit(() => this.#replies.success(cookie)); },
      (error: unknown) => this.#fail(cookie, error),
    ).then(() => this.#leave());
  }

  #read(request: Request): void {
    const { offset, length, flags } = request;
    const { lent, structured } = this.#session;
    if ((flags & ~(CommandFlag.DF | CommandFlag.FUA)) !== 0 || length > MAX_PAYLOAD || offset + length > lent.size || this.#misaligned(offset, length)) {
      return this.#replies.failure(request, NbdErrno.EINVAL, 'Read outside the export or malformed');
    }
    if (length === 0) return this.#replies.emptyRead(request);
    if (structured && (flags & CommandFlag.DF) === 0 && length >= HOLE_SEARCH) {
      const cookie = cookieOf(request);
      return this.#run(cookie, this.#longReads.inChunks(cookie, length), false);
    }
    if (length > MAX_GATHERED) return this.#readUncut(cookieOf(request), length);
    this.#turnBytes += length;
    const queue = this.#queue;
    const head = this.#replies.dataHead;
    const at = queue.claim(head + length);
    const result = lent.backend.read(offset, viewOf(queue.bytes, at + head, length));
    if (isPromise(result)) return this.#finishRead(result, cookieOf(request), at, length);
    this.#replies.putDataHead(queue.bytes, at, request, offset, length, ReplyFlag.DONE);
    queue.commit(at + head + length);
  }

  #finishRead(result: Promise<void>, cookie: Cookie, at: number, length: number): void {
    const end = at + this.#replies.dataHead + length;
    const block = this.#queue.detach(end);
    this.#inFlight++;
    this.#pendingBytes += length;
    void result.then(() => {
      this.#replies.putDataHead(block.bytes, at, cookie, cookie.offset, length, ReplyFlag.DONE);
      this.#emit(() => this.#queue.attach(block, at, end));
    }, (error: unknown) => {
      this.#queue.abandon(block);
      this.#fail(cookie, error);
    }).then(() => {
      this.#pendingBytes -= length;
      this.#leave();
    });
  }

  #readUncut(cookie: Cookie, length: number): void {
    this.#run(cookie, this.#exclusively(() => this.#longReads.uncut(cookie, length)), false);
  }

  #write(request: Request): void {
    const { length } = request;
    const input = this.#input;
    const at = input.start;
    input.consume(length);
    this.#turnBytes += length;
    const flags = (request.flags & CommandFlag.FUA) !== 0 ? Req.FUA : 0;
    const result = this.#session.lent.backend.write(request.offset, viewOf(input.bytes, at, length), flags);
    if (!isPromise(result)) return this.#replies.success(request);
    const block = input.hold();
    this.#run(request, result.finally(() => input.release(block)));
  }

  /** Passes on what has arrived of a long write; false: wait for more. */
  #advanceStream(stream: WriteStream): boolean {
    const input = this.#input;
    const have = input.available;
    let bytes = stream.remaining;
    if (stream.failure !== undefined) {
      bytes = Math.min(have, bytes);
      if (bytes === 0 && stream.remaining > 0) return false;
    } else if (have < bytes) {
      if (!input.full) return false;
      bytes = have - ((stream.offset + have) % WRITE_ALIGNMENT);
      if (bytes <= 0) return false;
    }
    const source = viewOf(input.bytes, input.start, bytes);
    const { offset } = stream;
    input.consume(bytes);
    stream.offset += bytes;
    stream.remaining -= bytes;
    this.#turnBytes += bytes;
    if (stream.remaining === 0) this.#stream = undefined;
    if (stream.failure === undefined) {
      try {
        const result = this.#session.lent.backend.write(offset, source);
        if (isPromise(result)) this.#awaitPiece(stream, result);
      } catch (error) {
        stream.failure = failureOf(error);
      }
    }
    this.#completeStream(stream);
    return true;
  }

  #awaitPiece(stream: WriteStream, result: Promise<void>): void {
    const block = this.#input.hold();
    stream.pending++;
    this.#inFlight++;
    void result.catch((error: unknown) => { stream.failure ??= failureOf(error); }).then(() => {
      this.#input.release(block);
      stream.pending--;
      this.#completeStream(stream);
      this.#leave();
    });
  }

  #completeStream({ cookie, fua, remaining, pending, failure }: WriteStream): void {
    if (remaining > 0 || pending > 0) return;
    if (failure !== undefined) return this.#emit(() => this.#replies.failure(cookie, failure.error, failure.message));
    this.#emit(() => this.#attempt(cookie, () => this.#run(cookie, fua ? this.#session.lent.backend.flush() : undefined)));
  }

  #zeroOrTrim(request: Request): void {
    const { type, flags, offset, length } = request;
    const { lent } = this.#session;
    const trim = type === Command.TRIM;
    const known = CommandFlag.FUA | (trim ? 0 : CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO);
    if (!lent.writable) return this.#replies.failure(request, NbdErrno.EPERM, 'Export is read-only');
    if ((flags & ~known) !== 0 || this.#misaligned(offset, length)) return this.#replies.failure(request, NbdErrno.EINVAL, 'Malformed request');
    if (offset + length > lent.size) return this.#replies.failure(request, NbdErrno.ENOSPC, 'Request outside the export');
    const { backend } = lent;
    this.#longReads.forget();
    const zeroFlags = ((flags & CommandFlag.NO_HOLE) !== 0 ? 0 : Req.MAY_UNMAP) | ((flags & CommandFlag.FAST_ZERO) !== 0 ? Req.NO_FALLBACK : 0);
    const done = this.#inSteps(offset, length, ZERO_STEP, (at, bytes) => (trim ? backend.discard(at, bytes) : backend.writeZeroes(at, bytes, zeroFlags)));
    this.#run(request, (flags & CommandFlag.FUA) === 0 ? done : andThen(done, () => backend.flush()));
  }

  #cache(request: Request): void {
    const { offset, length, flags } = request;
    const { backend, size } = this.#session.lent;
    if (flags !== 0 || offset + length > size) return this.#replies.failure(request, NbdErrno.EINVAL, 'Request outside the export or malformed');
    const scratch = new Uint8Array(Math.min(length, CACHE_STEP));
    this.#run(request, this.#inSteps(offset, length, CACHE_STEP, (at, bytes) => backend.read(at, scratch.subarray(0, bytes), Req.PREFETCH)));
  }

  /** Works through a range in steps, giving others their turn between them. */
  #inSteps(offset: number, length: number, step: number, perform: (at: number, bytes: number) => MaybePromise<void>): MaybePromise<void> {
    const end = offset + length;
    if (length === 0) return undefined;
    return loop(() => {
      const at = offset;
      offset = Math.min(end, at + step);
      return andThen(perform(at, offset - at), () => offset < end && new Promise<boolean>((resolve) => setImmediate(() => resolve(!this.#dead))));
    });
  }

  /** A block status request whose payload names the range's length and some of the contexts. */
  #filteredStatus(request: Request): void {
    const input = this.#input;
    const payload = viewOf(input.bytes, input.start, request.length);
    input.consume(request.length);
    const { length, contextIds } = decodeStatusFilter(payload);
    const contexts = this.#session.contexts.filter(({ id }) => contextIds.includes(id));
    if (contexts.length !== contextIds.length) return this.#replies.failure(request, NbdErrno.EINVAL, 'Unknown or repeated context');
    this.#status(request, contexts, length);
  }

  #status(request: Request, contexts: readonly NegotiatedContext[], length: number): void {
    const { offset, flags } = request;
    const { lent, extended } = this.#session;
    const known = CommandFlag.REQ_ONE | CommandFlag.PAYLOAD_LEN;
    if (contexts.length === 0 || length === 0 || (flags & ~known) !== 0 || offset + length > lent.size || this.#misaligned(offset, length)) {
      return this.#replies.failure(request, NbdErrno.EINVAL, 'Block status not negotiated, outside the export or malformed');
    }
    const options = { extended, single: (flags & CommandFlag.REQ_ONE) !== 0 };
    const cookie = cookieOf(request);
    const answers: (readonly number[])[] = [];
    const gathered = loop(() => andThen(statusExtents(lent, contexts[answers.length]!.name, offset, length, options), (extents) => answers.push(extents) < contexts.length));
    const emit = (): void => answers.forEach((extents, index) =>
      this.#replies.status(cookie, contexts[index]!.id, extents, index === answers.length - 1 ? ReplyFlag.DONE : 0));
    this.#run(cookie, andThen(gathered, () => this.#emit(emit)), false);
  }
}

function failureOf(error: unknown): Failure {
  return { error: wireError(error), message: errorText(error) };
}
