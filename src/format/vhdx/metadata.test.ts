import { describe, expect, it } from 'vitest';
import { metadataSpan, parseMetadata, serialiseMetadata, type DiskParameters } from './metadata.js';
import { linkageKey, newLocator, parentPath, requireLinkage } from './parent.js';

const guid = 'b48d4f94-c3be-4f10-9f3b-3d6f2a1b0c0d';
const disk: DiskParameters = {
  blockSize: 2 << 20, fixed: false, size: 10 << 20, diskId: guid, logicalSectorSize: 4096, physicalSectorSize: 4096, parent: newLocator('up/base.vhdx', guid),
};
function region(parameters: DiskParameters): Uint8Array {
  const bytes = new Uint8Array(metadataSpan);
  bytes.set(serialiseMetadata(parameters));
  return bytes;
}

describe('metadata', () => {
  it('survives being written and read', () => {
    expect(parseMetadata(region(disk)).parameters).toEqual(disk);
    expect(parseMetadata(region({ ...disk, parent: undefined, fixed: true })).parameters).toMatchObject({ fixed: true, parent: undefined });
  });

  it.each([
    ['a block size that is no power of two', 65_536, 3 << 20, 'Invalid VHDX block size 3145728'],
    ['a sector size nobody uses', 65_536 + 32, 1024, 'Unsupported VHDX logical sector size 1024'],
    ['a required item nobody knows', 32, 0x12345678, 'requires unknown metadata item 12345678-'],
  ])('%s is refused by name', (_name, at, value, message) => {
    const bytes = region(disk);
    new DataView(bytes.buffer).setUint32(at, value, true);
    expect(() => parseMetadata(bytes)).toThrow(message);
  });
});

describe('parent locator', () => {
  it('leads from where the child lies, in the words of Windows', () => {
    expect(newLocator('up/base.vhdx', guid).get('relative_path')).toBe('.\\up\\base.vhdx');
    expect(parentPath(newLocator('up/base.vhdx', guid))).toBe('up/base.vhdx');
    expect(parentPath(newLocator('/disks/base.vhdx', guid))).toBe('/disks/base.vhdx');
    expect(parentPath(new Map([['relative_path', '..\\base.vhdx'], ['absolute_win32_path', 'C:\\disks\\base.vhdx']]))).toBe('../base.vhdx');
  });

  it('names files only, whatever their names look like', () => {
    for (const name of ['nbd:127.0.0.1:9', 'json:{}', 'a:b/y.vhdx', 'C:x']) {
      expect(parentPath(newLocator(name, guid))).toBe(`./${name}`);
      expect(parentPath(newLocator(`./${name}`, guid))).toBe(`./${name}`);
      expect(parentPath(newLocator(`up/${name}`, guid))).toBe(`up/${name}`);
    }
    expect(parentPath(newLocator('/a\\b', guid))).toBe('/a\\b');
    expect(() => newLocator('a\\b', guid)).toThrow('backslash');
  });

  it('names the content it was made of, or what took its place', () => {
    expect(() => requireLinkage(new Map([[linkageKey, `{${guid.toUpperCase()}}`]]), guid)).not.toThrow();
    expect(() => requireLinkage(new Map([[linkageKey, '{}'], ['parent_linkage2', `{${guid}}`]]), guid)).not.toThrow();
    expect(() => requireLinkage(new Map([[linkageKey, '{00000000-0000-0000-0000-000000000000}']]), guid)).toThrow('VHDX parent was changed');
  });
});
