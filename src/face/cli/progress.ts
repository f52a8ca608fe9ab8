/** The peers' progress line, `    (12.34/100%)\r`, and a machine-readable one for `--progress json`. */
import { formatHundredths } from '../../util/units.js';
import { err, flushOut, out } from './output.js';

export type ProgressStyle = 'none' | 'line' | 'json';

/** Chosen once by the multi-call program (`--progress json`); overrides -p. */
const settings = { json: false };
export function useJsonProgress(): void { settings.json = true; }

/**
 * Shows how far a command is. Prints when the percentage has moved by more than `minimumStep`; on SIGUSR1 prints the current
 * value whatever the style.
 */
export class Progress {
  readonly #style: ProgressStyle;
  readonly #minimumStep: number;
  readonly #show: (text: string) => void;
  #percent = 0;
  #printed = 0;
  readonly #onSignal = () => err(`    (${formatHundredths(this.#percent)}/100%)\n`);

  /** @param onError the line goes to standard error, since standard output carries the image */
  constructor(enabled: boolean, minimumStep = 1, onError = false) {
    this.#show = onError ? err : (text) => { out(text); flushOut(); };
    this.#style = settings.json ? 'json' : enabled ? 'line' : 'none';
    this.#minimumStep = minimumStep;
    if (process.platform !== 'win32') process.on('SIGUSR1', this.#onSignal);
  }

  /** Not only on SIGUSR1. */
  get shown(): boolean {
    return this.#style !== 'none';
  }

  /** `done` of `total`, any unit. Start and end always show; between them a step either way must be large enough. */
  report(done: number, total: number): void {
    this.#percent = total === 0 ? 100 : Math.min(100, Math.fround((done / total) * 100));
    const shows = this.#percent === 0 || this.#percent === 100 || Math.abs(this.#percent - this.#printed) > this.#minimumStep;
    if (this.#style === 'none' || !shows) return;
    this.#printed = this.#percent;
    this.#print();
  }

  /** Call when the work is done, whether it succeeded or not. */
  end(): void {
    process.off('SIGUSR1', this.#onSignal);
    if (this.#style !== 'line') return;
    this.#show('\n');
  }

  #print(): void {
    if (this.#style === 'json') err(`${JSON.stringify({ progress: Number(this.#percent.toFixed(2)) })}\n`);
    else this.#show(`    (${formatHundredths(this.#percent)}/100%)\r`);
  }
}
