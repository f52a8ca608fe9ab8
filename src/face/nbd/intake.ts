/**
 * How received bytes get into a transmission's buffer. A plain socket reads straight into it: Node offers that (`onread`) only to
 * sockets made with the option, so the accepted socket's handle moves into a new one. Where there is no such handle (TLS, other
 * runtimes), bytes are copied from 'data' events.
 */
import { writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Transmission } from './transmission.js';

interface Handle { readonly useUserBuffer?: unknown; readonly fd?: number }

/** Moves a socket from paused mode, in which its handshake read it, to a transmission; returns the socket to use from now on. */
export function takeOver(accepted: Socket, transmission: Transmission): Socket {
  const early = accepted.read() as Buffer | null;
  const handle = accepted.constructor === Socket ? (accepted as unknown as { _handle?: Handle | null })._handle : undefined;
  const socket = handle && typeof handle.useUserBuffer === 'function' ? moveHandle(accepted, handle, transmission) : accepted;
  const intake = new Intake(socket, transmission, socket === accepted, handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined);
  transmission.connect(socket, intake);
  intake.start(early);
  return socket;
}

function moveHandle(accepted: Socket, handle: Handle, transmission: Transmission): Socket {
  accepted.removeAllListeners();
  (accepted as unknown as { _handle: Handle | null })._handle = null;
  const options = {
    handle, allowHalfOpen: true, readable: true, writable: true, pauseOnCreate: true,
    onread: { buffer: () => transmission.target(), callback: (length: number) => transmission.received(length) },
  };
  const socket = new Socket(options);
  socket.on('error', () => socket.destroy());
  return socket;
}

class Intake {
  readonly writeNow: ((bytes: Uint8Array) => number) | undefined;
  readonly #socket: Socket;
  readonly #transmission: Transmission;
  readonly #copies: boolean;
  /** Received and not yet accepted. */
  #rest: Uint8Array | undefined;

  constructor(socket: Socket, transmission: Transmission, copies: boolean, fd: number | undefined) {
    if (fd !== undefined) this.writeNow = (bytes) => (socket.destroyed ? 0 : writeToSocket(fd, bytes));
    this.#socket = socket;
    this.#transmission = transmission;
    this.#copies = copies;
  }

  start(early: Uint8Array | null): void {
    this.#rest = early ?? undefined;
    this.#socket.on('end', () => this.#transmission.finish());
    if (this.#copies) {
      this.#socket.on('data', (bytes: Buffer) => {
        if (!this.#copy(bytes)) this.#socket.pause();
      });
    }
    if (this.#socket.readableEnded) this.#transmission.finish();
    this.resume();
  }

  resume(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest === undefined || this.#copy(rest)) this.#socket.resume();
  }

  /** False: the transmission wants no more for now; what it did not take is kept. */
  #copy(bytes: Uint8Array): boolean {
    for (let at = 0; at < bytes.length;) {
      const target = this.#transmission.target();
      const length = Math.min(target.length, bytes.length - at);
      target.set(bytes.subarray(at, at + length));
      at += length;
      if (!this.#transmission.received(length)) {
        if (at < bytes.length) this.#rest = bytes.slice(at);
        return false;
      }
    }
    return true;
  }
}

/** Bytes a non-blocking socket takes now; a failure is left for the stream to meet. */
function writeToSocket(fd: number, bytes: Uint8Array): number {
  try {
    return writeSync(fd, bytes);
  } catch {
    return 0;
  }
}
