/** Partition tables against sfdisk, sgdisk and parted, and against tables that lie. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { crc32 } from '../util/crc32.js';
import { havePeers } from '../../test/support/peers.js';
import { readPartitionTable, type DiskReader, type PartitionTable } from './partition-table.js';

const MiB = 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-partitions-'));
const file = join(folder, 'disk');
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function readerOf(bytes: Uint8Array): DiskReader {
  return (offset, length) => {
    if (offset < 0 || offset + length > bytes.length) throw new Error(`asked for ${length} bytes at ${offset} of ${bytes.length}`);
    return Promise.resolve(bytes.subarray(offset, offset + length));
  };
}

async function tableOfFile(): Promise<PartitionTable | undefined> {
  const fd = openSync(file, 'r');
  try {
    return await readPartitionTable((offset, length) => {
      const bytes = new Uint8Array(length);
      if (readSync(fd, bytes, 0, length, offset) !== length) throw new Error('read past the end');
      return Promise.resolve(bytes);
    }, statSync(file).size);
  } finally {
    closeSync(fd);
  }
}

function blank(size: number): void {
  rmSync(file, { force: true });
  writeFileSync(file, '');
  truncateSync(file, size);
}

function run(command: string, args: string[], input = ''): string {
  const { stdout, stderr, status } = spawnSync(command, args, { input, encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}${stdout}`);
  return stdout;
}

interface SfdiskPartition { node: string; start: number; size: number; type: string; name?: string; bootable?: boolean }

/** What sfdisk sees on the same disk, in our words. */
function asSfdisk(device = file, sectorSize = 512): unknown[] {
  const { partitiontable } = JSON.parse(run('sfdisk', ['-J', device])) as { partitiontable: { partitions: SfdiskPartition[] } };
  return partitiontable.partitions.map(({ node, start, size, type, name, bootable }) => ({
    number: Number(/\d+$/.exec(node)![0]), start: start * sectorSize, size: size * sectorSize, type, name: name ?? '', bootable: bootable ?? false,
  }));
}

function asOurs(table: PartitionTable | undefined): unknown[] {
  return table!.partitions.map(({ number, start, size, type, name = '', bootable }) => ({ number, start, size, type, name, bootable }));
}

