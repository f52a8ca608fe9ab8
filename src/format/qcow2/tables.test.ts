import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ClusterKind, clusterKind, compressedHi, compressedLength, compressedOffset, entryOffset, hiOf, loOf, maxCompressedOffset, maxRefcount, parseBitmapDirectory, parseSnapshotEntry, readRefcount, readU64, serialiseBitmapDirectory, serialiseSnapshotTable, writeRefcount, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

describe('refcounts', () => {
  it('of every width live beside each other', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 6 }), fc.array(fc.nat(), { minLength: 1, maxLength: 40 }), (order, values) => {
      const block = new Uint8Array(512);
      const wanted = values.map((value) => (order === 6 ? value * 2 ** 20 : value % (maxRefcount(order) + 1)));
      wanted.forEach((value, index) => writeRefcount(block, index, order, maxRefcount(Math.min(order, 5))));
      wanted.forEach((value, index) => writeRefcount(block, index, order, value));
      expect(wanted.map((_, index) => readRefcount(block, index, order))).toEqual(wanted);
    }));
  });

  it('narrower than a byte start at the least significant bit, wider ones are big endian', () => {
    const block = new Uint8Array(16);
    writeRefcount(block, 1, 0, 1);
    writeRefcount(block, 5, 1, 2);
    writeRefcount(block, 5, 2, 7);
    writeRefcount(block, 3, 4, 0x1234);
    expect([...block.subarray(0, 8)]).toEqual([2, 8, 0x70, 0, 0, 0, 0x12, 0x34]);
  });
});

describe('L2 entries', () => {
  it('describe compressed data at any byte offset', () => {
    fc.assert(fc.property(fc.integer({ min: 9, max: 21 }), fc.nat(), fc.nat(), (clusterBits, seed, size) => {
      const offset = (seed * 4099) % Math.min(maxCompressedOffset(clusterBits), 2 ** 50);
      const length = 1 + (size % (2 ** clusterBits - 1));
      const hi = compressedHi(offset, length, clusterBits);
      expect(compressedOffset(hi, loOf(offset), clusterBits)).toBe(offset);
      const room = compressedLength(hi, loOf(offset), clusterBits);
      expect(room).toBeGreaterThanOrEqual(length);
      expect(room).toBeLessThan(length + 512);
      expect((offset + room) % 512).toBe(0);
      expect(clusterKind(hi, loOf(offset), false, false)).toBe(ClusterKind.COMPRESSED);
    }));
  });

  it('keep offsets up to bit 55', () => {
    const offset = 2 ** 56 - 512;
    expect(entryOffset(hiOf(offset) + 0xff00_0000, loOf(offset) + 511)).toBe(offset);
  });

  it('tell the kinds of clusters apart', () => {
    expect(clusterKind(0, 0, false, false)).toBe(ClusterKind.UNALLOCATED);
    expect(clusterKind(0, 1, false, false)).toBe(ClusterKind.ZERO_PLAIN);
    expect(clusterKind(0x8000_0000, 0x10001, false, false)).toBe(ClusterKind.ZERO_ALLOCATED);
    expect(clusterKind(0x8000_0000, 0x10000, false, false)).toBe(ClusterKind.NORMAL);
    expect(clusterKind(0x8000_0000, 0, false, true)).toBe(ClusterKind.NORMAL);
    expect(clusterKind(0x8000_0000, 0, false, false)).toBe(ClusterKind.UNALLOCATED);
    expect(clusterKind(0, 1, true, false)).toBe(ClusterKind.UNALLOCATED);
  });
});

it('64-bit numbers survive', () => {
  fc.assert(fc.property(fc.maxSafeNat(), (value) => {
    const view = viewOf(new Uint8Array(8));
    writeU64(view, 0, value);
    expect(readU64(view, 0)).toBe(value);
    expect(view.getBigUint64(0)).toBe(BigInt(value));
  }));
});

it('snapshot tables are read back, unknown extra data included', () => {
  const entries = [
    { l1Offset: 65536, l1Size: 3, id: '1', name: 'größe', dateSec: 5, dateNsec: 6, vmClockNs: 7n, vmStateSize: 8, diskSize: 9, icount: 10n, unknownExtra: Uint8Array.of(1, 2, 3), extraSize: 27 },
    { l1Offset: 2 ** 40, l1Size: 1, id: '22', name: '', dateSec: 0, dateNsec: 0, vmClockNs: 0n, vmStateSize: 2 ** 33, diskSize: 512, icount: undefined, unknownExtra: new Uint8Array(), extraSize: 24 },
  ];
  const bytes = serialiseSnapshotTable(entries, 0);
  const first = parseSnapshotEntry(bytes, 0);
  expect(first?.entry).toEqual(entries[0]);
  expect(parseSnapshotEntry(bytes, first!.next)?.entry).toEqual(entries[1]);
  expect(parseSnapshotEntry(bytes.subarray(0, bytes.length - 1), first!.next)).toBeUndefined();
});

it('bitmap directories are read back and broken ones refused', () => {
  const entries = [
    { tableOffset: 65536, tableSize: 1, flags: 2, granularityBits: 16, name: 'b' },
    { tableOffset: 131072, tableSize: 4, flags: 1, granularityBits: 9, name: 'länger' },
  ];
  const bytes = serialiseBitmapDirectory(entries);
  expect(parseBitmapDirectory(bytes, 2)).toEqual(entries);
  expect(() => parseBitmapDirectory(bytes, 1)).toThrow('More bitmaps found');
  expect(() => parseBitmapDirectory(bytes, 3)).toThrow('Less bitmaps found');
  expect(() => parseBitmapDirectory(bytes.subarray(0, bytes.length - 8), 2)).toThrow('Broken bitmap directory');
});
