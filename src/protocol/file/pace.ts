/** A call that takes longer than this holds up everybody else's requests. */
const slowMs = 3;
/** Copying alone takes this long: it is not the disk's fault. */
const bytesPerMs = 512 * 1024;
const shortestMs = 50;
const longestMs = 5000;

/**
 * Decides whether calls that may block run on this thread: they do while they prove quick. After a slow one they go to another
 * thread for a while, which doubles each time the next attempt is slow again.
 */
export class Pace {
  #asideUntil = 0;
  #penaltyMs = shortestMs;

  /** When the call starts, to be handed to {@link end}; undefined: make it on another thread. */
  begin(): number | undefined {
    const now = performance.now();
    return now < this.#asideUntil ? undefined : now;
  }

  end(start: number, bytes: number): void {
    const now = performance.now();
    if (now - start > slowMs + bytes / bytesPerMs) {
      this.#asideUntil = now + this.#penaltyMs;
      this.#penaltyMs = Math.min(this.#penaltyMs * 2, longestMs);
    } else if (now - this.#asideUntil > longestMs) {
      this.#penaltyMs = shortestMs;
    }
  }
}
