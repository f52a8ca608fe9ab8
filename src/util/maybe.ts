/**
 * "Then or now": values that may already be here.
 *
 * Every request returns `MaybePromise<T>`, so that one whose bytes are at hand completes synchronously through all
 * layers and allocates nothing. No `async` function belongs on the request path.
 */
export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}

/** Hands the value to `next` at once if it is here, else when it arrives. */
export function andThen<T, U>(value: MaybePromise<T>, next: (value: T) => MaybePromise<U>): MaybePromise<U> {
  return isPromise(value) ? value.then(next) : next(value);
}

/** Runs `start`, then `cleanup` exactly once, whether it returned, threw, resolved or rejected. */
export function always<T>(start: () => MaybePromise<T>, cleanup: () => void): MaybePromise<T> {
  let result: MaybePromise<T>;
  try {
    result = start();
  } catch (error) {
    cleanup();
    throw error;
  }
  if (isPromise(result)) return result.finally(cleanup);
  cleanup();
  return result;
}

/**
 * Calls `step` until it returns false, staying synchronous for as long as the steps are.
 * `step` returns (a promise of) whether to go on.
 */
export function loop(step: () => MaybePromise<boolean>): MaybePromise<void> {
  for (;;) {
    const more = step();
    if (isPromise(more)) return more.then((go) => (go ? loop(step) : undefined));
    if (!more) return undefined;
  }
}

/**
 * Sends all requests, up to one that fails at once, before any is waited for. Fails with the first failure when all have ended: what
 * they read into or write from is in use until then.
 * @param requests sent as they are asked for
 */
export function together(requests: Iterable<MaybePromise<void>>): MaybePromise<void> {
  const waiting: Promise<void>[] = [];
  try {
    for (const request of requests) if (isPromise(request)) waiting.push(request);
  } catch (error) {
    if (waiting.length === 0) throw error;
    waiting.push(Promise.reject(error));
  }
  if (waiting.length === 0) return undefined;
  return Promise.allSettled(waiting).then((results) => {
    for (const result of results) if (result.status === 'rejected') throw result.reason as Error;
  });
}
