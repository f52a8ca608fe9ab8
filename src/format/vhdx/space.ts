/** Where in the file new blocks go: into room that was given up, else behind everything else. */

export interface NewRoom {
  readonly offset: number;
  /** Nothing was ever there: it lies behind the file's end. */
  readonly fresh: boolean;
}

/** More gaps than these are not remembered until the next open. */
const maxGaps = 65_536;

export class Space {
  /** Gaps by their length, and starts of those. */
  readonly #gaps = new Map<number, number[]>();
  #gapCount = 0;
  /** First byte behind all that is allocated; a multiple of 1 MiB. */
  end: number;

  constructor(end: number) {
    this.end = end;
  }

  /** Room for `count` units of `unit` bytes in a row. */
  take(unit: number, count: number): NewRoom {
    const gap = count === 1 ? this.#gaps.get(unit)?.pop() : undefined;
    if (gap !== undefined) {
      this.#gapCount--;
      return { offset: gap, fresh: false };
    }
    const offset = this.end;
    this.end += unit * count;
    return { offset, fresh: true };
  }

  /** Room that nothing refers to any more, not even what a replay of the log would bring back. */
  give(offset: number, unit: number, count = 1): void {
    const starts = this.#gaps.get(unit) ?? [];
    this.#gaps.set(unit, starts);
    for (let index = 0; index < count && this.#gapCount < maxGaps; index++, this.#gapCount++) starts.push(offset + index * unit);
  }

  /** The file ends there from now on. */
  cutAt(end: number): void {
    this.end = end;
    this.#gapCount = 0;
    for (const [unit, starts] of this.#gaps) {
      const left = starts.filter((offset) => offset < end);
      this.#gaps.set(unit, left);
      this.#gapCount += left.length;
    }
  }
}
