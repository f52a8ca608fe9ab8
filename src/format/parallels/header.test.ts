import { describe, expect, it } from 'vitest';
import { dataStart, parseHeader, probeHeader, serialiseHeader } from './header.js';

/** The first 64 bytes of `qemu-img create -f parallels FILE 64M` (10.0.2). */
const foreign = Uint8Array.from(Buffer.from(
  '576974686f75467265537061634578740200000010000000000100000008000040000000000002000000000000000000000800000000000000000000000000000'.slice(0, 128), 'hex'));

describe('the header of a Parallels image', () => {
  it('is read and written as qemu-img does', () => {
    expect(probeHeader(foreign)).toBe(true);
    const header = parseHeader(foreign);
    expect(header).toMatchObject({ countsClusters: true, clusterSectors: 2048, tableEntries: 64, sectors: 131_072, cylinders: 256, heads: 16, dataOffset: 2048, inUse: 0 });
    expect(serialiseHeader(header)).toEqual(foreign);
    expect(dataStart(header, 1 << 20)).toEqual({ sector: 2048, stated: true });
  });

  it('of the older kind counts 32 bits of sectors, and may leave out where data begins', () => {
    const old = foreign.slice();
    old.set(new TextEncoder().encode('WithoutFreeSpace'));
    old.set([0xff, 0xff, 0xff, 0xff], 40);
    old.fill(0, 48, 52);
    const header = parseHeader(old);
    expect(header).toMatchObject({ countsClusters: false, sectors: 131_072 });
    expect(dataStart(header, 1 << 20)).toEqual({ sector: 1, stated: true });
  });

  it('that states an impossible beginning of data is known to be wrong', () => {
    for (const dataOffset of [0, 1, 2047, 4097, 0xffff_ffff]) {
      expect(dataStart({ ...parseHeader(foreign), dataOffset }, 8 << 20)).toEqual({ sector: 2048, stated: false });
    }
  });

  it.each([
    [16, 3, 'Image not in Parallels format'], [28, 0, 'Invalid image: Zero sectors per track'], [28, 0x40_0000, 'Invalid image: Too big cluster'],
    [32, 0x2000_0000, 'Catalog too large'], [40, 0x7fff_ffff, 'Could not refresh total sector count: File too large'], [60, 0x7fff_ffff, 'Invalid image: Too big offset'],
  ])('with word %i set to %i is refused: %s', (offset, word, message) => {
    const broken = foreign.slice();
    new DataView(broken.buffer).setUint32(offset, word, true);
    expect(() => parseHeader(broken)).toThrow(message);
  });
});
