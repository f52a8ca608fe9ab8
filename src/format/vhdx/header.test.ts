import { describe, expect, it } from 'vitest';
import { readGuid, writeGuid } from './guid.js';
import { currentCopy, headerSize, parseHeader, parseRegionTable, serialiseHeader, serialiseRegionTable, type VhdxHeader } from './header.js';
import { geometryOf, bitmapIndex, entryCount, payloadIndex } from './tables.js';

const header: VhdxHeader = {
  sequence: 7n, fileWriteGuid: 'b48d4f94-c3be-4f10-9f3b-3d6f2a1b0c0d', dataWriteGuid: '095c7d91-e470-1e44-a084-2bd486e65428',
  logGuid: '00000000-0000-0000-0000-000000000000', logVersion: 0, logLength: 1 << 20, logOffset: 1 << 20,
};

describe('header', () => {
  it('survives being written and read', () => {
    expect(parseHeader(serialiseHeader(header))).toEqual(header);
  });

  it('is not valid with a changed bit, nor in another version', () => {
    const bytes = serialiseHeader(header);
    bytes[3000] = 1;
    expect(parseHeader(bytes)).toBeUndefined();
    expect(parseHeader(new Uint8Array(headerSize))).toBeUndefined();
  });

  it('holds with the greater number; equal ones must be the same', () => {
    const older = serialiseHeader(header);
    const newer = serialiseHeader({ ...header, sequence: 8n });
    const torn = newer.slice().fill(0, 40, 48);
    expect(currentCopy([older, newer])?.copy).toBe(1);
    expect(currentCopy([newer, older])?.copy).toBe(0);
    expect(currentCopy([older, torn])?.copy).toBe(0);
    expect(currentCopy([older, older])?.copy).toBe(0);
    expect(currentCopy([older, serialiseHeader({ ...header, logLength: 2 << 20 })])).toBeUndefined();
    expect(currentCopy([torn, torn])).toBeUndefined();
  });
});

it('GUIDs are stored as Microsoft does', () => {
  const bytes = new Uint8Array(16);
  writeGuid(bytes, 0, '2dc27766-f623-4200-9d64-115e9bfd4a08');
  expect([...bytes.subarray(0, 10)]).toEqual([0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64]);
  expect(readGuid(bytes, 0)).toBe('2dc27766-f623-4200-9d64-115e9bfd4a08');
});

it('region tables survive being written and read, and are refused damaged', () => {
  const regions = [{ guid: header.fileWriteGuid, offset: 2 ** 40, length: 1 << 20, required: true }, { guid: header.dataWriteGuid, offset: 3 << 20, length: 5 << 20, required: false }];
  const bytes = serialiseRegionTable(regions);
  expect(parseRegionTable(bytes)).toEqual(regions);
  bytes[20]! ^= 1;
  expect(parseRegionTable(bytes)).toBeUndefined();
});

describe('table', () => {
  const geometry = geometryOf({ blockSize: 32 << 20, logicalSectorSize: 512 });

  it('has an entry for the bitmap behind those of each chunk', () => {
    expect(geometry.chunkRatio).toBe(128);
    expect([0, 127, 128, 256].map((block) => payloadIndex(geometry, block))).toEqual([0, 127, 129, 258]);
    expect([0, 127, 128].map((block) => bitmapIndex(geometry, block))).toEqual([128, 128, 257]);
  });

  it('is complete with a parent, and ends with the last block without one', () => {
    const size = 129 * (32 << 20);
    expect(entryCount(geometry, size, false)).toBe(130);
    expect(entryCount(geometry, size, true)).toBe(258);
    expect(entryCount(geometry, 0, true)).toBe(0);
  });
});
