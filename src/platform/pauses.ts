import { eventsHandled } from './bytes.js';
import { clockMs } from './clock.js';

const turnMs = 50;

/** Lets signals and timers in now and then during work that may never wait by itself. */
export class Pauses {
  #last = clockMs();

  /** Call once in each round of a loop. */
  async take(): Promise<void> {
    if (clockMs() - this.#last < turnMs) return;
    await eventsHandled();
    this.#last = clockMs();
  }
}
