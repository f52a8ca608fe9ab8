import { eventsHandled } from './bytes.js';

const turnMs = 50;

/** Lets signals and timers in now and then during work that may never wait by itself. */
export class Pauses {
  #last = performance.now();

  /** Call once in each round of a loop. */
  async take(): Promise<void> {
    if (performance.now() - this.#last < turnMs) return;
    await eventsHandled();
    this.#last = performance.now();
  }
}
