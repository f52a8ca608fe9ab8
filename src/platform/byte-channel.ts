/** A connection as two phases see it: read exactly so many bytes (handshake), then bytes straight into the reader's buffers. */
import net from 'node:net';
import type { PeerCertificate, TLSSocket } from 'node:tls';
import { BlockError, Errno, strerror, systemError } from '../block/errors.js';
import { pskCiphers, type TlsCredentials } from './tls-credentials.js';
import { cutOff, isUnknownIssuer } from './tls-words.js';

export type ChannelAddress =
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'inet'; readonly host: string; readonly port: string };

/** Where received bytes go. */
export interface ByteSink {
  /** Room for the next bytes, never empty. */
  buffer(): Uint8Array;
  /** So many bytes were put into what buffer() returned last. */
  filled(length: number): void;
  /** Nothing more will come: the end of the stream (no error) or its failure. Called once. */
  closed(error?: Error): void;
}

/** How a connection is encrypted. */
export interface TlsSettings {
  readonly credentials: TlsCredentials;
  /** Name the server's certificate must bear; undefined: the host's that was connected to. */
  readonly hostname?: string | undefined;
}

const inboxSize = 128 * 1024;

export class ByteChannel {
  #socket: net.Socket;
  #sink: ByteSink;
  #offered: Uint8Array | undefined;
  #closed = false;
  #failure: Error | undefined;
  #finishSwitch: (() => void) | undefined;
  readonly #inbox = new Inbox(() => this.#socket.resume());
  readonly #host: string | undefined;

