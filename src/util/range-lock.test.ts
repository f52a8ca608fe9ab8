import { describe, expect, it } from 'vitest';
import { isPromise } from './maybe.js';
import { RangeLock } from './range-lock.js';

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('RangeLock', () => {
  it('grants at once what nothing stands in the way of', () => {
    const lock = new RangeLock();
    expect(isPromise(lock.acquire(0, 10, 'shared'))).toBe(false);
    expect(isPromise(lock.acquire(5, 15, 'shared'))).toBe(false);
    expect(isPromise(lock.acquire(15, 20, 'exclusive'))).toBe(false);
    expect(lock.isFree(9, 16, 'shared')).toBe(false);
    expect(lock.isFree(0, 15, 'shared')).toBe(true);
    expect(lock.isFree(0, 1, 'exclusive')).toBe(false);
  });

  it('lets conflicting holders through in order of arrival, and nobody past a waiter', async () => {
    const lock = new RangeLock();
    const order: string[] = [];
    let end!: () => void;
    const first = lock.withLock(0, 10, 'shared', () => new Promise<void>((resolve) => { end = resolve; }));
    const second = lock.withLock(0, 10, 'exclusive', async () => { order.push('second'); await settle(); });
    const third = lock.withLock(0, 10, 'shared', () => { order.push('third'); });
    const beside = lock.withLock(10, 20, 'exclusive', () => { order.push('beside'); });
    expect(isPromise(beside)).toBe(false);
    await settle();
    expect(order).toEqual(['beside']);
    end();
    await Promise.all([first, second, third]);
    expect(order).toEqual(['beside', 'second', 'third']);
    expect(lock.idle).toBe(true);
  });

  it('is released by failures, thrown or rejected', async () => {
    const lock = new RangeLock();
    expect(() => lock.withLock(0, 1, 'exclusive', () => { throw new Error('now'); })).toThrow('now');
    await expect(lock.withLock(0, 1, 'exclusive', () => Promise.reject(new Error('later')))).rejects.toThrow('later');
    expect(lock.idle).toBe(true);
  });
});
