/** Keeps a copy below a number of bytes per second. */
import { clockMs } from '../platform/clock.js';

export class RatePacer {
  readonly #rate: number;
  readonly #start = clockMs();
  #bytes = 0;

  /** @param rate bytes per second; 0 is unlimited */
  constructor(rate: number) { this.#rate = rate; }

  /** Call behind each transfer; waits for as long as it came too early. */
  async spent(bytes: number): Promise<void> {
    if (this.#rate === 0) return;
    this.#bytes += bytes;
    const aheadMs = (this.#bytes / this.#rate) * 1000 - (clockMs() - this.#start);
    if (aheadMs > 1) await new Promise((resolve) => setTimeout(resolve, aheadMs));
  }
}
