/**
 * Coroutines that stay synchronous while they can: for long operations that may wait in many places, written as straight code.
 *
 * ```ts
 * function* copy(from: Disk, to: Disk): Steps<void> {
 *   const bytes = yield* wait(from.read());   // goes straight on if the bytes are at hand
 *   yield* wait(to.write(bytes));
 * }
 * const done: MaybePromise<void> = run(copy(a, b));
 * ```
 */
import { isPromise, type MaybePromise } from './maybe.js';

export type Steps<T> = Generator<Promise<unknown>, T, unknown>;

/** The value, waited for only if it is a promise. */
export function wait<T>(value: MaybePromise<T>): Steps<T> {
  return isPromise(value) ? suspended(value) : new Ready(value) as unknown as Steps<T>;
}

function* suspended<T>(promise: Promise<T>): Steps<T> {
  return (yield promise) as T;
}

/** Steps that are done when they begin, as nearly all waiting is; its own result, for it costs less than a generator. */
class Ready<T> implements IteratorReturnResult<T> {
  readonly done = true;
  readonly value: T;

  constructor(value: T) {
    this.value = value;
  }

  [Symbol.iterator](): this {
    return this;
  }

  next(): this {
    return this;
  }
}

/** Runs the steps to their end; synchronously up to the first promise. */
export function run<T>(steps: Steps<T>): MaybePromise<T> {
  const state = steps.next();
  return state.done === true ? state.value : resume(steps, state.value);
}

async function resume<T>(steps: Steps<T>, first: Promise<unknown>): Promise<T> {
  let pending = first;
  for (;;) {
    let value: unknown;
    let state: IteratorResult<Promise<unknown>, T>;
    try {
      value = await pending;
    } catch (error) {
      state = steps.throw(error);
      if (state.done === true) return state.value;
      pending = state.value;
      continue;
    }
    state = steps.next(value);
    if (state.done === true) return state.value;
    pending = state.value;
  }
}

/** Lets one through at a time, in order of arrival. Not reentrant. */
export class Mutex {
  #locked = false;
  readonly #waiting: (() => void)[] = [];

  get locked(): boolean {
    return this.#locked;
  }

  /** Runs `request` alone, at once where nobody holds the mutex. */
  run<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    if (this.#locked) return new Promise<void>((grant) => this.#waiting.push(grant)).then(() => this.#enter(request));
    this.#locked = true;
    return this.#enter(request);
  }

  #enter<T>(request: () => MaybePromise<T>): MaybePromise<T> {
    let result: MaybePromise<T>;
    try {
      result = request();
    } catch (error) {
      this.#leave();
      throw error;
    }
    // not finally(), which would tell the caller later than those who wait for their turn
    if (isPromise(result)) {
      return result.then((value) => {
        this.#leave();
        return value;
      }, (error: unknown) => {
        this.#leave();
        throw error;
      });
    }
    this.#leave();
    return result;
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#locked = false;
    else next();
  }
}
