import { describe, expect, it } from 'vitest';
import { addressableSectors, geometryOf, isLargest, roomyGeometry, sectorSize } from './geometry.js';

describe('VHD geometry', () => {
  // What QEMU 10.0.2 writes for disks of these sizes.
  it.each([
    [1, 1, 4, 17], [34_816, 1, 4, 17], [34_817, 2, 4, 17], [1 << 20, 31, 4, 17], [10 << 20, 302, 4, 17], [100 << 20, 1004, 12, 17],
    [2 ** 30, 2081, 16, 63], [8 * 2 ** 30, 16_645, 16, 63], [100 * 2 ** 30, 51_401, 16, 255], [127 * 2 ** 30, 65_279, 16, 255],
    [136_899_993_600, 65_535, 16, 255], [2040 * 2 ** 30, 65_535, 16, 255],
  ])('%i bytes: %i cylinders, %i heads, %i sectors', (size, cylinders, heads, sectorsPerTrack) => {
    expect(roomyGeometry(Math.ceil(size / sectorSize))).toEqual({ cylinders, heads, sectorsPerTrack });
  });

  it('never addresses more than there is, and a roomy one never less', () => {
    for (let sectors = 68; sectors < 300_000_000; sectors = Math.ceil(sectors * 1.37)) {
      expect(addressableSectors(geometryOf(sectors))).toBeLessThanOrEqual(sectors);
      const roomy = roomyGeometry(sectors);
      expect(isLargest(roomy) || addressableSectors(roomy) >= sectors, String(sectors)).toBe(true);
    }
  });
});
