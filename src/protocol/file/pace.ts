/** A call that takes longer than this holds up everybody else's requests. */
import { clockMs } from '../../platform/clock.js';

const slowMs = 3;
/** Copying alone takes this long: it is not the disk's fault. */
const bytesPerMs = 512 * 1024;
const shortestMs = 50;
const longestMs = 5000;
const watchMs = 1000;

/**
 * Decides whether calls that may block run on this thread: they do while they prove quick.
 *
 * A slow call may only have been interrupted, on a busy machine. So it just makes the next ones watched: if one of those is slow and
 * did wait, calls go to another thread for a while, which doubles each time the disk proves slow again.
 */
export class Pace {
  readonly #waits: () => number;
  #asideUntil = 0;
  #watchUntil = 0;
  #penaltyMs = shortestMs;
  #waitsBefore = 0;

  /** `waits` counts how often this thread has waited so far. */
  constructor(waits: () => number) {
    this.#waits = waits;
  }

  /** When the call starts, to be handed to {@link end}; undefined: make it on another thread. */
  begin(): number | undefined {
    const now = clockMs();
    if (now < this.#asideUntil) return undefined;
    if (now < this.#watchUntil) this.#waitsBefore = this.#waits();
    return now;
  }

  end(start: number, bytes: number): void {
    const now = clockMs();
    if (now - start > slowMs + bytes / bytesPerMs) this.#slow(start, now);
    else if (now - this.#asideUntil > longestMs) this.#penaltyMs = shortestMs;
  }

  #slow(start: number, now: number): void {
    const waited = start < this.#watchUntil && this.#waits() > this.#waitsBefore;
    if (waited) {
      this.#asideUntil = now + this.#penaltyMs;
      this.#penaltyMs = Math.min(this.#penaltyMs * 2, longestMs);
    }
    this.#watchUntil = Math.max(now, this.#asideUntil) + watchMs;
  }
}
