/**
 * How received bytes get into a transmission's buffer. A plain socket reads straight into it: Node offers that (`onread`) only to
 * sockets made with the option, so the accepted socket's handle moves into a new one. Where there is no such handle (TLS, other
 * runtimes), bytes are copied from 'data' events.
 */
import { Socket } from 'node:net';
import { native, type Native } from '../../platform/native.js';
import type { LingerPolicy } from './linger.js';
import type { Transmission } from './transmission.js';

interface Handle { readonly useUserBuffer?: unknown; readonly fd?: number }

/** Moves a socket from paused mode, in which its handshake read it, to a transmission; returns the socket to use from now on. */
export function takeOver(accepted: Socket, transmission: Transmission, policy: LingerPolicy): Socket {
  const early = accepted.read() as Buffer | null;
  const handle = accepted.constructor === Socket ? (accepted as unknown as { _handle?: Handle | null })._handle : undefined;
  if (!handle || typeof handle.useUserBuffer !== 'function') {
    const intake = new Intake(accepted, transmission, undefined);
    accepted.on('data', (bytes: Buffer) => {
      if (!intake.copy(bytes)) accepted.pause();
    });
    intake.start(early);
    return accepted;
  }
  accepted.removeAllListeners();
  (accepted as unknown as { _handle: Handle | null })._handle = null;
  const calls = native();
  const direct = calls && handle.fd !== undefined && handle.fd >= 0 ? new DirectSocket(calls, handle.fd, policy) : undefined;
  const socket = new Socket({
    handle, allowHalfOpen: true, readable: true, writable: true, pauseOnCreate: true,
    onread: {
      buffer: () => transmission.target(),
      callback: (length: number) => (direct === undefined ? transmission.received(length) : direct.linger(transmission, length)),
    },
  } as ConstructorParameters<typeof Socket>[0]);
  socket.on('error', () => socket.destroy());
  socket.once('close', () => direct?.close());
  new Intake(socket, transmission, direct).start(early);
  return socket;
}

/** The socket's descriptor, used beside its stream where that saves a trip through the event loop. */
class DirectSocket {
  readonly #native: Native;
  readonly #policy: LingerPolicy;
  #fd: number;

  constructor(calls: Native, fd: number, policy: LingerPolicy) {
    this.#native = calls;
    this.#fd = fd;
    this.#policy = policy;
  }

  get fd(): number | undefined {
    return this.#fd < 0 ? undefined : this.#fd;
  }

  /** Hands bytes to the kernel and returns how many it took; a failure is left for the stream to meet. */
  write(bytes: Uint8Array): number {
    return this.#fd < 0 ? 0 : Math.max(0, this.#native.send(this.#fd, bytes));
  }

  /** Serves what has arrived, and what a client that sends one request after the other sends next, for a bounded time. */
  linger(transmission: Transmission, length: number): boolean {
    let more = transmission.received(length);
    if (!more || !transmission.idle) return more;
    const { deadline, patienceNs } = this.#policy.begin(transmission.served);
    if (patienceNs === 0n) return more;
    let giveUp = process.hrtime.bigint() + patienceNs;
    for (;;) {
      const bytes = this.#fd < 0 ? 0 : this.#native.receive(this.#fd, transmission.target());
      const now = process.hrtime.bigint();
      if (bytes > 0) {
        this.#policy.hit();
        more = transmission.received(bytes);
        giveUp = process.hrtime.bigint() + patienceNs;
        if (!more || !transmission.idle || transmission.served > 1 || now > deadline) return more;
      } else if (now > giveUp || (bytes === 0)) {
        this.#policy.miss();
        return more;
      }
    }
  }

  close(): void {
    this.#fd = -1;
  }
}

class Intake {
  readonly writeNow: ((bytes: Uint8Array) => number) | undefined;
  readonly #direct: DirectSocket | undefined;
  readonly #socket: Socket;
  readonly #transmission: Transmission;
  /** Received and not yet accepted. */
  #rest: Uint8Array | undefined;

  constructor(socket: Socket, transmission: Transmission, direct: DirectSocket | undefined) {
    this.#socket = socket;
    this.#transmission = transmission;
    this.#direct = direct;
    if (direct !== undefined) this.writeNow = (bytes) => direct.write(bytes);
    transmission.connect(socket, this);
  }

  get socketFd(): number | undefined {
    return this.#direct?.fd;
  }

  /** Connects the input; bytes received before come first. */
  start(early: Uint8Array | null): void {
    this.#rest = early ?? undefined;
    this.#socket.on('end', () => this.#transmission.finish());
    if (this.#socket.readableEnded) this.#transmission.finish();
    this.resume();
  }

  resume(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest === undefined || this.copy(rest)) this.#socket.resume();
  }

  /** False: the transmission wants no more for now; what it did not take is kept. */
  copy(bytes: Uint8Array): boolean {
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
