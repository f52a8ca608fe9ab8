/** The NBD server: listens, admits clients up to a bound, stops without losing what is in flight. */
import { lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Authorize } from '../../platform/authorization.js';
import type { TlsCredentials } from '../../platform/tls-credentials.js';
import { formatNbdUri, type SocketAddress } from '../../wire/nbd/address.js';
import { BlockPool } from './buffers.js';
import { Connection } from './connection.js';
import type { ExportDirectory } from './exports.js';
import { LingerPolicy } from './linger.js';
import { ServerTls } from './tls.js';

export interface NbdServerOptions {
  readonly exports: ExportDirectory;
  /** Clients served at a time; others wait, then are turned away. Default 100; 0: no limit. */
  readonly maxClients?: number;
  /** Given, every client must encrypt. */
  readonly tls?: TlsCredentials | undefined;
  /** Judges the distinguished name of each client's certificate. */
  readonly authorize?: Authorize | undefined;
  /** Time a client has to choose an export. Default 10 s; 0: no limit. */
  readonly handshakeTimeoutMs?: number;
  /** Why clients were dropped, and the like. */
  readonly report?: (message: string) => void;
  /** A client that had chosen an export is gone. */
  readonly onDisconnect?: (remaining: number) => void;
}

/** Clients beyond maxClients that may wait for a place. */
const MAX_WAITING = 64;
/** How long stop() waits for clients to take their replies. */
const STOP_TIMEOUT_MS = 5000;

export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #tls: ServerTls | undefined;
  readonly #pool = new BlockPool();
  readonly #linger = new LingerPolicy(() => this.#active.size);
  readonly #listeners = new Set<Server>();
  readonly #active = new Map<Connection, Promise<void>>();
  readonly #waiting = new Set<Socket>();
  #stopped = false;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#tls = options.tls && new ServerTls(options.tls, options.authorize);
  }

  /** Clients being served. */
  get clients(): number {
    return this.#active.size;
  }

  /**
   * Starts accepting clients; resolves with the address in effect (port '0' becomes the one chosen). Rejects with the system's error.
   * A unix socket that a killed server left behind is replaced.
   */
  async listen(address: SocketAddress): Promise<SocketAddress> {
    try {
      return await this.#listen(address);
    } catch (error) {
      if (address.type !== 'unix' || !(error instanceof BlockError) || error.errno !== Errno.EADDRINUSE || !await isAbandoned(address.path)) throw error;
      unlinkSync(address.path);
      return this.#listen(address);
    }
  }

  async #listen(address: SocketAddress): Promise<SocketAddress> {
    const listener = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (error: NodeJS.ErrnoException) => {
        reject(systemError(-(error.errno ?? -Errno.EINVAL), { op: 'listen' }, `Cannot listen on ${formatNbdUri(address, '')}`, error));
      });
      const ready = (): void => {
        listener.removeAllListeners('error');
        resolve();
      };
      if (address.type === 'unix') listener.listen(address.path, ready);
      else listener.listen(Number(address.port), address.host === '' ? undefined : address.host, ready);
    });
    listener.on('error', (error) => this.#options.report?.(error.message));
    this.#listeners.add(listener);
    const actual = listener.address();
    return actual !== null && typeof actual === 'object' ? { type: 'inet', host: actual.address, port: String(actual.port) } : address;
  }

  /** Accepts clients of a socket that is listening already (socket activation). */
  async listenOn(fd: number): Promise<void> {
    const listener = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen({ fd }, resolve);
    });
    this.#listeners.add(listener);
  }

  /** No new clients, no new requests; resolves when those in flight are answered and every connection is closed. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const listener of this.#listeners) listener.close();
    for (const socket of this.#waiting) socket.destroy();
    for (const connection of this.#active.keys()) connection.stop();
    const timer = setTimeout(() => {
      for (const connection of this.#active.keys()) connection.destroy();
    }, STOP_TIMEOUT_MS);
    await Promise.all(this.#active.values());
    clearTimeout(timer);
  }

  #accept(socket: Socket): void {
    const limit = this.#options.maxClients ?? 100;
    if (limit === 0 || this.#active.size < limit) return this.#serve(socket);
    if (this.#waiting.size >= MAX_WAITING) {
      socket.destroy();
      return;
    }
    this.#waiting.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#waiting.delete(socket));
  }

  #serve(socket: Socket): void {
    const { exports, handshakeTimeoutMs, report, onDisconnect } = this.#options;
    const connection = new Connection(socket, {
      directory: exports, pool: this.#pool, linger: this.#linger, tls: this.#tls, handshakeTimeoutMs: handshakeTimeoutMs ?? 10_000, report: report ?? (() => undefined),
    });
    const served = connection.serve().finally(() => {
      this.#active.delete(connection);
      if (connection.negotiated) onDisconnect?.(this.#active.size);
      const [next] = this.#waiting;
      if (next === undefined || this.#stopped) return;
      this.#waiting.delete(next);
      this.#accept(next);
    });
    this.#active.set(connection, served);
  }
}

/** Whether it is a socket on which nobody listens. */
async function isAbandoned(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'));
  });
}
