/** Which parts of a file are taken, in units of 1 MiB. */
import { MiB } from './header.js';

/** Longer files are not accounted for. */
const maxUnits = 2 ** 28;

export class Occupancy {
  readonly #units: Uint8Array | undefined;

  constructor(fileSize: number) {
    const units = Math.ceil(fileSize / MiB);
    this.#units = units > maxUnits ? undefined : new Uint8Array(Math.ceil(units / 8));
  }

  /** Takes a range, which begins with a unit. Returns whether a part of it was taken before. */
  claim(offset: number, length: number): boolean {
    const units = this.#units;
    if (units === undefined) return false;
    let taken = false;
    const end = Math.min(Math.ceil((offset + length) / MiB), units.length * 8);
    for (let unit = Math.floor(offset / MiB); unit < end; unit++) {
      const bit = 1 << (unit & 7);
      taken ||= (units[unit >> 3]! & bit) !== 0;
      units[unit >> 3]! |= bit;
    }
    return taken;
  }

  /** Starts of ranges of `length` bytes within [start, end) that nobody took, the last first. */
  *gaps(start: number, end: number, length: number): Generator<number> {
    const units = this.#units;
    if (units === undefined) return;
    const needed = length / MiB;
    let free = 0;
    for (let unit = Math.floor(end / MiB) - 1; unit >= start / MiB; unit--) {
      free = (units[unit >> 3]! & (1 << (unit & 7))) === 0 ? free + 1 : 0;
      if (free < needed) continue;
      yield unit * MiB;
      free = 0;
    }
  }
}
