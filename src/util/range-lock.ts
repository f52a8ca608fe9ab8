/** Shared and exclusive locks over byte ranges. */
import { isPromise, type MaybePromise } from './maybe.js';

export type LockMode = 'shared' | 'exclusive';

/** A lock held or waited for. Opaque to callers. */
export interface RangeHold {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
}

interface Waiter {
  readonly hold: RangeHold;
  readonly grant: (hold: RangeHold) => void;
}

/**
 * Two holds conflict when their ranges overlap and one is exclusive. A fair lock also waits for earlier waiters it conflicts with,
 * so nobody starves; an unfair one overtakes them, so that only who really holds a range is waited for. Not reentrant.
 */
export class RangeLock {
  readonly #fair: boolean;
  readonly #held: RangeHold[] = [];
  readonly #waiting: Waiter[] = [];

  constructor({ fair = true }: { readonly fair?: boolean } = {}) {
    this.#fair = fair;
  }

  /** Nothing is held or waited for. */
  get idle(): boolean {
    return this.#held.length === 0 && this.#waiting.length === 0;
  }

  /** Whether a lock on [start, end) would be granted at once. */
  isFree(start: number, end: number, mode: LockMode): boolean {
    return this.idle || !this.#blocked({ start, end, exclusive: mode === 'exclusive' }, this.#waiting.length);
  }

  /** Locks [start, end). Hand the result to {@link release}. */
  acquire(start: number, end: number, mode: LockMode): MaybePromise<RangeHold> {
    const hold = { start, end, exclusive: mode === 'exclusive' };
    if (this.idle || !this.#blocked(hold, this.#waiting.length)) {
      this.#held.push(hold);
      return hold;
    }
    return new Promise((grant) => this.#waiting.push({ hold, grant }));
  }

  release(hold: RangeHold): void {
    const index = this.#held.lastIndexOf(hold);
    if (index < 0) throw new Error('a range lock was released twice');
    this.#held.splice(index, 1);
    for (let at = 0; at < this.#waiting.length;) {
      const waiter = this.#waiting[at]!;
      // what this hold was not in the way of still waits for others
      if (!conflict(hold, waiter.hold) || this.#blocked(waiter.hold, at)) {
        at++;
      } else {
        this.#waiting.splice(at, 1);
        this.#held.push(waiter.hold);
        waiter.grant(waiter.hold);
      }
    }
  }

  /** Runs `request` under a lock on [start, end), at once where nothing is in the way. */
  withLock<T>(start: number, end: number, mode: LockMode, request: () => MaybePromise<T>): MaybePromise<T> {
    const hold = this.acquire(start, end, mode);
    return isPromise(hold) ? hold.then((granted) => this.#run(granted, request)) : this.#run(hold, request);
  }

  #run<T>(hold: RangeHold, request: () => MaybePromise<T>): MaybePromise<T> {
    let result: MaybePromise<T>;
    try {
      result = request();
    } catch (error) {
      this.release(hold);
      throw error;
    }
    // not finally(), which would tell the caller later than those who wait for the range
    if (isPromise(result)) {
      return result.then((value) => {
        this.release(hold);
        return value;
      }, (error: unknown) => {
        this.release(hold);
        throw error;
      });
    }
    this.release(hold);
    return result;
  }

  /** Whether a hold or one of the first `waiters` waiters is in the way. */
  #blocked(wanted: RangeHold, waiters: number): boolean {
    for (const hold of this.#held) if (conflict(hold, wanted)) return true;
    if (!this.#fair) return false;
    for (let at = 0; at < waiters; at++) if (conflict(this.#waiting[at]!.hold, wanted)) return true;
    return false;
  }
}

function conflict(a: RangeHold, b: RangeHold): boolean {
  return (a.exclusive || b.exclusive) && a.start < b.end && b.start < a.end;
}
