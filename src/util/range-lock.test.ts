import { describe, expect, it } from 'vitest';
import { isPromise } from './maybe.js';
import { RangeLock, type RangeHold } from './range-lock.js';

/** Acquires and says at once whether it had to wait. */
function take(lock: RangeLock, start: number, end: number, mode: 'shared' | 'exclusive' = 'exclusive'): { waits: boolean; hold: Promise<RangeHold> } {
  const hold = lock.acquire(start, end, mode);
  return { waits: isPromise(hold), hold: Promise.resolve(hold) };
}

describe('RangeLock', () => {
  it('grants what does not conflict at once', () => {
    const lock = new RangeLock();
    expect(take(lock, 0, 10, 'shared').waits).toBe(false);
    expect(take(lock, 5, 15, 'shared').waits).toBe(false);
    expect(take(lock, 15, 20).waits).toBe(false);
    expect(take(lock, 19, 30, 'shared').waits).toBe(true);
  });

  it('lets nobody overtake a waiter it conflicts with, so that no one starves', async () => {
    const lock = new RangeLock();
    const first = take(lock, 0, 10);
    const second = take(lock, 5, 20);
    const third = take(lock, 15, 30);
    expect([first.waits, second.waits, third.waits]).toEqual([false, true, true]);
    const order: string[] = [];
    void second.hold.then((hold) => { order.push('second'); lock.release(hold); });
    void third.hold.then((hold) => { order.push('third'); lock.release(hold); });
    lock.release(await first.hold);
    await third.hold;
    await Promise.resolve();
    expect(order).toEqual(['second', 'third']);
    expect(lock.idle).toBe(true);
  });

  it('lets waiters be overtaken when unfair: only holders are waited for', async () => {
    const lock = new RangeLock({ fair: false });
    const first = take(lock, 0, 10);
    const second = take(lock, 5, 20);
    const third = take(lock, 15, 30);
    expect([first.waits, second.waits, third.waits]).toEqual([false, true, false]);
    lock.release(await first.hold);
    expect(lock.isFree(5, 10, 'exclusive')).toBe(true);
    lock.release(await third.hold);
    lock.release(await second.hold);
    expect(lock.idle).toBe(true);
  });

  it('tells the holder that it is done before the next one is', async () => {
    const lock = new RangeLock();
    const order: string[] = [];
    const note = (name: string) => (): void => { order.push(name); };
    const first = Promise.resolve(lock.withLock(0, 1, 'exclusive', () => Promise.resolve())).then(note('first'));
    const second = Promise.resolve(lock.withLock(0, 1, 'exclusive', () => undefined)).then(note('second'));
    await Promise.all([first, second]);
    expect(order).toEqual(['first', 'second']);
  });

  it('releases when the request fails, now or later', async () => {
    const lock = new RangeLock();
    expect(() => lock.withLock(0, 1, 'exclusive', () => { throw new Error('now'); })).toThrow('now');
    await expect(lock.withLock(0, 1, 'exclusive', () => Promise.reject(new Error('later')))).rejects.toThrow('later');
    expect(lock.idle).toBe(true);
  });
});
