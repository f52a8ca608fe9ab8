/** One client: the socket, its handshake, its transmission, its end. */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { eventsHandled } from '../../platform/bytes.js';
import { cutOff } from '../../platform/tls-words.js';
import { NbdFormatError } from '../../wire/nbd/handshake.js';
import type { BlockPool } from './buffers.js';
import { errorText } from './errors.js';
import type { ExportDirectory } from './exports.js';
import { ClientAbort, HandshakeEnd, negotiate, type HandshakeStream } from './handshake.js';
import { takeOver } from './intake.js';
import type { LingerPolicy } from './linger.js';
import type { ServerTls } from './tls.js';
import { Transmission, type Session } from './transmission.js';

export interface ConnectionOptions {
  readonly directory: ExportDirectory;
  readonly pool: BlockPool;
  readonly linger: LingerPolicy;
  readonly tls?: ServerTls | undefined;
  /** 0: no limit. */
  readonly handshakeTimeoutMs: number;
  /** Why a client was dropped, for a log. */
  readonly report: (message: string) => void;
}

export class Connection {
  readonly #options: ConnectionOptions;
  #socket: Socket;
  #transmission: Transmission | undefined;
  #stopping = false;
  /** The client chose an export. */
  negotiated = false;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on('error', () => socket.destroy());
  }

  /** Serves the client; resolves when the connection is closed and nothing of it is in flight. Never rejects. */
  async serve(): Promise<void> {
    const { directory, report } = this.#options;
    let session: Session | undefined;
    try {
      session = await this.#handshake();
      this.negotiated = true;
      await this.#transmit(session);
    } catch (error) {
      if (!(error instanceof ClientAbort)) report(`option negotiation failed: ${errorText(error)}`);
      if (error instanceof HandshakeEnd || error instanceof NbdFormatError) this.#socket.destroySoon();
      else this.#socket.destroy();
    } finally {
      if (session !== undefined) directory.release(session.lent);
    }
  }

  /** Takes no more requests; what is in flight is finished and answered. */
  stop(): void {
    this.#stopping = true;
    if (this.#transmission === undefined) this.#socket.destroy();
    else this.#transmission.finish();
  }

  destroy(): void {
    this.#stopping = true;
    this.#socket.destroy();
  }

  async #handshake(): Promise<Session> {
    const { directory, tls, handshakeTimeoutMs } = this.#options;
    const timer = handshakeTimeoutMs > 0 ? setTimeout(() => this.#socket.destroy(), handshakeTimeoutMs) : undefined;
    let encrypted = false;
    let sent: Promise<void> | undefined;
    const stream: HandshakeStream = {
      take: (length) => takeBytes(this.#socket, length),
      send: (bytes) => {
        sent = new Promise((resolve) => { this.#socket.write(bytes, () => resolve()); });
      },
      settled: async () => {
        await eventsHandled();
        await sent;
      },
      get encrypted() { return encrypted; },
      ...(tls !== undefined && {
        startTls: async () => {
          if (this.#socket.readableLength > 0) throw new HandshakeEnd('Client sent data before TLS was up');
          this.#socket = await tls.accept(this.#socket);
          encrypted = true;
        },
      }),
    };
    try {
      const session = await negotiate(stream, directory);
      await sent;
      return session;
    } finally {
      clearTimeout(timer);
    }
  }

  async #transmit(session: Session): Promise<void> {
    if (this.#socket.destroyed) return;
    const transmission = new Transmission(session, this.#options.pool);
    this.#transmission = transmission;
    const socket = takeOver(this.#socket, transmission, this.#options.linger);
    this.#socket = socket;
    if (this.#stopping) transmission.finish();
    await new Promise<void>((resolve) => {
      if (socket.closed) resolve();
      else socket.once('close', () => resolve());
    });
    await transmission.abort();
  }
}

/**
 * Exactly `length` bytes of a socket in paused mode. What has come is taken out before waiting for more: a stream that holds less
 * than is asked for announces itself readable again and again.
 */
async function takeBytes(socket: Socket, length: number): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  for (let missing = length; missing > 0;) {
    const bytes = socket.destroyed ? null : socket.read(Math.min(missing, socket.readableLength) || undefined) as Buffer | null;
    if (bytes !== null) {
      parts.push(bytes);
      missing -= bytes.length;
      continue;
    }
    if (socket.readableEnded || socket.destroyed) {
      const reason = socket instanceof TLSSocket ? `Cannot read from TLS channel: ${cutOff}` : 'Unexpected end-of-file before all data were read';
      throw new HandshakeEnd(`Failed to read opts magic: ${reason}`);
    }
    await new Promise<void>((resolve) => {
      const events = ['readable', 'end', 'close'] as const;
      const wake = (): void => {
        for (const event of events) socket.off(event, wake);
        resolve();
      };
      for (const event of events) socket.on(event, wake);
    });
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}
