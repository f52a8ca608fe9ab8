import { describe, expect, it } from 'vitest';
import { Lru } from './lru.js';

describe('Lru', () => {
  it('gives up what was not used since the hand last passed, oldest first', () => {
    const lru = new Lru<string, number>();
    for (const [at, key] of ['a', 'b', 'c', 'd'].entries()) lru.set(key, at);
    lru.get('a');
    expect(lru.coldest()).toEqual(['b', 1]);
    expect(lru.coldest((value) => value > 2)).toEqual(['d', 3]);
    expect(lru.coldest((value) => value > 9)).toBeUndefined();
    lru.delete('b');
    lru.get('c');
    lru.get('d');
    lru.get('a');
    expect(lru.coldest()).toBeDefined();
    expect(lru.size).toBe(3);
  });

  it('tells what was not used between two questions', () => {
    const lru = new Lru<string, number>();
    lru.set('a', 1);
    lru.set('b', 2);
    lru.get('b');
    expect(lru.unused()).toEqual([1]);
    expect(lru.unused()).toEqual([1, 2]);
  });
});
