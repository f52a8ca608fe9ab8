/**
 * When to wait for a client's next request at the socket itself. A client with one request in flight spends its time in two wake-ups
 * per request; staying awake for some microseconds saves ours. It costs processor time, so it is done only while there is one
 * client and a second processor, only for a bounded time, and less and less often where it did not pay.
 */
import { availableParallelism } from 'node:os';

const PATIENCE_NS = 80_000n;
/** At the socket at a stretch, before the event loop goes round. */
const STRETCH_NS = 1_000_000n;
const MAX_SKIPS = 256;

export class LingerPolicy {
  /** Clients being served. */
  readonly #clients: () => number;
  readonly #allowed = availableParallelism() > 1;
  #penalty = 0;
  #skips = 0;

  constructor(clients: () => number) {
    this.#clients = clients;
  }

  /** How long to wait after a turn that served so many requests; no time at all where it would not pay. */
  begin(served: number): { readonly patienceNs: bigint; readonly deadline: bigint } {
    if (!this.#allowed || served > 1 || this.#clients() > 1 || this.#skips-- > 0) return never;
    this.#skips = 0;
    return { patienceNs: PATIENCE_NS, deadline: process.hrtime.bigint() + STRETCH_NS };
  }

  hit(): void {
    this.#penalty = 0;
  }

  miss(): void {
    this.#penalty = Math.min(MAX_SKIPS, this.#penalty * 2 + 1);
    this.#skips = this.#penalty;
  }
}

const never = Object.freeze({ patienceNs: 0n, deadline: 0n });
