import { describe, expect, it } from 'vitest';
import { isPromise } from './maybe.js';
import { Mutex, run, wait, type Steps } from './steps.js';

describe('coroutines', () => {
  it('stay synchronous while nothing waits, and carry values and errors across what does', async () => {
    const add = function* (a: number | Promise<number>, b: number | Promise<number>): Steps<number> {
      try {
        return (yield* wait(a)) + (yield* wait(b));
      } catch (error) {
        return error instanceof Error ? -1 : -2;
      }
    };
    expect(run(add(1, 2))).toBe(3);
    const later = run(add(Promise.resolve(1), 2));
    expect(isPromise(later)).toBe(true);
    expect(await later).toBe(3);
    expect(await run(add(1, Promise.reject(new Error('no'))))).toBe(-1);
    const failing = function* (): Steps<void> {
      yield* wait(Promise.resolve());
      throw new Error('afterwards');
    };
    await expect(run(failing())).rejects.toThrow('afterwards');
  });
});

describe('Mutex', () => {
  it('runs one after the other, at once when free', async () => {
    const mutex = new Mutex();
    expect(mutex.run(() => 5)).toBe(5);
    const order: number[] = [];
    const slow = mutex.run(async () => {
      await new Promise((resolve) => setImmediate(resolve));
      order.push(1);
    });
    const failed = mutex.run(() => { order.push(2); throw new Error('in between'); });
    const last = mutex.run(() => { order.push(3); });
    await expect(failed).rejects.toThrow('in between');
    await Promise.all([slow, last]);
    expect(order).toEqual([1, 2, 3]);
    expect(mutex.locked).toBe(false);
  });

  it('tells the holder that it is done before the next one is', async () => {
    const mutex = new Mutex();
    const order: string[] = [];
    const note = (name: string) => (): void => { order.push(name); };
    const first = Promise.resolve(mutex.run(() => Promise.resolve())).then(note('first'));
    const second = Promise.resolve(mutex.run(() => undefined)).then(note('second'));
    await Promise.all([first, second]);
    expect(order).toEqual(['first', 'second']);
  });
});
