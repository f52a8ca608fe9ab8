import { describe, expect, it } from 'vitest';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { Recording, recorderDriver } from '../../testing/recorder.js';
import { run } from '../../util/steps.js';
import { formatCid, formatDescriptor, maxDescriptor, newCid, parseDescriptor, probeDescriptor, withCid } from './descriptor.js';
import { encodeSparseHeader, Flag, parseFooter, parseSparseHeader, sectorSize, sparseLayout, streamHeader } from './header.js';
import { vmdk } from './index.js';
import { withMarker } from './packer.js';
import { StreamWriter } from './stream.js';

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (createType: string, ...extents: string[]): string =>
  ['# Disk DescriptorFile', 'version=1', 'CID=0000abcd', 'parentCID=ffffffff', `createType="${createType}"`, ...extents].join('\n');

describe('descriptor', () => {
  it('is read as VMware’s products write it', () => {
    const parsed = parseDescriptor([
      '# Disk DescriptorFile', 'version=4', 'encoding="UTF-8"', 'cid = FffE0001', 'ParentCID=123', 'isNativeSnapshot="no"', 'createType = "2GbMaxExtentSparse"',
      'parentFileNameHint="../base disk.vmdk"', '# Extent description', 'RW 8323072 SPARSE "Größe 1-s001.vmdk"', 'rw 100 flat "a b.vmdk" 7', 'RW 12 ZERO ',
      '#DDB', 'ddb.adapterType = "lsilogic"', 'ddb.note-1="a |22b|22"', '',
    ].join('\r\n'), 'disk.vmdk', false);
    expect(parsed).toEqual({
      cid: 0xfffe_0001, parentCid: 0x123, createType: '2GbMaxExtentSparse', parentHint: '../base disk.vmdk',
      extents: [
        { access: 'RW', sectors: 8_323_072, type: 'SPARSE', filename: 'Größe 1-s001.vmdk', offset: 0 },
        { access: 'RW', sectors: 100, type: 'FLAT', filename: 'a b.vmdk', offset: 7 },
        { access: 'RW', sectors: 12, type: 'ZERO', filename: undefined, offset: 0 },
      ],
      database: new Map([['adapterType', 'lsilogic'], ['note-1', 'a "b"']]),
    });
  });

  it.each(['fullDevice', 'partitionedDevice', 'custom', 'vmfsRDM', 'vmfsRDMP', 'vmfsRaw', 'vmfsRawDeviceMap', 'vmfsPassthroughRawDeviceMap', 'neverHeardOf'])(
    'of %s is refused by name', (type) => {
      expect(() => parseDescriptor(text(type), 'disk.vmdk', false)).toThrow(`Unsupported image type '${type}'`);
    });

  it.each([
    'RW 12582912 VMFS "dummy.vmdk" 1', 'RW 1 FLAT "x"', 'RW 1 FLAT "x" -1', 'RW 1 FLAT "" 0', 'RW -1 SPARSE "x"', 'RW 1 BLAH "x"', 'RW 1 SPARSE', 'RW 1 ZERO "x"',
    'RW 99999999999999999 SPARSE "x"',
  ])('with the extent %s is refused', (line) => {
    expect(() => parseDescriptor(text('vmfs', line), 'disk.vmdk', false)).toThrow(`Invalid extent line: ${line}`);
  });

  it('that names no extents is no disk', async () => {
    const recording = new Recording(bytesOf(text('twoGbMaxExtentSparse', 'R\u007f 8192 SPARSE "a-s001.vmdk"')));
    const graph = new BlockGraph({ drivers: new DriverRegistry([vmdk, recorderDriver(recording)]) });
    await expect(graph.openBackend({ driver: 'vmdk', file: { driver: 'recorder' } }, { readOnly: true })).rejects.toThrow('names no extents');
  });

  it('gets another CID without a change elsewhere', () => {
    const before = bytesOf('# CID=1\r\nparentCID=00000001\r\n CID = 12\r\nddb.uuid = "60 00 C2 9x"\r\n');
    const after = withCid(before, 0xabc);
    expect(new TextDecoder().decode(after)).toBe('# CID=1\r\nparentCID=00000001\r\n CID = 00000abc\r\nddb.uuid = "60 00 C2 9x"\r\n');
  });

  it('keeps bytes that are no UTF-8', () => {
    const before = Uint8Array.from([...bytesOf('CID=00000001\nRW 1 FLAT "'), 0xff, 0x80, 0xfe, ...bytesOf('" 0\n')]);
    const after = withCid(before, 2);
    expect([...after.subarray(12)]).toEqual([...before.subarray(12)]);
  });

  it('is written so that it is read again', () => {
    const fields = {
      cid: newCid(), parentCid: 5, createType: 'monolithicFlat', parentHint: 'b.vmdk', sectors: 10_485_760, hardwareVersion: '4', adapterType: 'ide', toolsVersion: '1',
      entries: new Map([['uuid', '60 00'], ['toolsVersion', '7']]),
      extents: [{ access: 'RW', sectors: 10_485_760, type: 'FLAT', filename: 'x-flat.vmdk', offset: 0 }],
    } as const;
    const written = formatDescriptor(fields);
    expect(written).toContain('ddb.geometry.cylinders = "10402"\n');
    expect(parseDescriptor(written, 'x', false)).toEqual({ cid: fields.cid, parentCid: 5, createType: 'monolithicFlat', parentHint: 'b.vmdk', extents: fields.extents, database: new Map([
      ['virtualHWVersion', '4'], ['geometry.cylinders', '10402'], ['geometry.heads', '16'], ['geometry.sectors', '63'], ['adapterType', 'ide'],
      ['toolsVersion', '7'], ['uuid', '60 00'],
    ]) });
    expect(probeDescriptor(bytesOf(written))).toBe(100);
    expect(formatCid(fields.cid)).toMatch(/^[0-9a-f]{8}$/);
  });

  it('is known by its version alone', () => {
    expect(probeDescriptor(bytesOf('#any comment\n\n \r\nversion=3\r\nCID=1'))).toBe(100);
    expect([' version=1\n', 'version=4\n', '# nothing\n', 'x\nversion=1\n'].map((head) => probeDescriptor(bytesOf(head)))).toEqual([0, 0, 0, 0]);
  });

  it('that is long and strange is read in time', () => {
    const started = performance.now();
    expect(() => parseDescriptor(`RW ${' '.repeat(maxDescriptor)}x`, 'x', false)).toThrow(BlockError);
    expect(() => parseDescriptor(`${'a'.repeat(1 << 19)} = ${' '.repeat(1 << 18)}x`, 'x', false)).toThrow(BlockError);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

describe('header', () => {
  // gdOffset and overHead of disks that qemu-img 10.0.2 made
  it.each([[1, 26, 128], [2048, 26, 128], [2_097_152, 150, 384], [65_011_712, 3997, 8064], [209_715_200, 12_846, 25_728], [137_438_953_472, 8_405_013, 16_810_112]])(
    'of %i sectors has everything where QEMU has it', (capacity, directory, overhead) => {
      expect(sparseLayout(capacity, { zeroedGrain: false })).toMatchObject({ capacity, directory, overhead, redundantDirectory: 21 });
    });

  it.each([sparseLayout(1 << 24, { zeroedGrain: true }), streamHeader(12_345, false)])('comes back from its bytes', (header) => {
    expect(parseSparseHeader(encodeSparseHeader(header))).toEqual(header);
  });

  it.each([
    [{ version: 4 }, 'Unsupported VMDK version 4'], [{ flags: Flag.NEWLINES | 0x40 }, 'Unsupported VMDK flags 0x40'], [{ grain: 0 }, 'L1 entry size is invalid'],
    [{ grain: 12 }, 'Invalid granularity'], [{ grain: 2 ** 30 }, 'Invalid granularity'], [{ tableEntries: 513 }, 'L2 table size too big'],
    [{ capacity: 2 ** 43 }, 'L1 size too big'], [{ flags: Flag.COMPRESSED, compression: 2 }, 'Unsupported VMDK compression algorithm 2'],
    [{ compression: 1 }, 'Flags and compression algorithm contradict each other'],
  ])('with %j is refused', (change, message) => {
    expect(() => parseSparseHeader(encodeSparseHeader({ ...sparseLayout(1 << 20, { zeroedGrain: false }), ...change }))).toThrow(message);
  });
});

describe('stream', () => {
  it('is one piece after the other, and tells at its end where everything is', async () => {
    const pieces: Uint8Array[] = [];
    const header = streamHeader(3 * 512 * 128, false);
    const writer = new StreamWriter(header, (bytes) => void pieces.push(bytes));
    await run(writer.begin(bytesOf('descriptor')));
    const grains = [0, 511, 512, 1535];
    const places: number[] = [];
    for (const grain of grains) {
      await run(writer.grain(grain, withMarker(grain * 128, Uint8Array.of(1, 2, 3))));
      places.push(writer.position - sectorSize);
    }
    expect(() => run(writer.grain(1535, new Uint8Array(sectorSize)))).toThrow('ascend');
    await run(writer.finish());
    const file = Buffer.concat(pieces);
    expect(file.length).toBe(writer.position);
    const { directory } = parseFooter(file.subarray(-3 * sectorSize));
    const found = grains.map((grain) => {
      const table = file.readUInt32LE(directory! * sectorSize + Math.floor(grain / 512) * 4);
      return file.readUInt32LE(table * sectorSize + (grain % 512) * 4) * sectorSize;
    });
    expect(found).toEqual(places);
  });

  it('has no directory entry for what it has no grain of', async () => {
    const pieces: Uint8Array[] = [];
    const writer = new StreamWriter(streamHeader(512 * 128, false), (bytes) => void pieces.push(bytes));
    await run(writer.begin(new Uint8Array(0)));
    await run(writer.finish());
    const file = Buffer.concat(pieces);
    expect(file.readUInt32LE(parseFooter(file.subarray(-1536)).directory! * sectorSize)).toBe(0);
    // header and room, directory with its marker, footer with its own, end
    expect(file.length).toBe((128 + 2 + 2 + 1) * sectorSize);
  });
});
