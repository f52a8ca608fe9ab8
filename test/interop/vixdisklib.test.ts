/** VixDiskLib, function by function, on files; what it makes is judged by qemu-img, 7-Zip and libvmdk. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  AdapterType, DiskLib, DiskType, HWVersion, isVixError, OpenFlags, SECTOR_SIZE, type Connection, type CreateParams, type VixErrorSymbol, type Progress,
} from '../../src/face/vixdisklib/index.js';
import { havePeers } from '../support/peers.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-'));
const sevenZip = ['7zz', '7z'].find((program) => spawnSync(program).error === undefined);
const mebibyte = 2 ** 20;
const sectors = (mib: number): number => mib * mebibyte / SECTOR_SIZE;
let counter = 0;
const path = (suffix = 'vmdk'): string => join(folder, `${counter++}.${suffix}`);
const lines: string[] = [];
let lib: DiskLib;
let host: Connection;

beforeAll(async () => {
  lib = await DiskLib.init({ warn: (message) => lines.push(message) });
  host = await lib.connect();
});
afterAll(async () => {
  await lib.close();
  rmSync(folder, { recursive: true });
});

async function failure(work: Promise<unknown>): Promise<VixErrorSymbol | 'no error' | 'no VixError'> {
  return work.then(() => 'no error' as const, (error: unknown) => (isVixError(error) ? error.symbol : 'no VixError'));
}

/** Synchronous throws count as well. */
const attempt = (work: () => unknown): Promise<VixErrorSymbol | 'no error' | 'no VixError'> => failure((async () => work())());