  private constructor(address: ChannelAddress, plain: boolean) {
    this.#host = address.type === 'unix' ? undefined : address.host;
    this.#sink = this.#inbox;
    const where = address.type === 'unix' ? { path: address.path } : { host: address.host, port: portNumber(address), noDelay: true, keepAlive: true };
    const onread = { buffer: () => this.#offer(), callback: (length: number, buffer: Uint8Array) => this.#received(length, buffer) };
    this.#socket = net.connect({ ...where, ...(plain && { onread }) });
  }

  /**
   * Connects. With `plain` (no TLS will follow) the kernel writes straight into the sink's buffers.
   * Rejects with the peer's text: `Failed to connect to '…': Connection refused`.
   */
  static async connect(address: ChannelAddress, options: { readonly plain: boolean; readonly signal?: AbortSignal | undefined }): Promise<ByteChannel> {
    const { plain, signal } = options;
    signal?.throwIfAborted();
    if (address.type === 'unix' && address.path === '') throw systemError(Errno.ECONNREFUSED, {}, "Failed to connect to ''");
    const channel = new ByteChannel(address, plain);
    const socket = channel.#socket;
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        socket.destroy();
        reject(abortReason(signal));
      };
      signal?.addEventListener('abort', abort, { once: true });
      socket.once('error', (error: NodeJS.ErrnoException) => {
        signal?.removeEventListener('abort', abort);
        reject(connectError(address, error));
      });
      socket.once('connect', () => {
        signal?.removeEventListener('abort', abort);
        socket.removeAllListeners('error');
        channel.#attach(socket, !plain);
        resolve();
      });
    });
    return channel;
  }

  /** Handshake: the next `length` bytes, valid until the next call. Rejects `Failed to read WHAT: …` where they do not come. */
  read(length: number, what: string): Promise<Uint8Array> {
    return this.#inbox.take(length).catch((error: unknown) => {
      throw new BlockError('CONNECTION_LOST', `Failed to read ${what}: ${error instanceof Error ? error.message : String(error)}`, {}, error);
    });
  }

  write(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Collects the writes of this turn into one. */
  cork(): void { this.#socket.cork(); }
  uncork(): void { this.#socket.uncork(); }

  /** More is queued than the kernel takes at present; onDrain's callback comes when it is gone. */
  get congested(): boolean { return this.#socket.writableNeedDrain; }
  onDrain(callback: () => void): void { this.#socket.once('drain', callback); }

  /** Handshake: goes on encrypted. */
  async startTls({ credentials, hostname }: TlsSettings): Promise<void> {
    const tls = await import('node:tls');
    const raw = this.#socket;
    raw.removeAllListeners();
    const servername = hostname ?? this.#host;
    const key = credentials.psk && [...credentials.psk][0];
    const verify = key === undefined && credentials.verifyPeer && credentials.fingerprint === undefined;
    const secured = tls.connect({
      socket: raw,
      ...(servername !== undefined && net.isIP(servername) === 0 && { servername }),
      ...(key ? {
        ciphers: pskCiphers, maxVersion: 'TLSv1.2' as const, pskCallback: () => ({ identity: key[0], psk: key[1] }), checkServerIdentity: () => undefined,
      } : {
        // judged below, when the handshake is over and the server can be told
        ...credentials.x509, rejectUnauthorized: false,
        checkServerIdentity: (_name: string, certificate: PeerCertificate) =>
          servername === undefined ? new Error('No hostname for certificate validation')
            : tls.checkServerIdentity(servername, certificate) && new Error(`Certificate does not match the hostname ${servername}`),
      }),
    });
    await new Promise<void>((resolve, reject) => {
      this.#finishSwitch = () => reject(tlsError(new Error(cutOff)));
      secured.once('secureConnect', () => {
        const problem = pinProblem(credentials.fingerprint, secured.getPeerCertificate()) ?? (verify ? verifyProblem(secured) : undefined);
        if (problem === undefined) resolve();
        else setImmediate(() => reject(new BlockError('ACCESS_DENIED', problem)));
      });
      secured.once('error', (error) => reject(tlsError(error)));
      secured.once('close', () => this.#finishSwitch?.());
    }).catch((error: unknown) => {
      secured.destroy();
      throw error;
    });
    this.#finishSwitch = undefined;
    secured.removeAllListeners('error');
    this.#socket = secured;
    this.#attach(secured, true, new Error(`Cannot read from TLS channel: ${cutOff}`));
  }

  /** Ends the handshake: from now on bytes go to `sink`. */
  beginTransmission(sink: ByteSink): void {
    this.#sink = sink;
    this.#offered = undefined;
    const rest = this.#inbox.drain();
    if (rest.length > 0) this.#deliver(rest);
    if (this.#closed) sink.closed(this.#failure);
    else this.#socket.resume();
  }

  /** Ends the connection after what was written has left. */
  end(): void {
    this.#finishSwitch?.();
    this.#socket.end(() => this.#socket.destroy());
  }

  destroy(): void {
    this.#finishSwitch?.();
    this.#socket.destroy();
  }

  /** @param ended why the stream ends, where that is no orderly end */
  #attach(socket: net.Socket, asEvents: boolean, ended?: Error): void {
    let failure: Error | undefined;
    socket.on('error', (error: NodeJS.ErrnoException) => {
      failure ??= error.syscall === 'read' || error.syscall === 'write'
        ? new Error(`Unable to ${error.syscall === 'read' ? 'read from' : 'write to'} socket: ${strerror(errnoOf(error))}`, { cause: error })
        : error;
    });
    socket.on('end', () => this.#close(ended));
    socket.on('close', () => this.#close(failure ?? ended));
    if (asEvents) {
      socket.on('data', (bytes: Uint8Array) => {
        this.#deliver(bytes);
        if (this.#inbox.full) socket.pause();
      });
    }
  }

  #close(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = error;
    this.#sink.closed(error);
  }

  #offer(): Uint8Array {
    return this.#offered = this.#sink.buffer();
  }

  #received(length: number, buffer: Uint8Array): boolean {
    if (buffer === this.#offered) this.#sink.filled(length);
    else this.#deliver(buffer.subarray(0, length));
    return !this.#inbox.full;
  }

  #deliver(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const room = this.#sink.buffer();
      const length = Math.min(room.length, bytes.length - at);
      room.set(bytes.subarray(at, at + length));
      this.#sink.filled(length);
      at += length;
    }
  }
}

/** Bytes of the handshake until they are asked for. Beyond its bound it asks the socket to wait. */
class Inbox implements ByteSink {
  #bytes = new Uint8Array(inboxSize);
  #start = 0;
  #end = 0;
  #waiting: { readonly length: number; readonly resolve: (bytes: Uint8Array) => void; readonly reject: (error: Error) => void } | undefined;
  #closedBy: Error | undefined;
  readonly #resume: () => void;

  constructor(resume: () => void) {
    this.#resume = resume;
  }

  get full(): boolean {
    return this.#end - this.#start >= inboxSize / 2;
  }

  buffer(): Uint8Array {
    if (this.#end > inboxSize / 2) {
      this.#bytes.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    if (this.#end === this.#bytes.length) {
      // One event of an encrypted stream may bring more than fits.
      const larger = new Uint8Array(this.#bytes.length * 2);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return this.#bytes.subarray(this.#end);
  }

  filled(length: number): void {
    this.#end += length;
    this.#serve();
  }

  closed(error?: Error): void {
    this.#closedBy = error ?? new Error('Unexpected end-of-file before all data were read');
    this.#serve();
  }

  take(length: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#waiting = { length, resolve, reject };
      this.#serve();
    });
  }

  drain(): Uint8Array {
    const rest = this.#bytes.slice(this.#start, this.#end);
    this.#start = this.#end = 0;
    this.#bytes = new Uint8Array(0);
    return rest;
  }

  #serve(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    if (this.#end - this.#start >= waiting.length) {
      this.#waiting = undefined;
      const wasFull = this.full;
      const bytes = this.#bytes.slice(this.#start, this.#start + waiting.length);
      this.#start += waiting.length;
      if (wasFull && !this.full) this.#resume();
      waiting.resolve(bytes);
    } else if (this.#closedBy !== undefined) {
      this.#waiting = undefined;
      waiting.reject(this.#closedBy);
    }
  }
}

function portNumber(address: { readonly host: string; readonly port: string }): number {
  const port = Number(address.port);
  if (Number.isInteger(port) && port >= 0 && port < 65536 && address.port !== '') return port;
  throw new BlockError('INVALID_ARGUMENT', `address resolution failed for ${address.host}:${address.port}: Servname not supported for ai_socktype`);
}

function connectError(address: ChannelAddress, error: NodeJS.ErrnoException): BlockError {
  if (address.type === 'unix') return systemError(errnoOf(error), {}, `Failed to connect to '${address.path}'`, error);
  const where = `${address.host}:${address.port}`;
  if (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN') {
    const reason = error.code === 'ENOTFOUND' ? 'Name or service not known' : 'Temporary failure in name resolution';
    return new BlockError('NOT_FOUND', `address resolution failed for ${where}: ${reason}`, {}, error);
  }
  return systemError(errnoOf(error), {}, `Failed to connect to '${where}'`, error);
}

/** Linux errno of a system error; several attempts to connect (IPv6, IPv4) fail as the first did. */
function errnoOf(error: NodeJS.ErrnoException): number {
  if (error instanceof AggregateError && error.errors[0] instanceof Error) return errnoOf(error.errors[0]);
  return error.errno === undefined ? Errno.EIO : -error.errno;
}

function abortReason(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new BlockError('CANCELLED', strerror(Errno.ECANCELED));
}

function pinProblem(expected: string | undefined, { fingerprint, fingerprint256 }: PeerCertificate): string | undefined {
  if (expected === undefined || expected === fingerprint || expected === fingerprint256) return undefined;
  return `The certificate of the server is not the one expected: it has the fingerprint ${expected.length === fingerprint256?.length ? fingerprint256 : fingerprint}`;
}

/** What speaks against the server's certificate. */
function verifyProblem({ authorized, authorizationError }: TLSSocket): string | undefined {
  if (authorized) return undefined;
  // Node gives the code of OpenSSL's errors, else the message
  const problem: unknown = authorizationError;
  const text = problem instanceof Error ? problem.message : String(problem);
  return isUnknownIssuer(text) ? "The certificate hasn't got a known issuer" : text;
}

function tlsError(error: Error & { readonly code?: string; readonly reason?: string }): BlockError {
  const why = error.code?.includes('_ALERT_') === true ? cutOff : error.reason ?? error.message;
  return new BlockError('ACCESS_DENIED', `TLS handshake failed: ${why}`, {}, error);
}
