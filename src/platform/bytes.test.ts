import { stat } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { eventsHandled, firstDifference, isZero } from './bytes.js';

describe('isZero', () => {
  it('finds a single byte anywhere, at any length', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 200_000 }), fc.nat(), fc.nat(7), (length, place, start) => {
      const memory = new Uint8Array(length + start);
      const bytes = memory.subarray(start);
      expect(isZero(bytes)).toBe(true);
      bytes[place % length] = 1;
      expect(isZero(bytes)).toBe(false);
    }), { numRuns: 200 });
  });

  it('holds for nothing at all', () => expect(isZero(new Uint8Array(0))).toBe(true));
});

describe('firstDifference', () => {
  it('is the lowest index that differs', () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 3000 }), fc.array(fc.nat(), { maxLength: 4 }), (a, places) => {
      const b = a.slice();
      for (const place of places) b[place % b.length]! ^= 0x55;
      const expected = a.findIndex((byte, index) => byte !== b[index]);
      expect(firstDifference(a, b)).toBe(expected);
    }));
  });
});

describe('eventsHandled', () => {
  it.each(['now', 'amid the handling of another event'])('lets a signal through that comes %s', async (when) => {
    let heard = false;
    const hear = (): void => { heard = true; };
    process.on('SIGUSR2', hear);
    if (when !== 'now') await new Promise((resolve) => { stat('.', resolve); });
    process.kill(process.pid, 'SIGUSR2');
    await eventsHandled();
    expect(heard).toBe(true);
    process.off('SIGUSR2', hear);
  });
});