function tool(command: string, ...parameters: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, parameters, { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (status !== 0) throw new Error(`${command} ${parameters.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

const noise = (length: number, seed: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  let state = seed * 2654435761 >>> 0;
  for (let at = 0; at < length; at++) bytes[at] = (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
  return bytes;
};

const params = (diskType: DiskType, over: Partial<CreateParams> = {}): CreateParams => ({ diskType, adapterType: AdapterType.SCSI_LSILOGIC, capacity: sectors(4), ...over });
const allTypes = Object.entries(DiskType).filter(([name]) => name !== 'UNKNOWN') as [string, DiskType][];
const createTypes: Readonly<Record<number, string>> = {
  1: 'monolithicSparse', 2: 'monolithicFlat', 3: 'twoGbMaxExtentSparse', 4: 'twoGbMaxExtentFlat', 5: 'vmfs', 6: 'streamOptimized', 7: 'vmfs', 8: 'vmfsSparse',
};

async function makeDisk(diskType: DiskType = DiskType.MONOLITHIC_SPARSE, over: Partial<CreateParams> = {}): Promise<string> {
  const file = path();
  await host.create(file, params(diskType, over));
  return file;
}

async function fill(file: string, at: number, bytes: Uint8Array, flags = 0): Promise<void> {
  await using disk = await host.open(file, { flags });
  await disk.write(at, bytes);
}

async function contentOf(file: string): Promise<Uint8Array> {
  await using disk = await host.open(file, { flags: OpenFlags.READ_ONLY });
  return disk.read(0, disk.capacity);
}

function leftInFolder(): string[] {
  return readdirSync(folder).filter((name) => name.includes('vdisk-t'));
}
afterEach(() => {
  const left = leftInFolder();
  for (const name of left) rmSync(join(folder, name));
  expect(left).toEqual([]);
});

describe('Create', () => {
  it.each(allTypes)('%s', async (_, type) => {
    const file = await makeDisk(type, { hwVersion: HWVersion.WORKSTATION_6 });
    expect(await host.checkRepair(file, false)).toMatchObject({ corruptions: 0, leaks: 0, findings: [] });
    await using disk = await host.open(file);
    const info = await disk.info();
    expect(info).toMatchObject({
      capacity: sectors(4), adapterType: AdapterType.SCSI_LSILOGIC, numLinks: 1, parentFileNameHint: null, diskType: type, logicalSectorSize: 512, physicalSectorSize: 512,
    });
    if (type !== DiskType.VMFS_SPARSE) {
      expect(info.uuid).toMatch(/^60 00 C2 9[0-9a-f]/i);
      expect(await disk.metadata.get('virtualHWVersion')).toBe('6');
    }
    expect(info.physGeo.cylinders * info.physGeo.heads * info.physGeo.sectors).toBeLessThanOrEqual(sectors(4));
    const bytes = noise(type === DiskType.STREAM_OPTIMIZED ? 65536 : 70_144, type);
    await disk.write(type === DiskType.STREAM_OPTIMIZED ? 0 : 3, bytes);
    await disk.close();
    if (!havePeers('qemu-img', 'qemu-io')) return;
    const { format, 'virtual-size': size } = JSON.parse(tool('qemu-img', 'info', '--output=json', file)) as { format: string; 'virtual-size': number };
    expect([format, size]).toEqual(['vmdk', 4 * mebibyte]);
    const raw = path('raw');
    tool('qemu-img', 'convert', '-f', 'vmdk', '-O', 'raw', file, raw);
    const expected = Buffer.alloc(4 * mebibyte);
    expected.set(bytes, type === DiskType.STREAM_OPTIMIZED ? 0 : 3 * SECTOR_SIZE);
    expect(readFileSync(raw).equals(expected)).toBe(true);
    if ([DiskType.MONOLITHIC_SPARSE, DiskType.SPLIT_SPARSE].some((each) => each === type)) expect(tool('qemu-img', 'check', file)).toContain('No errors were found');
  });

  it.skipIf(!havePeers('vmdkinfo'))('what libvmdk says of it', async () => {
    for (const [type, name] of [[DiskType.MONOLITHIC_SPARSE, 'Monolithic sparse'], [DiskType.SPLIT_FLAT, '2GB extent flat'], [DiskType.MONOLITHIC_FLAT, 'Monolithic flat']] as const) {
      const text = tool('vmdkinfo', await makeDisk(type));
      expect(text).toContain(name);
      expect(text).toContain('4.0 MiB (4194304 bytes)');
    }
  });

  it('takes the space of flat disks at once, not that of thin ones', async () => {
    for (const [type, thick] of [[DiskType.MONOLITHIC_FLAT, true], [DiskType.VMFS_FLAT, true], [DiskType.VMFS_THIN, false]] as const) {
      const { blocks } = statSync((await makeDisk(type)).replace('.vmdk', '-flat.vmdk'));
      expect(blocks * 512 >= 4 * mebibyte, `type ${type}: ${blocks} blocks`).toBe(thick);
    }
    const split = await makeDisk(DiskType.SPLIT_FLAT);
    expect(statSync(split.replace('.vmdk', '-f001.vmdk')).blocks * 512).toBeGreaterThanOrEqual(4 * mebibyte);
  });

  it('adapters, hardware and sectors', async () => {
    for (const [adapterType, name] of [[AdapterType.IDE, 'ide'], [AdapterType.SCSI_BUSLOGIC, 'buslogic'], [AdapterType.SCSI_LSILOGIC, 'lsilogic']] as const) {
      await using disk = await host.open(await makeDisk(DiskType.MONOLITHIC_SPARSE, { adapterType, physicalSectorSize: 4096 }));
      expect(await disk.metadata.get('adapterType')).toBe(name);
      expect(await disk.metadata.get('virtualHWVersion')).toBe('7');
      expect(await disk.info()).toMatchObject({ adapterType, logicalSectorSize: 512, physicalSectorSize: 4096 });
    }
  });

  it('refusals', async () => {
    const file = await makeDisk();
    expect(await failure(host.create(file, params(DiskType.MONOLITHIC_SPARSE)))).toBe('VIX_E_FILE_ALREADY_EXISTS');
    const bad = (over: Partial<CreateParams>): Promise<unknown> => failure(host.create(path(), { ...params(DiskType.MONOLITHIC_SPARSE), ...over }));
    expect(await bad({ capacity: 0 })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ capacity: -1 })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ diskType: DiskType.UNKNOWN })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ adapterType: AdapterType.UNKNOWN })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ hwVersion: 65536 })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ logicalSectorSize: 4096 })).toBe('VIX_E_DISK_NOTSUPPORTED');
    await expect(host.create(path(), params(DiskType.MONOLITHIC_SPARSE, { logicalSectorSize: 4096 }))).rejects.toThrow('a VMDK counts in sectors of 512 bytes, and cannot be made with logical ones of 4096');
    expect(await bad({ logicalSectorSize: 1000 })).toBe('VIX_E_INVALID_ARG');
    expect(await bad({ physicalSectorSize: 1000 })).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.create('relative.vmdk', params(DiskType.MONOLITHIC_SPARSE)))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.create(join(folder, 'nowhere/a.vmdk'), params(DiskType.MONOLITHIC_SPARSE)))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure(host.create(path(), params(DiskType.MONOLITHIC_SPARSE), { signal: AbortSignal.abort() }))).toBe('VIX_E_CANCELLED');
    await using reading = await lib.connect(null, { readOnly: true });
    expect(await failure(reading.create(path(), params(DiskType.MONOLITHIC_SPARSE)))).toBe('VIX_E_FILE_READ_ONLY');
  });
});

describe('Open, Read, Write', () => {
  it('reads and writes sectors', async () => {
    const file = await makeDisk();
    await using disk = await host.open(file);
    const bytes = noise(10 * SECTOR_SIZE, 1);
    await disk.write(7n, bytes);
    expect(await disk.read(7, 10)).toEqual(bytes);
    expect(await disk.read(6n, 1)).toEqual(new Uint8Array(SECTOR_SIZE));
    expect(await attempt(() => disk.read(disk.capacity, 1))).toBe('VIX_E_DISK_OUTOFRANGE');
    expect(await attempt(() => disk.write(disk.capacity - 1, new Uint8Array(1024)))).toBe('VIX_E_DISK_OUTOFRANGE');
    expect(await attempt(() => disk.read(0, 0))).toBe('VIX_E_INVALID_ARG');
    expect(await attempt(() => disk.read(-1, 1))).toBe('VIX_E_INVALID_ARG');
    expect(await attempt(() => disk.write(0, new Uint8Array(100)))).toBe('VIX_E_INVALID_ARG');
    await disk.close();
    await disk.close();
    expect(await attempt(() => disk.read(0, 1))).toBe('VIX_E_INVALID_HANDLE');
    expect(await attempt(() => disk.info())).toBe('VIX_E_INVALID_HANDLE');
  });

  it('locks', async () => {
    const file = await makeDisk();
    await using writer = await host.open(file);
    expect(await failure(host.open(file))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    await using reader = await host.open(file, { flags: OpenFlags.READ_ONLY });
    expect(await attempt(() => reader.write(0, new Uint8Array(512)))).toBe('VIX_E_FILE_READ_ONLY');
    expect(await failure(reader.metadata.set('a', 'b'))).toBe('VIX_E_FILE_READ_ONLY');
    await writer.close();
    await (await host.open(file)).close();
  });

  it('files that are no disks', async () => {
    const noDisk = path();
    writeFileSync(noDisk, 'hello'.repeat(1000));
    expect(await failure(host.open(noDisk))).toBe('VIX_E_DISK_INVALIDDISK');
    expect(await failure(host.open(path()))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure(host.open('disk.vmdk'))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.open(noDisk, { flags: 4096 }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.open(noDisk, { flags: OpenFlags.COMPRESSION_ZLIB | OpenFlags.COMPRESSION_SKIPZ }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.open(noDisk, { flags: OpenFlags.COMPRESSION_ZLIB }))).toBe('VIX_E_NOT_SUPPORTED');
    const flat = await makeDisk(DiskType.MONOLITHIC_FLAT);
    rmSync(flat.replace('.vmdk', '-flat.vmdk'));
    expect(await failure(host.open(flat))).toBe('VIX_E_FILE_NOT_FOUND');
    if (process.getuid?.() !== 0) {
      const closed = await makeDisk();
      chmodSync(closed, 0o000);
      expect(await failure(host.open(closed))).toBe('VIX_E_FILE_ACCESS_ERROR');
    }
  });

  it('a stream-optimized disk is written in order', async () => {
    const file = await makeDisk(DiskType.STREAM_OPTIMIZED);
    const disk = await host.open(file);
    for (const grain of [0, 1, 5]) await disk.write(grain * 128, noise(65536, grain + 1));
    expect(await attempt(() => disk.write(128, noise(65536, 9)))).toBe('VIX_E_DISK_NOTSUPPORTED');
    await disk.close().catch(() => undefined);
    expect((await contentOf(file)).subarray(5 * 65536, 6 * 65536)).toEqual(noise(65536, 6));
  });

  it.skipIf(!havePeers('qemu-img', 'qemu-io'))('disks of qemu-img', async () => {
    for (const [format, options] of [['vmdk', 'subformat=twoGbMaxExtentSparse'], ['vmdk', 'subformat=streamOptimized'], ['qcow2', ''], ['vpc', 'subformat=dynamic,force_size=on'], ['vhdx', '']] as const) {
      const [raw, file] = [path('raw'), path(format)];
      writeFileSync(raw, noise(2 * mebibyte, 4));
      tool('qemu-img', 'convert', '-f', 'raw', '-O', format, ...(options === '' ? [] : ['-o', options]), raw, file);
      expect(Buffer.from(await contentOf(file)).equals(readFileSync(raw)), format).toBe(true);
    }
  });

  it('streams', async () => {
    const file = await makeDisk();
    await using disk = await host.open(file);
    const bytes = noise(3 * mebibyte, 8);
    await new Blob([bytes]).stream().pipeTo(disk.createWriteStream({ start: SECTOR_SIZE }));
    const back = new Uint8Array(await new Response(disk.createReadStream({ start: SECTOR_SIZE, end: SECTOR_SIZE + bytes.length }) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
    expect(Buffer.from(back).equals(bytes)).toBe(true);
  });
});

describe('Metadata', () => {
  it('is kept, also in the eyes of another reader', async () => {
    for (const type of [DiskType.MONOLITHIC_SPARSE, DiskType.MONOLITHIC_FLAT, DiskType.SPLIT_SPARSE]) {
      const file = await makeDisk(type);
      await using disk = await host.open(file);
      await disk.metadata.set('backup.name', 'monday "full"'.replaceAll('"', ''));
      await disk.metadata.set('geometry.heads', '16');
      await disk.metadata.set('backup.blank', '');
      expect(await disk.metadata.keys()).toEqual(expect.arrayContaining(['adapterType', 'backup.name', 'uuid', 'longContentID']));
      expect(await failure(disk.metadata.get('nothing'))).toBe('VIX_E_DISK_KEY_NOTFOUND');
      expect((await disk.info()).physGeo.heads).toBe(16);
      await disk.close();
      await using again = await host.open(file, { flags: OpenFlags.READ_ONLY });
      expect(await again.metadata.get('backup.name')).toBe('monday full');
      expect(await again.metadata.get('backup.blank')).toBe('');
      expect(readFileSync(file, 'latin1')).toContain('ddb.backup.name = "monday full"');
      if (havePeers('qemu-img')) tool('qemu-img', 'info', file);
    }
  });

  it('has its limits', async () => {
    await using disk = await host.open(await makeDisk());
    expect(await failure(disk.metadata.set('a\nb', 'c'))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(disk.metadata.set('big', 'x'.repeat(1 << 20)))).toMatch(/^VIX_E_(DISK_FULL|INVALID_ARG)$/);
    const raw = path('raw');
    writeFileSync(raw, new Uint8Array(mebibyte));
    await using plain = await host.open(raw);
    expect(await failure(plain.metadata.set('a', 'b'))).toBe('VIX_E_DISK_NOTSUPPORTED');
  });
});

describe('QueryAllocatedBlocks', () => {
  it('tells what holds anything', async () => {
    await using disk = await host.open(await makeDisk());
    expect(await disk.queryAllocatedBlocks()).toEqual([]);
    await disk.write(128 * 3, noise(512, 1));
    await disk.write(128 * 4, noise(512, 1));
    await disk.write(128 * 10, noise(512, 1));
    expect(await disk.queryAllocatedBlocks()).toEqual([{ offset: 384, length: 256 }, { offset: 1280, length: 128 }]);
    expect(await disk.queryAllocatedBlocks({ chunkSize: 1024 })).toEqual([{ offset: 0, length: 2048 }]);
    expect(await disk.queryAllocatedBlocks({ start: 500, length: 100 })).toEqual([{ offset: 500, length: 100 }]);
    expect(await attempt(() => disk.queryAllocatedBlocks({ chunkSize: 127 }))).toBe('VIX_E_INVALID_ARG');
    expect(await attempt(() => disk.queryAllocatedBlocks({ start: 0, length: disk.capacity + 1 }))).toBe('VIX_E_DISK_OUTOFRANGE');
  });
});

describe('Clone', () => {
  const source = async (): Promise<{ file: string; bytes: Uint8Array }> => {
    const file = await makeDisk(DiskType.MONOLITHIC_SPARSE, { adapterType: AdapterType.IDE });
    const bytes = noise(mebibyte, 3);
    await fill(file, sectors(2), bytes);
    return { file, bytes };
  };

  it.each(allTypes)('to %s', async (_, diskType) => {
    const { file, bytes } = await source();
    const target = path();
    const told: Progress[] = [];
    await host.clone(target, host, file, { createParams: { diskType }, onProgress: (progress) => told.push(progress) });
    const percents = told.map(({ percent }) => percent);
    expect(told.at(-1)).toEqual({ percent: 100, done: told[0]!.total, total: told[0]!.total });
    expect(percents).toEqual([...new Set(percents)].sort((a, b) => a - b));
    const content = await contentOf(target);
    expect(Buffer.from(content.subarray(2 * mebibyte, 3 * mebibyte)).equals(bytes)).toBe(true);
    await using disk = await host.open(target, { flags: OpenFlags.READ_ONLY });
    expect(await disk.info()).toMatchObject({ diskType, adapterType: AdapterType.IDE, capacity: sectors(4) });
    if (havePeers('qemu-img')) {
      expect(tool('qemu-img', 'compare', '-f', 'vmdk', '-F', 'vmdk', file, target)).toBe('Images are identical.\n');
      expect(readFileSync(target, 'latin1')).toContain(`createType="${createTypes[diskType]}"`);
    }
  });

  it('keeps what the source says of itself, if it makes sense', async () => {
    const describe = async (file: string): Promise<unknown> => {
      await using disk = await host.open(file, { flags: OpenFlags.READ_ONLY });
      const { adapterType, physicalSectorSize, diskType } = await disk.info();
      return { adapterType, physicalSectorSize, diskType, hardware: await disk.metadata.get('virtualHWVersion') };
    };
    const file = await makeDisk(DiskType.SPLIT_SPARSE, { adapterType: AdapterType.SCSI_BUSLOGIC, hwVersion: 11, physicalSectorSize: 4096 });
    const copy = path();
    await host.clone(copy, host, file);
    expect(await describe(copy)).toEqual({ adapterType: AdapterType.SCSI_BUSLOGIC, physicalSectorSize: 4096, diskType: DiskType.SPLIT_SPARSE, hardware: '11' });
    const other = path();
    await host.clone(other, host, file, { createParams: { hwVersion: 13, physicalSectorSize: 512 } });
    expect(await describe(other)).toMatchObject({ physicalSectorSize: 512, hardware: '13' });
    await using odd = await host.open(file);
    await odd.metadata.set('virtualHWVersion', 'soon');
    await odd.metadata.set('physicalSectorSize', '777');
    await odd.close();
    const plain = path();
    await host.clone(plain, host, file);
    expect(await describe(plain)).toMatchObject({ physicalSectorSize: 512, hardware: '7' });
  });

  it.skipIf(sevenZip === undefined && !havePeers('7zz'))('7-Zip reads it', async () => {
    const { file, bytes } = await source();
    const target = path();
    await host.clone(target, host, file, { createParams: { diskType: DiskType.STREAM_OPTIMIZED } });
    const out = spawnSync(sevenZip ?? '7zz', ['e', '-so', target], { maxBuffer: 1 << 26 }).stdout;
    expect(out.subarray(2 * mebibyte, 3 * mebibyte).equals(bytes)).toBe(true);
  });

  it('refuses, overwrites, is cancelled', async () => {
    const { file, bytes } = await source();
    const target = await makeDisk(DiskType.SPLIT_FLAT);
    expect(await failure(host.clone(target, host, file))).toBe('VIX_E_FILE_ALREADY_EXISTS');
    const stop = new AbortController();
    expect(await failure(host.clone(target, host, file, { overwrite: true, signal: stop.signal, onProgress: () => stop.abort() }))).toBe('VIX_E_CANCELLED');
    await using untouched = await host.open(target, { flags: OpenFlags.READ_ONLY });
    expect((await untouched.info()).diskType).toBe(DiskType.SPLIT_FLAT);
    await untouched.close();
    await host.clone(target, host, file, { overwrite: true });
    expect(Buffer.from((await contentOf(target)).subarray(2 * mebibyte, 3 * mebibyte)).equals(bytes)).toBe(true);
    expect(existsSync(target.replace('.vmdk', '-f001.vmdk'))).toBe(false);
    expect(await failure(host.clone(path(), host, file, { createParams: { capacity: 1 } }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.clone(path(), host, path()))).toBe('VIX_E_FILE_NOT_FOUND');
    const mine = new Error('mine');
    await expect(host.clone(path(), host, file, { onProgress: () => { throw mine; } })).rejects.toBe(mine);
    const twice = path();
    const results = await Promise.all([failure(host.clone(twice, host, file)), failure(host.clone(twice, host, file))]);
    expect(results.sort()).toEqual(['VIX_E_OBJECT_IS_BUSY', 'no error']);
    await using busy = await host.open(target);
    expect(await failure(host.clone(target, host, file, { overwrite: true }))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    expect(busy.isOpen).toBe(true);
  });

  it('SpaceNeededForClone', async () => {
    const { file } = await source();
    await using disk = await host.open(file, { flags: OpenFlags.READ_ONLY });
    for (const type of [DiskType.MONOLITHIC_SPARSE, DiskType.MONOLITHIC_FLAT]) {
      const target = path();
      await host.clone(target, host, file, { createParams: { diskType: type } });
      const taken = statSync(target).size + (type === DiskType.MONOLITHIC_FLAT ? statSync(target.replace('.vmdk', '-flat.vmdk')).size : 0);
      expect(Math.abs(await disk.spaceNeededForClone(type) - taken), String(type)).toBeLessThanOrEqual(64 * 1024);
    }
    for (const [name, type] of allTypes) expect(await disk.spaceNeededForClone(type), name).toBeGreaterThan(0);
    expect(await disk.spaceNeededForClone()).toBe(await disk.spaceNeededForClone(DiskType.MONOLITHIC_SPARSE));
  });
});

describe('Grow', () => {
  it.each(allTypes.filter(([name]) => name !== 'STREAM_OPTIMIZED'))('%s', async (_, type) => {
    const file = await makeDisk(type);
    await fill(file, 0, noise(65536, 2));
    await host.grow(file, sectors(9));
    await using disk = await host.open(file);
    expect(disk.capacity).toBe(sectors(9));
    expect((await disk.info()).physGeo.cylinders).toBeGreaterThan(0);
    await disk.write(sectors(9) - 1, noise(512, 5));
    expect(await disk.read(0, 128)).toEqual(noise(65536, 2));
    await disk.close();
    if (havePeers('qemu-img')) expect(JSON.parse(tool('qemu-img', 'info', '--output=json', file))).toMatchObject({ 'virtual-size': 9 * mebibyte });
  });

  it('refusals', async () => {
    const file = await makeDisk();
    expect(await failure(host.grow(file, sectors(4)))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.grow(file, sectors(1)))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(host.grow(path(), sectors(5)))).toBe('VIX_E_FILE_NOT_FOUND');
    await using disk = await host.open(file);
    expect(await failure(host.grow(file, sectors(5)))).toBe('VIX_E_INVALID_ARG');
    await using elsewhere = await lib.connect();
    expect(await failure(elsewhere.grow(file, sectors(5)))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    const child = path();
    await disk.close();
    await using parent = await host.open(file, { flags: OpenFlags.READ_ONLY });
    await parent.createChild(child);
    expect(await failure(host.grow(child, sectors(5)))).toBe('VIX_E_DISK_NOTNORMAL');
  });

  it('takes the new space of flat disks at once, not that of thin ones', async () => {
    for (const [type, suffix, thick] of [[DiskType.MONOLITHIC_FLAT, '-flat', true], [DiskType.SPLIT_FLAT, '-f001', true], [DiskType.VMFS_FLAT, '-flat', true], [DiskType.VMFS_THIN, '-flat', false]] as const) {
      const file = await makeDisk(type);
      await host.grow(file, sectors(9));
      const { blocks } = statSync(file.replace('.vmdk', `${suffix}.vmdk`));
      expect(blocks * 512 >= 9 * mebibyte, `type ${type}: ${blocks} blocks`).toBe(thick);
    }
  });

  it('keeps the geometry if asked', async () => {
    const file = await makeDisk();
    const cylinders = async (): Promise<number[]> => {
      await using disk = await host.open(file, { flags: OpenFlags.READ_ONLY });
      const { physGeo, biosGeo } = await disk.info();
      return [physGeo.cylinders, biosGeo.cylinders];
    };
    await using disk = await host.open(file);
    for (const [key, value] of [['Cylinders', '2'], ['Heads', '64'], ['Sectors', '63']] as const) await disk.metadata.set(`geometry.bios${key}`, value);
    await disk.close();
    const before = await cylinders();
    expect(before[1]).toBe(2);
    await host.grow(file, sectors(64), false);
    expect(await cylinders()).toEqual(before);
    await host.grow(file, sectors(128), true);
    for (const [index, grown] of (await cylinders()).entries()) expect(grown).toBeGreaterThan(before[index]!);
  });
});

describe('Shrink and Defragment', () => {
  it.each([['MONOLITHIC_SPARSE', DiskType.MONOLITHIC_SPARSE], ['SPLIT_SPARSE', DiskType.SPLIT_SPARSE]] as const)('%s', async (_, type) => {
    const file = await makeDisk(type);
    const store = type === DiskType.SPLIT_SPARSE ? file.replace('.vmdk', '-s001.vmdk') : file;
    await using disk = await host.open(file);
    for (const grain of [30, 2, 17, 9, 40]) await disk.write(grain * 128, noise(65536, grain));
    await disk.write(17 * 128, new Uint8Array(65536));
    await disk.flush();
    const before = await disk.read(0, disk.capacity);
    await disk.defragment();
    expect(Buffer.from(await disk.read(0, disk.capacity)).equals(before)).toBe(true);
    const size = statSync(store).size;
    const percents: number[] = [];
    await disk.shrink({ onProgress: ({ percent }) => percents.push(percent) });
    expect(percents.at(-1)).toBe(100);
    expect(statSync(store).size).toBe(size - 65536);
    expect(Buffer.from(await disk.read(0, disk.capacity)).equals(before)).toBe(true);
    expect(await disk.queryAllocatedBlocks()).toEqual([2, 9, 30, 40].map((grain) => ({ offset: grain * 128, length: 128 })));
    await disk.close();
    if (havePeers('qemu-img')) expect(tool('qemu-img', 'check', file)).toContain('No errors were found');
  });

  it('flat disks and readers', async () => {
    const file = await makeDisk(DiskType.MONOLITHIC_FLAT);
    await using disk = await host.open(file);
    await disk.defragment();
    const percents: number[] = [];
    expect(await failure(disk.shrink({ onProgress: ({ percent }) => percents.push(percent) }))).toBe('VIX_E_DISK_CANTSHRINK');
    expect(percents).not.toContain(100);
    expect(disk.isOpen).toBe(true);
    await disk.close();
    await using reader = await host.open(file, { flags: OpenFlags.READ_ONLY });
    expect(await failure(reader.defragment())).toBe('VIX_E_FILE_READ_ONLY');
    expect(await failure(reader.shrink())).toBe('VIX_E_FILE_READ_ONLY');
  });
});

describe('Rename, Unlink, CheckRepair', () => {
  it.each(allTypes)('%s moves and goes with all its files', async (_, type) => {
    const file = await makeDisk(type);
    if (type !== DiskType.STREAM_OPTIMIZED) await fill(file, 5, noise(512, 1));
    const before = await contentOf(file);
    const files = readdirSync(folder).length;
    const to = path();
    await host.rename(file, to);
    expect(existsSync(file)).toBe(false);
    expect(readdirSync(folder)).toHaveLength(files);
    expect(Buffer.from(await contentOf(to)).equals(before)).toBe(true);
    expect(await host.checkRepair(to, false)).toMatchObject({ corruptions: 0 });
    await host.unlink(to);
    const stem = to.slice(folder.length + 1, -'.vmdk'.length);
    expect(readdirSync(folder).filter((name) => name.startsWith(`${stem}.`) || name.startsWith(`${stem}-`))).toEqual([]);
  });

  it('refusals', async () => {
    const [file, other] = [await makeDisk(), await makeDisk()];
    expect(await failure(host.rename(file, other))).toBe('VIX_E_FILE_ALREADY_EXISTS');
    expect(await failure(host.rename(path(), path()))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure(host.unlink(path()))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure(host.checkRepair(path(), false))).toBe('VIX_E_FILE_NOT_FOUND');
    await using disk = await host.open(file);
    expect(await failure(host.rename(file, path()))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    expect(await failure(host.unlink(file))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    expect(await failure(host.checkRepair(file, true))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    expect(disk.isOpen).toBe(true);
  });

  it('repairs', async () => {
    const file = await makeDisk();
    await fill(file, 0, noise(65536, 1));
    const bytes = readFileSync(file);
    // the redundant directory comes first: its table no longer says where the grain is
    const tables = bytes.readUInt32LE(48) * SECTOR_SIZE;
    const table = bytes.readUInt32LE(tables) * SECTOR_SIZE;
    expect(bytes.readUInt32LE(table)).not.toBe(0);
    bytes.writeUInt32LE(0, table);
    writeFileSync(file, bytes);
    const found = await host.checkRepair(file, false);
    expect(found.corruptions + found.leaks).toBeGreaterThan(0);
    expect(found.findings.length).toBeGreaterThan(0);
    expect((await host.checkRepair(file, true)).repaired).toBeGreaterThan(0);
    expect(await host.checkRepair(file, false)).toMatchObject({ corruptions: 0, leaks: 0, findings: [] });
  });
});

describe('the log file of the configuration', () => {
  it('takes what no function does', async () => {
    const [config, log] = [path('conf'), path('log')];
    writeFileSync(config, `log.fileName=${log}\nwhat.is.this=1\n`);
    await using logging = await DiskLib.init({ configFile: config });
    expect(readFileSync(log, 'utf8')).toMatch(/^\S+ warn vixDiskLib: The setting 'what.is.this' is not known/);
    writeFileSync(config, `log.fileName=${log}\nlog.fileLevel=1\nwhat.is.this=2\n`);
    await using silent = await DiskLib.init({ configFile: config });
    expect(readFileSync(log, 'utf8').split('\n')).toHaveLength(2);
    expect(silent.configuration.get('log.fileLevel')).toBe('1');
    writeFileSync(config, `log.fileName=${folder}/nowhere/log\nwhat.is.this=1\n`);
    expect(await failure(DiskLib.init({ configFile: config }))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure(DiskLib.init({ configFile: path() }))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(logging.transportModes).toBe('file:san:hotadd:nbdssl:nbd');
  });
});

describe('Cleanup', () => {
  it('removes what a killed run left', async () => {
    const place = join(folder, 'killed');
    mkdirSync(place);
    const left = join(place, 'disk.vdisk-tmp.vmdk');
    writeFileSync(left, 'unfinished');
    expect(await lib.cleanup([place])).toEqual({ removed: [left], remaining: [] });
    expect(readdirSync(place)).toEqual([]);
    // found again by the note of a process that is no more
    writeFileSync(left, 'unfinished');
    const config = path('conf');
    const notes = join(folder, `vdisk-vixdisklib-${userInfo().uid}`);
    writeFileSync(config, `tmpDirectory=${folder}`);
    mkdirSync(notes, { mode: 0o700, recursive: true });
    const { pid: gone } = spawnSync('true');
    writeFileSync(join(notes, `${'0'.repeat(32)}-${gone}`), place);
    await using noted = await DiskLib.init({ configFile: config });
    expect(await noted.cleanup()).toEqual({ removed: [left], remaining: [] });
    expect(readdirSync(notes)).toEqual([]);
    // not while its process runs
    writeFileSync(left, 'unfinished');
    writeFileSync(join(notes, `${'0'.repeat(32)}-${process.ppid}`), place);
    expect(await noted.cleanup()).toEqual({ removed: [], remaining: [] });
    rmSync(place, { recursive: true });
  });
});
