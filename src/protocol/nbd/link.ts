/** A connection that comes back: opens, notices a loss, connects again, and sends what was left unanswered once more. */
import { BlockError, Errno, strerror, systemError } from '../../block/errors.js';
import { ByteChannel, type TlsSettings } from '../../platform/byte-channel.js';
import { clockMs } from '../../platform/clock.js';
import type { SocketAddress } from '../../wire/nbd/address.js';
import { Context } from '../../wire/nbd/constants.js';
import { NbdFormatError } from '../../wire/nbd/handshake.js';
import { negotiate, NbdNegotiationError, type HeaderStyle, type NegotiatedExport } from '../../wire/nbd/negotiate.js';
import { Connection, ProtocolViolation } from './connection.js';
import type { NbdRequest } from './request.js';

export interface LinkSettings {
  readonly server: SocketAddress;
  readonly exportName: string;
  readonly tls: TlsSettings | undefined;
  /** Metadata context that answers status. */
  readonly context: string | undefined;
  /** Longest silence of a server that owes an answer; 0 waits for ever. */
  readonly timeoutMs: number;
  readonly reconnectDelayMs: number;
  readonly style?: HeaderStyle;
}

const firstPauseMs = 100;
const longestPauseMs = 4000;
/** For one attempt to connect where nothing else bounds it. */
const attemptMs = 10_000;

export class Link {
  readonly #settings: LinkSettings;
  #connection: Connection | undefined;
  #info!: NegotiatedExport;
  #waiting: NbdRequest[] = [];
  #reconnecting: Promise<void> | undefined;
  #lostAt = 0;
  #pauseMs = 0;
  #closed = false;
  readonly #closing = new AbortController();

  private constructor(settings: LinkSettings) {
    this.#settings = settings;
  }

