import { describe, expect, it } from 'vitest';
import { run } from '../util/steps.js';
import { TableCache, type CachedTable } from './table-cache.js';

/** A cache of tables of 4 bytes over a disk of 100 tables, number n filled with n. */
function cacheOf(capacity: number): { cache: TableCache; disk: Uint8Array; loaded: Uint8Array[] } {
  const disk = Uint8Array.from({ length: 400 }, (_, at) => Math.floor(at / 4));
  const loaded: Uint8Array[] = [];
  const cache = new TableCache(4, capacity, {
    load(offset, target) {
      loaded.push(target);
      target.set(disk.subarray(offset, offset + 4));
    },
    store: ({ offset, bytes }) => disk.set(bytes, offset),
  });
  return { cache, disk, loaded };
}
const load = (cache: TableCache, index: number): CachedTable => run(cache.load(index * 4)) as CachedTable;

describe('TableCache', () => {
  it('leaves the memory of a table alone while somebody may hold it', () => {
    const { cache, disk } = cacheOf(2);
    cache.reuse();
    const held = load(cache, 1);
    for (let index = 2; index < 50; index++) load(cache, index);
    expect([...held.bytes]).toEqual([1, 1, 1, 1]);
    held.bytes.fill(77);
    cache.dirty(held);
    cache.reuse();
    for (let index = 50; index < 99; index++) expect(load(cache, index).bytes[0]).toBe(index);
    expect(cache.get(4)).toBe(held);
    expect([...held.bytes]).toEqual([77, 77, 77, 77]);
    void run(cache.writeBack());
    expect([...disk.subarray(4, 8)]).toEqual([77, 77, 77, 77]);
  });

  it('uses memory again, where its owner says when', () => {
    for (const reuses of [false, true]) {
      const { cache, loaded } = cacheOf(2);
      for (let index = 0; index < 99; index++) {
        if (reuses) cache.reuse();
        expect([...load(cache, index).bytes]).toEqual([index, index, index, index]);
      }
      expect(new Set(loaded).size).toBe(reuses ? 3 : 99);
    }
  });
});
