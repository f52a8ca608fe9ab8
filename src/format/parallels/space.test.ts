import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Space } from './space.js';

it('hands out what is free, the first hole first, and knows its end', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('take' as const), count: fc.integer({ min: 1, max: 40 }), after: fc.option(fc.nat(300), { nil: undefined }) }),
    fc.record({ kind: fc.constant('free' as const), first: fc.nat(300), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ kind: fc.constant('use' as const), first: fc.nat(300), count: fc.integer({ min: 1, max: 10 }) }),
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
    const space = new Space();
    const used = new Set<number>();
    for (const change of steps) {
      if (change.kind === 'take') {
        const { first, count } = space.take(change.count, change.after);
        const end = Math.max(-1, ...used) + 1;
        const hole = Array.from({ length: end + 1 }, (_, cluster) => cluster).find((cluster) => !used.has(cluster))!;
        expect(first).toBe(change.after !== undefined && !used.has(change.after) ? change.after : hole);
        for (let cluster = first; cluster < first + count; cluster++) expect(used.has(cluster)).toBe(false);
        if (count < change.count) expect(used.has(first + count)).toBe(true);
        for (let cluster = first; cluster < first + count; cluster++) used.add(cluster);
      } else {
        space[change.kind](change);
        for (let cluster = change.first; cluster < change.first + change.count; cluster++) {
          if (change.kind === 'free') used.delete(cluster);
          else used.add(cluster);
        }
      }
      expect(space.end).toBe(Math.max(-1, ...used) + 1);
      for (let cluster = 0; cluster < 350; cluster++) expect(space.isUsed(cluster)).toBe(used.has(cluster));
    }
  }), { numRuns: 60 });
});