  /** Connects; with `openTimeoutMs` tries again for that long. */
  static async open(settings: LinkSettings, openTimeoutMs: number, signal?: AbortSignal): Promise<Link> {
    const link = new Link(settings);
    const deadline = clockMs() + openTimeoutMs;
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      const left = deadline - clockMs();
      try {
        await link.#connect(left > 0 ? left : settings.timeoutMs, signal);
        return link;
      } catch (error) {
        const remaining = deadline - clockMs();
        if (remaining <= 0 || signal?.aborted === true || isFinal(error)) throw error;
        await sleep(Math.min(pauseMs, remaining), signal);
      }
    }
  }

  get info(): NegotiatedExport { return this.#info; }
  get alive(): boolean { return this.#connection !== undefined; }

  submit(request: NbdRequest): void {
    if (this.#connection !== undefined) this.#connection.send(request);
    else if (this.#closed) request.abandon(new Error('closed'));
    else this.#wait(request);
  }

  /** Ends politely where the connection still stands. What is unanswered fails. */
  close(): void {
    this.#closed = true;
    this.#closing.abort(new BlockError('CLOSED', 'closed'));
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection !== undefined) {
      if (connection.idle) connection.close();
      else connection.abandon(new Error('closed'));
    }
    this.#failWaiting(new Error('closed'));
  }

  async #connect(limitMs: number, signal: AbortSignal | undefined): Promise<void> {
    const { server, tls, exportName, context, timeoutMs, style } = this.#settings;
    const attempt = new AbortController();
    const abort = (): void => attempt.abort(signal?.reason);
    signal?.addEventListener('abort', abort);
    const timer = limitMs > 0 ? setTimeout(() => attempt.abort(systemError(Errno.ETIMEDOUT, {}, `Failed to connect to '${describe(server)}'`)), limitMs) : undefined;
    let channel: ByteChannel | undefined;
    try {
      if (signal?.aborted === true) abort();
      channel = await ByteChannel.connect(server, { plain: tls === undefined, signal: attempt.signal });
      const stream = channel;
      attempt.signal.addEventListener('abort', () => stream.destroy(), { once: true });
      const info = await negotiate({
        read: (length, what) => stream.read(length, what),
        write: (bytes) => stream.write(bytes),
        startTls: () => tls === undefined ? Promise.reject(new Error('no TLS credentials')) : stream.startTls(tls),
      }, { exportName, tls: tls !== undefined, contexts: context === undefined ? [] : [context], ...(style && { style }) });
      attempt.signal.throwIfAborted();
      if (this.#info !== undefined) checkSameExport(this.#info, info);
      this.#adopt(stream, info, timeoutMs);
    } catch (error) {
      channel?.destroy();
      throw attempt.signal.aborted ? attempt.signal.reason as Error : translated(error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  #adopt(channel: ByteChannel, info: NegotiatedExport, timeoutMs: number): void {
    const { context } = this.#settings;
    const connection: Connection = new Connection(channel, info, context === undefined ? undefined : info.contexts.get(context), timeoutMs,
      (error, unanswered) => this.#lost(connection, error, unanswered));
    this.#info = info;
    this.#connection = connection;
    connection.begin();
    const { failure } = connection;
    if (failure !== undefined) throw new BlockError('CONNECTION_LOST', `Failed to read reply: ${failure.message}`, { driver: 'nbd' }, failure);
  }

  #lost(connection: Connection, error: Error, unanswered: NbdRequest[]): void {
    if (this.#connection === connection) this.#connection = undefined;
    const now = clockMs();
    this.#lostAt = now;
    // A server that answers nothing before it goes again must not keep us busy.
    this.#pauseMs = connection.answered > 0 ? 0 : Math.min(Math.max(2 * this.#pauseMs, firstPauseMs), longestPauseMs);
    for (const request of unanswered) {
      if (request.deadline === 0) request.deadline = now + this.#settings.reconnectDelayMs;
      if (this.#closed || error instanceof ProtocolViolation || request.deadline <= now) request.abandon(error);
      else this.#wait(request);
    }
  }

  #wait(request: NbdRequest): void {
    this.#waiting.push(request);
    this.#reconnecting ??= this.#reconnect().finally(() => {
      this.#reconnecting = undefined;
      if (this.#waiting.length > 0 && this.#connection === undefined && !this.#closed) this.#wait(this.#waiting.pop()!);
    });
  }

  /** Tries until connected, or until the delay since the loss has passed: then once. Never rejects. */
  async #reconnect(): Promise<void> {
    const deadline = this.#lostAt + this.#settings.reconnectDelayMs;
    for (;;) {
      try {
        if (this.#pauseMs > 0) await sleep(Math.min(this.#pauseMs, Math.max(0, deadline - clockMs())), this.#closing.signal);
        const left = deadline - clockMs();
        await this.#connect(left > 0 ? left : attemptMs, this.#closing.signal);
        for (const request of this.#waiting.splice(0)) this.submit(request);
        return;
      } catch (error) {
        if (this.#closed || isFinal(error) || clockMs() >= deadline) {
          this.#failWaiting(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        this.#pauseMs = Math.min(Math.max(2 * this.#pauseMs, firstPauseMs), longestPauseMs);
      }
    }
  }

  #failWaiting(error: Error): void {
    for (const request of this.#waiting.splice(0)) request.abandon(error);
  }
}

/** The context that answers status where the user names no other. */
export const defaultContext = Context.BASE_ALLOCATION;

/** Trying again would not help: the server answered, and said no. */
function isFinal(error: unknown): boolean {
  return error instanceof BlockError && (error.cause instanceof NbdNegotiationError || error.cause instanceof NbdFormatError || error.code === 'INVALID_ARGUMENT');
}

function translated(error: unknown): unknown {
  if (error instanceof NbdNegotiationError) {
    const code = error.message.startsWith('Requested export') ? 'NOT_FOUND' : 'ACCESS_DENIED';
    return new BlockError(code, error.message, { driver: 'nbd', ...(error.hint !== undefined && { hint: error.hint }) }, error);
  }
  if (error instanceof NbdFormatError) return new BlockError('IO_ERROR', error.message, { driver: 'nbd' }, error);
  return error;
}

/** What stands above relies on the first handshake. */
function checkSameExport(before: NegotiatedExport, now: NegotiatedExport): void {
  if (now.size < before.size) throw new NbdFormatError(`the export is smaller (${now.size} bytes) than it was (${before.size} bytes)`);
  if ((before.flags & ~now.flags & ~2) !== 0 || (now.flags & ~before.flags & 2) !== 0) throw new NbdFormatError('the export has lost abilities it had');
  if ((now.blockSizes?.minimum ?? 1) > (before.blockSizes?.minimum ?? 1)) throw new NbdFormatError('the export has larger blocks than it had');
  if ([...before.contexts.keys()].some((name) => !now.contexts.has(name))) throw new NbdFormatError('the export has lost a metadata context');
}

function describe(server: SocketAddress): string {
  return server.type === 'unix' ? server.path : `${server.host}:${server.port}`;
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason instanceof Error ? signal.reason : new BlockError('CANCELLED', strerror(Errno.ECANCELED)));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted === true) abort();
  });
}