describe.skipIf(!havePeers('sfdisk'))('tables made by sfdisk', () => {
  test('primary and logical partitions of an MBR', async () => {
    blank(100 * MiB);
    run('sfdisk', ['-q', file], 'label: dos\n,10M,7,*\n,5M,c\n,60M,Ex\n,10M,83\n,10M,83\n,1M,82\n,3M,8e\n');
    const table = await tableOfFile();
    expect(asOurs(table)).toEqual(asSfdisk());
    expect(table!.partitions.map(({ number, system, extended }) => [number, system, extended])).toEqual([
      [1, 'HPFS/NTFS/exFAT', false], [2, 'W95 FAT32 (LBA)', false], [3, 'Extended', true], [4, 'Linux', false],
      [5, 'Linux', false], [6, 'Linux swap', false], [7, 'Linux LVM', false],
    ]);
    expect(table).toMatchObject({ scheme: 'mbr', sectorSize: 512, problems: [] });
  });

  const gptScript = `label: gpt
size=5M, type=uefi, name="boot ü"
size=10M, type=linux, name=root, attrs="LegacyBIOSBootable"
type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F
`;

  async function checkGpt(device: string, sectorSize: number): Promise<void> {
    run('sfdisk', ['-q', device], gptScript);
    const table = await tableOfFile();
    expect(asOurs(table)).toEqual(asSfdisk(device, sectorSize).map((partition, index) => ({ ...(partition as object), bootable: index === 1 })));
    expect(table).toMatchObject({ scheme: 'gpt', sectorSize, problems: [] });
    expect(table!.partitions.map(({ system }) => system)).toEqual(['EFI System', 'Linux filesystem', 'Linux swap']);
  }

  test('a GPT', async () => {
    blank(64 * MiB);
    await checkGpt(file, 512);
  });

  test('a GPT in sectors of 4096 bytes', async ({ skip }) => {
    blank(64 * MiB);
    const { stdout, status } = spawnSync('losetup', ['-f', '--show', '-b', '4096', file], { encoding: 'utf8' });
    if (status !== 0) skip('losetup is not ours to use');
    const device = stdout.trim();
    try {
      await checkGpt(device, 4096);
    } finally {
      run('losetup', ['-d', device]);
    }
  });

  test('the backup stands in for a primary that is broken, and the other way round', async () => {
    blank(16 * MiB);
    run('sfdisk', ['-q', file], 'label: gpt\nsize=5M, name=one\nname=two\n');
    const sound = asOurs(await tableOfFile());
    overwrite(512 + 40, [1, 2, 3]);
    const backup = await tableOfFile();
    expect(asOurs(backup)).toEqual(sound);
    expect(backup!.problems).toEqual(['the primary GPT is not usable, the backup is shown: the checksum of its header is wrong']);
    overwrite(16 * MiB - 512, [0]);
    await expect(tableOfFile()).rejects.toThrow('The GUID partition table is damaged, and so is its backup: the checksum of its header is wrong');
    run('sfdisk', ['-q', '--wipe', 'always', file], 'label: gpt\nsize=5M, name=one\nname=two\n');
    overwrite(16 * MiB - 512 * 30, [255]);
    expect(asOurs(await tableOfFile())).toEqual(sound);
    expect((await tableOfFile())!.problems).toEqual(['the backup GPT at the end of the disk is not usable: the checksum of its entries is wrong']);
  });

  test('a disk that was cut off shows what is left of it', async () => {
    blank(32 * MiB);
    run('sfdisk', ['-q', file], 'label: dos\n,10M,83\n,10M,83\n,10M,83\n');
    truncateSync(file, 15 * MiB);
    const table = await tableOfFile();
    expect(table!.partitions.map(({ number, size }) => [number, size])).toEqual([[1, 10 * MiB], [2, 4 * MiB]]);
    expect(table!.problems).toEqual(['partition 2 ends beyond the end of the disk', 'partition 3 starts beyond the end of the disk']);
  });
});

test.skipIf(!havePeers('sgdisk', 'sfdisk'))('sgdisk: entries with gaps in their numbers, a table of 256 entries', async () => {
  blank(64 * MiB);
  run('sgdisk', ['-o', '-S', '256', '-n', '3:2048:+4M', '-t', '3:fd00', '-n', '200:0:+8M', '-t', '200:af00', '-c', '200:apple', file]);
  const table = await tableOfFile();
  expect(asOurs(table)).toEqual(asSfdisk());
  expect(table!.partitions.map(({ number, system, name }) => [number, system, name])).toEqual([[3, 'Linux RAID', undefined], [200, 'Apple HFS/HFS+', 'apple']]);
});

test.skipIf(!havePeers('parted', 'sfdisk'))('parted: logical partitions', async () => {
  blank(200 * MiB);
  run('parted', ['-s', file, 'mklabel', 'msdos', 'mkpart', 'primary', 'ext4', '1MiB', '20MiB', 'mkpart', 'extended', '20MiB', '199MiB',
    ...[0, 1, 2, 3].flatMap((index) => ['mkpart', 'logical', 'fat32', `${21 + index * 20}MiB`, `${38 + index * 20}MiB`])]);
  const table = await tableOfFile();
  expect(asOurs(table)).toEqual(asSfdisk());
  expect(table!.partitions.map(({ number }) => number)).toEqual([1, 2, 5, 6, 7, 8]);
});

test.skipIf(!havePeers('mkfs.fat'))('a file system without a partition table is none', async () => {
  for (const args of [[], ['-F', '32']]) {
    blank(40 * MiB);
    run('mkfs.fat', [...args, file]);
    expect(await tableOfFile()).toBeUndefined();
  }
});

