/** A queue whose members do other work until it is their turn. */
export class Turns {
  #last: Promise<void> | undefined;

  /** `mine` comes when all that were taken before are done; undefined: it has come. */
  take(): { readonly mine: Promise<void> | undefined; readonly done: () => void } {
    const mine = this.#last;
    let done!: () => void;
    const finished = new Promise<void>((resolve) => { done = resolve; });
    const last = (mine === undefined ? finished : mine.then(() => finished)).then(() => {
      if (this.#last === last) this.#last = undefined;
    });
    this.#last = last;
    return { mine, done };
  }
}
