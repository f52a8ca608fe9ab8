import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DirtyBitmap } from './dirty-bitmap.js';

const granularity = 512;

describe('DirtyBitmap', () => {
  it('agrees with an array of booleans', () => {
    const size = 512 * 70_000 + 100;
    const op = fc.record({
      value: fc.boolean(), offset: fc.integer({ min: 0, max: size - 1 }),
      length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: size })),
    });
    fc.assert(fc.property(fc.array(op, { maxLength: 12 }), (ops) => {
      const bitmap = new DirtyBitmap({ granularity, size });
      const model = new Uint8Array(bitmap.bits);
      for (const { value, offset, length } of ops) {
        const end = Math.min(size, offset + length);
        if (value) bitmap.set(offset, end - offset);
        else bitmap.clear(offset, end - offset);
        model.fill(value ? 1 : 0, Math.floor(offset / granularity), Math.ceil(end / granularity));
      }
      expect(bitmap.dirtyBits).toBe(model.reduce((sum, bit) => sum + bit, 0));
      const seen = new Uint8Array(model.length);
      let last = -1;
      for (const range of bitmap.ranges()) {
        expect(range.offset).toBeGreaterThan(last);
        last = range.offset + range.length;
        seen.fill(1, range.offset / granularity, Math.ceil(last / granularity));
      }
      expect(Buffer.from(seen).equals(Buffer.from(model))).toBe(true);
      expect(bitmap.nextClean(0)).toBe(model.indexOf(0) < 0 ? undefined : model.indexOf(0) * granularity);

      const copy = new DirtyBitmap({ granularity, size });
      for (let at = 0; at < bitmap.storedBytes; at += 1000) {
        const piece = bitmap.serialise(at, 1000);
        if (piece !== 'zeroes') copy.deserialise(at, piece, 1000);
      }
      expect([...copy.ranges()]).toEqual([...bitmap.ranges()]);
      expect(copy.dirtyBits).toBe(bitmap.dirtyBits);
    }), { numRuns: 60 });
  });

  it('clips stretches to what was asked', () => {
    const bitmap = new DirtyBitmap({ granularity: 65536, size: 1e6 });
    bitmap.set(70_000, 1);
    expect(bitmap.nextDirty(0)).toEqual({ offset: 65536, length: 65536 });
    expect(bitmap.nextDirty(100_000, 100_010)).toEqual({ offset: 100_000, length: 10 });
    expect(bitmap.nextDirty(0, undefined, 1000)).toEqual({ offset: 65536, length: 1000 });
    expect(bitmap.nextDirty(131072)).toBeUndefined();
    bitmap.set(999_999, 1);
    expect(bitmap.nextDirty(131072)).toEqual({ offset: 983040, length: 1e6 - 983040 });
  });

  it('merges across granularities and keeps what a failed job took', () => {
    const fine = new DirtyBitmap({ granularity: 512, size: 1 << 20 });
    const coarse = new DirtyBitmap({ granularity: 65536, size: 1 << 20 });
    fine.set(1000, 1);
    coarse.merge(fine);
    expect([...coarse.ranges()]).toEqual([{ offset: 0, length: 65536 }]);
    const taken = coarse.take();
    coarse.set(131072, 1);
    expect(coarse.count).toBe(65536);
    coarse.merge(taken);
    expect(coarse.count).toBe(131072);
    expect(() => coarse.merge(new DirtyBitmap({ granularity: 512, size: 512 }))).toThrow('different sizes');
  });

  it('costs little where it is uniform', () => {
    const bitmap = new DirtyBitmap({ granularity: 65536, size: 2 ** 50 });
    bitmap.set(0, 2 ** 50);
    expect(bitmap.count).toBe(2 ** 50);
    expect(bitmap.nextClean(0)).toBeUndefined();
    expect(bitmap.serialise(0, 65536)).toBe('ones');
    bitmap.clear(2 ** 49, 65536);
    expect(bitmap.nextClean(0)).toBe(2 ** 49);
  });

  it('shrinks and grows without ghosts', () => {
    const bitmap = new DirtyBitmap({ granularity: 512, size: 4096 });
    bitmap.set(0, 4096);
    bitmap.resize(1024);
    bitmap.resize(4096);
    expect([...bitmap.ranges()]).toEqual([{ offset: 0, length: 1024 }]);
  });

  it('says why it cannot be used', () => {
    const bitmap = new DirtyBitmap({ name: 'b', granularity: 512, size: 4096 });
    bitmap.users = 1;
    expect(() => bitmap.assertUsable({})).toThrow("Bitmap 'b' is currently in use by another operation and cannot be used");
    bitmap.users = 0;
    bitmap.readOnly = true;
    expect(() => bitmap.assertUsable({ modify: true })).toThrow("Bitmap 'b' is readonly and cannot be modified");
    bitmap.assertUsable({});
    bitmap.inconsistent = true;
    expect(() => bitmap.assertUsable({})).toThrow("Bitmap 'b' is inconsistent and cannot be used");
    bitmap.assertUsable({ inconsistent: true });
  });
});