/** A small disk with these bytes of a partition table: [type, first sector, sectors] of each entry by sector. */
function handmade(tables: Readonly<Record<number, readonly (readonly [type: number, first: number, sectors: number])[]>>): Uint8Array {
  const disk = Buffer.alloc(256 * 512);
  for (const [sector, entries] of Object.entries(tables)) {
    const at = Number(sector) * 512;
    disk.writeUInt16LE(0xaa55, at + 510);
    entries.forEach(([type, first, sectors], index) => {
      disk[at + 450 + index * 16] = type;
      disk.writeUInt32LE(first, at + 454 + index * 16);
      disk.writeUInt32LE(sectors, at + 458 + index * 16);
    });
  }
  return disk;
}

test('hostile chains of logical partitions end', async () => {
  const circle = handmade({ 0: [[5, 8, 200]], 8: [[0x83, 1, 5], [5, 20, 10]], 28: [[0x83, 1, 5], [5, 0, 10]] });
  const table = await readPartitionTable(readerOf(circle), circle.length);
  expect(table!.partitions.map(({ number, start }) => [number, start / 512])).toEqual([[1, 8], [5, 9], [6, 29]]);
  expect(table!.problems).toEqual(['the chain of logical partitions runs in a circle']);

  const away = handmade({ 0: [[5, 8, 200]], 8: [[0x83, 1, 5], [5, 4_000_000_000, 10]] });
  expect((await readPartitionTable(readerOf(away), away.length))!.problems).toEqual(['the chain of logical partitions leaves the extended partition']);

  const nowhere = handmade({ 0: [[5, 8, 200]], 8: [[0x83, 1, 5], [5, 50, 10]] });
  expect((await readPartitionTable(readerOf(nowhere), nowhere.length))!.problems).toEqual(['the chain of logical partitions breaks off at sector 58']);
});

test('a GPT that claims gigabytes of entries is refused unread', async () => {
  const disk = Buffer.from(handmade({ 0: [[0xee, 1, 255]] }));
  disk.write('EFI PART', 512, 'latin1');
  disk.writeUInt32LE(0x10000, 520);
  disk.writeUInt32LE(92, 524);
  disk.writeBigUInt64LE(1n, 536);
  disk.writeBigUInt64LE(2n, 584);
  disk.writeUInt32LE(0xffffffff, 592);
  disk.writeUInt32LE(128, 596);
  disk.writeUInt32LE(crc32(disk.subarray(512, 604)), 528);
  await expect(readPartitionTable(readerOf(disk), disk.length)).rejects.toThrow('its 4294967295 entries of 128 bytes are out of reason');
});

test('arbitrary bytes never make it read outside the disk or run on', async () => {
  await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 0, maxLength: 4096 }), fc.array(fc.tuple(fc.integer({ min: 0, max: 7 }), fc.constantFrom(5, 0x83, 0xee))), async (bytes, marks) => {
    const disk = Buffer.alloc(8 * 512);
    disk.set(bytes.subarray(0, disk.length));
    for (const [sector, type] of marks) {
      disk.writeUInt16LE(0xaa55, sector * 512 + 510);
      for (const at of [446, 462, 478, 494]) disk[sector * 512 + at] = 0;
      disk[sector * 512 + 450] = type;
    }
    const table = await readPartitionTable(readerOf(disk), disk.length).catch((error: Error) => {
      if (error.name !== 'PartitionTableError') throw error;
      return undefined;
    });
    for (const { start, size } of table?.partitions ?? []) expect(start + size).toBeLessThanOrEqual(disk.length);
  }), { seed: 7, numRuns: 300 });
});

function overwrite(at: number, bytes: readonly number[]): void {
  const fd = openSync(file, 'r+');
  const before = Buffer.alloc(bytes.length);
  readSync(fd, before, 0, bytes.length, at);
  writeSync(fd, before.map((byte) => byte ^ 0xff), 0, bytes.length, at);
  closeSync(fd);
}
