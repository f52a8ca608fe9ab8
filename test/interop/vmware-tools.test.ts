/** vmware-vdiskmanager, vmware-mount and vixdisklib-sample from a shell, as in the vendor's guide; other programs judge what they made. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, openSync, closeSync, readdirSync, readFileSync, readSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { randomFillSync } from 'node:crypto';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ToolFolder, until, type Ended } from '../support/our-tools.js';
import { havePeers } from '../support/peers.js';

const MiB = 1024 * 1024;
let folder: ToolFolder;
let manager: string;
let mounter: string;
let sample: string;
const havePlainPeers = havePeers('qemu-img', 'qemu-io', 'sfdisk');
const environment = process.env;

beforeAll(() => {
  folder = new ToolFolder();
  manager = folder.tool('vmware-vdiskmanager');
  mounter = folder.tool('vmware-mount');
  sample = folder.tool('vixdisklib-sample');
  process.env = { ...environment, XDG_RUNTIME_DIR: folder.file('run'), PATH: `${environment['PATH']}:/usr/sbin:/sbin` };
  mkdirSync(folder.file('run'), { mode: 0o700 });
});
afterAll(async () => {
  spawnSync(mounter, ['-X']);
  process.env = environment;
  await folder.remove();
});

/** What the folder holds of a disk. */
function filesOf(stem: string): string[] {
  return readdirSync(folder.path).filter((name) => name.startsWith(stem)).sort();
}

/** A raw disk with some data at its start and in its middle. */
function makeRaw(name: string, size: number): string {
  const path = folder.file(name);
  const fd = openSync(path, 'w');
  for (const [at, length] of [[0, 300_000], [size / 2, MiB]] as const) writeSync(fd, randomFillSync(new Uint8Array(length)), 0, length, at);
  closeSync(fd);
  truncateSync(path, size);
  return path;
}

function same(a: string, b: string): void {
  expect(folder.succeed('qemu-img', ['compare', a, b])).toBe('Images are identical.\n');
}

interface Info { 'virtual-size': number; format: string; 'format-specific': { data: { 'create-type': string; extents: unknown[] } } }
const info = (name: string): Info => JSON.parse(folder.succeed('qemu-img', ['info', '--output=json', name])) as Info;

describe.skipIf(!havePlainPeers)('vmware-vdiskmanager', () => {
  test.each([
    ['0', 'monolithicSparse', ['.vmdk']], ['1', 'twoGbMaxExtentSparse', ['-s001.vmdk', '.vmdk']], ['2', 'monolithicFlat', ['-flat.vmdk', '.vmdk']],
    ['3', 'twoGbMaxExtentFlat', ['-f001.vmdk', '.vmdk']], ['4', 'vmfs', ['-flat.vmdk', '.vmdk']], ['6', 'vmfs', ['-flat.vmdk', '.vmdk']],
  ])('-c -t %s makes %s', (type, createType, files) => {
    const stem = `made${type}`;
    expect(folder.succeed(manager, ['-c', '-s', '850MB', '-a', 'ide', '-t', type, `${stem}.vmdk`]))
      .toMatch(/^Creating disk 'made\d\.vmdk'\n(\r {2}Create: \d+% done\.)*\r {2}Create: 100% done\.\nVirtual disk creation successful\.\n$/);
    expect(filesOf(stem)).toEqual(files.map((suffix) => stem + suffix));
    expect(info(`${stem}.vmdk`)).toMatchObject({ format: 'vmdk', 'virtual-size': 850 * MiB, 'format-specific': { data: { 'create-type': createType } } });
    expect(readFileSync(folder.file(`${stem}.vmdk`), 'latin1')).toContain('ddb.adapterType = "ide"');
  });

  test.skipIf(!havePeers('vmdkinfo'))('libvmdk reads what is made', () => {
    folder.succeed(manager, ['-c', '-q', '-s', '3GB', '-t', '1', 'libvmdk.vmdk']);
    const text = folder.succeed('vmdkinfo', ['libvmdk.vmdk']);
    expect(text).toMatch(/Disk type:\s+2GB extent sparse/);
    expect(text).toMatch(/Number of extents:\s+2/);
    expect(text).toMatch(/Media size:\s+3\.0 GiB/);
  });

  test('-r converts any disk, redo logs included, to every type', () => {
    const raw = makeRaw('source.raw', 40 * MiB);
    for (const type of ['0', '1', '2', '3', '4', '5', '6']) {
      expect(folder.succeed(manager, ['-r', 'source.raw', '-t', type, `r${type}.vmdk`])).toMatch(/ {2}Convert: 100% done\.\nVirtual disk conversion successful\.\n$/);
      same(raw, `r${type}.vmdk`);
      if (['0', '1', '5'].includes(type)) expect(folder.succeed('qemu-img', ['check', `r${type}.vmdk`])).toMatch(/No errors were found/);
    }
    folder.succeed('qemu-img', ['convert', '-O', 'qcow2', raw, 'source.qcow2']);
    folder.succeed(manager, ['-q', '-r', 'source.qcow2', '-t', '1', 'q.vmdk']);
    same(raw, 'q.vmdk');
    folder.succeed(sample, ['-redo', 'r0.vmdk', 'redo.vmdk']);
    folder.succeed(sample, ['-fill', '-start', '70000', '-count', '20', '-val', '7', 'redo.vmdk']);
    folder.succeed(manager, ['-q', '-r', 'redo.vmdk', '-t', '2', 'flattened.vmdk']);
    same('redo.vmdk', 'flattened.vmdk');
    expect(folder.run(manager, ['-q', '-r', 'source.raw', '-t', '0', 'r0.vmdk'])).toMatchObject({
      status: 1, stdout: '', stderr: "vmware-vdiskmanager: Failed to convert disk 'source.raw': The file already exists (0xc, VIX_E_FILE_ALREADY_EXISTS)\n",
    });
  });

  test.skipIf(!havePeers('7zz') && !havePeers('7z'))('7-Zip finds the content of sparse and of compressed disks', () => {
    const raw = makeRaw('zipped.raw', 8 * MiB);
    const zip = spawnSync('7zz').error === undefined ? '7zz' : '7z';
    for (const type of ['0', '5']) {
      folder.succeed(manager, ['-q', '-r', 'zipped.raw', '-t', type, `z${type}.vmdk`]);
      const { stdout, status } = spawnSync(zip, ['x', '-so', '-tvmdk', `z${type}.vmdk`], { cwd: folder.path, maxBuffer: 64 * MiB });
      expect(status).toBe(0);
      expect(stdout.equals(readFileSync(raw))).toBe(true);
    }
  });

  test('-x, -n, -d, -k, -R, -D, -U: a disk from its making to its end', () => {
    const run = (...words: string[]): string => folder.succeed(manager, [...words]);
    run('-c', '-q', '-s', '100MB', '-t', '1', 'life.vmdk');
    folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 3 60M 20M', '-c', 'write -P 4 0 20M', 'life.vmdk']);
    expect(run('-x', '5GB', 'life.vmdk')).toMatch(/^(\r {2}Grow: \d+% done\.)+\nDisk expansion completed successfully\.\n/);
    expect(info('life.vmdk')['virtual-size']).toBe(5 * 1024 * MiB);
    expect(filesOf('life')).toEqual(['life-s001.vmdk', 'life-s002.vmdk', 'life-s003.vmdk', 'life.vmdk']);
    expect(run('-n', 'life.vmdk', 'second.vmdk')).toBe('Renaming completed successfully.\n');
    expect(filesOf('life')).toEqual([]);
    const reading = ['-f', 'vmdk', '-r', '-c', 'read -P 3 60M 20M', '-c', 'read -P 4 0 20M', 'second.vmdk'];
    expect(folder.succeed('qemu-io', reading)).not.toContain('failed');
    expect(run('-d', 'second.vmdk')).toMatch(/ {2}Defragment: 100% done\.\nDefragmentation completed successfully\.\n$/);
    expect(folder.succeed('qemu-io', reading)).not.toContain('failed');
    folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 0 60M 20M', 'second.vmdk']);
    const before = statSync(folder.file('second-s001.vmdk')).blocks;
    expect(run('-k', 'second.vmdk')).toMatch(/ {2}Shrink: 100% done\.\nShrink completed successfully\.\n$/);
    expect((before - statSync(folder.file('second-s001.vmdk')).blocks) * 512).toBeGreaterThan(19 * MiB);
    expect(folder.succeed('qemu-io', ['-f', 'vmdk', '-r', '-c', 'read -P 0 60M 20M', '-c', 'read -P 4 0 20M', 'second.vmdk'])).not.toContain('failed');
    expect(run('-R', 'second.vmdk')).toMatch(/No errors were found on the virtual disk, '.*second\.vmdk'\.\n$/);
    expect(folder.succeed('qemu-img', ['check', 'second.vmdk'])).toMatch(/No errors were found/);
    run('-D', 'second.vmdk');
    expect(readFileSync(folder.file('second.vmdk'), 'latin1')).toContain('ddb.deletable = "true"');
    expect(run('-U', 'second.vmdk')).toBe('The disk and its files are deleted.\n');
    expect(filesOf('second')).toEqual([]);
  });

  test('-R repairs tables that point nowhere', () => {
    makeRaw('torn.raw', 20 * MiB);
    folder.succeed(manager, ['-q', '-r', 'torn.raw', '-t', '0', 'torn.vmdk']);
    const fd = openSync(folder.file('torn.vmdk'), 'r+');
    const table = Buffer.alloc(512);
    readSync(fd, table, 0, 512, 0);
    readSync(fd, table, 0, 4, Number(table.readBigUInt64LE(56)) * 512);
    writeSync(fd, Uint8Array.of(255, 255, 255, 127), 0, 4, table.readUInt32LE(0) * 512 + 4 * 100);
    closeSync(fd);
    expect(folder.run(sample, ['-check', '0', 'torn.vmdk'])).toMatchObject({ status: 1, stdout: '2 faults, 0 leaks\n' });
    expect(folder.succeed(manager, ['-R', 'torn.vmdk'])).toMatch(/The virtual disk, '.*torn\.vmdk', was damaged and has been repaired\.\n$/);
    expect(JSON.parse(folder.succeed(manager, ['--json', '-R', 'torn.vmdk']))).toMatchObject({ 'exit-code': 0, corruptions: 0, leaks: 0, repaired: 0 });
    same('torn.raw', 'torn.vmdk');
  });

  test('-e tells a sound chain from one whose parent was changed or is gone', () => {
    folder.succeed(manager, ['-c', '-q', '-s', '10MB', 'p.vmdk']);
    folder.succeed(sample, ['-redo', 'p.vmdk', 'p-1.vmdk']);
    folder.succeed(sample, ['-redo', 'p-1.vmdk', 'p-2.vmdk']);
    expect(folder.succeed(manager, ['-e', 'p-2.vmdk'])).toBe('Disk chain is consistent (3 disks).\n');
    expect(JSON.parse(folder.succeed(manager, ['-e', '--json', 'p-2.vmdk']))).toEqual({ operation: 'chain', disk: 'p-2.vmdk', 'exit-code': 0, consistent: true, links: 3 });
    folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write 0 64k', 'p.vmdk']);
    const changed = folder.run(manager, ['-e', 'p-2.vmdk']);
    expect(changed.status).toBe(1);
    expect(changed.stdout).toMatch(/^Disk chain is not consistent: /);
    expect(JSON.parse(folder.run(manager, ['-e', '--json', 'p-2.vmdk']).stdout)).toMatchObject({ consistent: false, error: 'VIX_E_DISK_CID_MISMATCH' });
    folder.succeed(manager, ['-U', 'p-1.vmdk']);
    expect(JSON.parse(folder.run(manager, ['-e', '--json', 'p-2.vmdk']).stdout)).toMatchObject({ consistent: false, error: 'VIX_E_DISK_OPENPARENT' });
  });

  test('Ctrl-C leaves nothing half-made', async () => {
    const size = 256 * MiB;
    const piece = randomFillSync(new Uint8Array(MiB));
    const fd = openSync(folder.file('slow.raw'), 'w');
    for (let at = 0; at < size; at += MiB) writeSync(fd, piece, 0, MiB, at);
    closeSync(fd);
    mkdirSync(folder.file('target'));
    const { child, release } = folder.startHeld(manager, ['-r', 'slow.raw', '-t', '5', 'target/slow.vmdk'], 1000);
    await until(() => child.exitCode !== null || readdirSync(folder.file('target')).length > 0, 'the target');
    child.kill('SIGINT');
    const { signal, stderr } = await release();
    expect([signal, stderr]).toEqual(['SIGINT', '']);
    expect(readdirSync(folder.file('target'))).toEqual([]);
    for (const name of ['slow.raw', 'target']) rmSync(folder.file(name), { recursive: true });
  });

  test('what cannot be done is told in words and numbers', () => {
    folder.succeed(manager, ['-c', '-q', '-s', '10MB', '-t', '2', 'flat10.vmdk']);
    const failure = (...words: string[]): string => {
      const { status, stderr } = folder.run(manager, words);
      expect(status).toBe(1);
      return stderr;
    };
    expect(failure('-x', '5MB', 'flat10.vmdk')).toMatch(/^vmware-vdiskmanager: Failed to expand disk 'flat10\.vmdk': .* \(0x3, VIX_E_INVALID_ARG\)\n/);
    expect(failure('-k', 'flat10.vmdk')).toContain('(0x3e89, VIX_E_DISK_CANTSHRINK)');
    expect(JSON.parse(folder.run(manager, ['--json', '-U', 'nowhere.vmdk']).stdout)).toMatchObject({ operation: 'delete', 'exit-code': 1, error: 'VIX_E_FILE_NOT_FOUND', code: 4 });
    expect(failure('-e', 'nowhere.vmdk')).toContain('(0x4, VIX_E_FILE_NOT_FOUND)');
    writeFileSync(folder.file('nodisk.vmdk'), 'hello');
    expect(failure('-R', 'nodisk.vmdk')).toMatch(/VIX_E_(INCORRECT_FILE_TYPE|DISK_INVALIDDISK)/);
    expect(folder.run(folder.tool('vdisk'), ['vmware-vdiskmanager', '--help']).stdout).toMatch(/^vmware-vdiskmanager: makes and keeps/);
  });
});

describe.skipIf(!havePlainPeers)('vixdisklib-sample', () => {
  test('the commands of the vendor\'s sample, one after the other', () => {
    const run = (...words: string[]): string => folder.succeed(sample, words);
    run('-create', '-cap', '20', '-adapter', 'ide', 's.vmdk');
    expect(run('-info', 's.vmdk')).toMatch(/^capacity {13}= 40960 sectors\nnumber of links {6}= 1\nadapter type {9}= IDE\n/);
    run('-fill', '-val', '0x5a', '-start', '100', '-count', '3', 's.vmdk');
    expect(run('-dump', '-start', '102', '-count', '2', 's.vmdk').split('\n')[0]).toBe(`0000cc00: ${'5a '.repeat(16)} ${'Z'.repeat(16)}`);
    run('-redo', 's.vmdk', 's-child.vmdk');
    run('-fill', '-start', '20480', '-count', '1', 's-child.vmdk');
    expect(run('-info', 's-child.vmdk')).toMatch(/number of links {6}= 2\n[^]*parent {15}= s\.vmdk\n/);
    expect(run('-getallocatedblocks', 's-child.vmdk')).toBe('Block 0: offset 0, length 128\nBlock 1: offset 20480, length 128\n2 blocks, 256 of 40960 sectors\n');
    expect(run('-getallocatedblocks', '-single', '-chunksize', '256', 's-child.vmdk')).toBe('Block 0: offset 20480, length 256\n1 blocks, 256 of 40960 sectors\n');
    run('-wmeta', 'toolsVersion', '8', 's-child.vmdk');
    expect(run('-rmeta', 'toolsVersion', 's-child.vmdk')).toBe('toolsVersion = 8\n');
    expect(run('-meta', 's-child.vmdk')).toContain('adapterType = ide\n');
    expect(folder.run(sample, ['-rmeta', 'nothing', 's.vmdk'])).toMatchObject({
      status: 1, stderr: "vixdisklib-sample: -rmeta s.vmdk: The metadata key was not found (0x3eb4, VIX_E_DISK_KEY_NOTFOUND)\n'nothing'\n",
    });
    run('-clone', 's-child.vmdk', 's-copy.vmdk');
    same('s-child.vmdk', 's-copy.vmdk');
    run('-multithread', '2', 's-child.vmdk');
    same('s-child-thread1.vmdk', 's-child-thread2.vmdk');
    same('s-child.vmdk', 's-child-thread2.vmdk');
    for (const bench of ['readbench', 'readasyncbench', 'writebench', 'writeasyncbench']) {
      expect(run(`-${bench}`, '512', '-val', '9', 's-copy.vmdk')).toMatch(/^(Read|Wrote) 21\.0 MB in .* in pieces of 512 sectors: [\d.]+ MB\/s\n$/);
    }
    expect(folder.succeed('qemu-io', ['-f', 'vmdk', '-r', '-c', 'read -P 9 0 20M', 's-copy.vmdk'])).not.toContain('failed');
    expect(run('-check', '1', 's-copy.vmdk')).toMatch(/^0 faults, 0 leaks, 0 repaired\n$/);
  });

  test('-mode nbd: a disk of a vdisk daemon', async () => {
    mkdirSync(folder.file('served'));
    const raw = makeRaw('remote.raw', 16 * MiB);
    folder.succeed(manager, ['-q', '-r', 'remote.raw', '-t', '0', 'served/remote.vmdk']);
    for (const name of ['empty', 'second']) folder.succeed(manager, ['-q', '-c', '-s', '16MB', `served/${name}.vmdk`]);
    const socket = folder.file('daemon.sock');
    const { child, output, ended } = folder.start(folder.tool('vdisk'), ['serve', '--writable', '--socket', socket, 'served']);
    await until(() => output.stdout.includes('Ctrl-C stops') || child.exitCode !== null, 'the daemon');
    const remote = ['-host', socket, '-mode', 'nbd'];
    const run = (...words: string[]): Ended => folder.run(sample, words);
    expect(run('-info', ...remote, 'remote.vmdk').stdout).toMatch(/^capacity {13}= 32768 sectors\n[^]*transport mode {7}= nbd\n$/);
    expect(run('-vm', 'moref=vm-16', '-info', ...remote, 'remote.vmdk').status).toBe(0);
    expect(run('-getallocatedblocks', ...remote, 'remote.vmdk').stdout).toMatch(/^Block 0: offset 0, length \d+\nBlock 1: offset 16384, length 2048\n/);
    expect(run('-fill', ...remote, '-start', '9', '-count', '1', '-val', '3', 'remote.vmdk').status).toBe(0);
    expect(run('-dump', ...remote, '-start', '9', 'remote.vmdk').stdout).toMatch(/^00001200: 03 03 /);
    expect(run('-clone', 'remote.raw', ...remote, 'empty.vmdk')).toMatchObject({ status: 0 });
    expect(folder.succeed(manager, ['-r', 'remote.raw', '-h', socket, 'second.vmdk'])).toMatch(/Virtual disk conversion successful\.\n$/);
    expect(run('-info', ...remote, 'nothing.vmdk')).toMatchObject({ status: 1, stderr: expect.stringContaining('VIX_E_FILE_NOT_FOUND') as string });
    expect(run('-redo', 'remote.vmdk', ...remote, 'x.vmdk')).toMatchObject({ status: 1 });
    child.kill('SIGTERM');
    await ended;
    same(raw, 'served/empty.vmdk');
    same(raw, 'served/second.vmdk');
    expect(run('-info', ...remote, 'remote.vmdk')).toMatchObject({ status: 1, stderr: expect.stringMatching(/VIX_E_HOST_(SERVER_NOT_FOUND|NETWORK_CONN_REFUSED)/) as string });
  });

  test('transports that are not there are refused by number', () => {
    expect(folder.run(sample, ['-info', '-mode', 'san', 's.vmdk'])).toMatchObject({ status: 1, stderr: expect.stringContaining('(0x6, VIX_E_NOT_SUPPORTED)') as string });
    expect(folder.run(sample, ['-info', '-mode', 'floppy', 's.vmdk'])).toMatchObject({ status: 1, stderr: expect.stringContaining('(0x3, VIX_E_INVALID_ARG)') as string });
  });
});

/** Whether this machine lets us show disks as files, and mount them. */
function mayMount(): 'files' | 'partitions' | undefined {
  const shell = (script: string): boolean => spawnSync('sh', ['-c', script], { env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } }).status === 0;
  const root = process.getuid?.() === 0;
  const files = shell('test -r /dev/fuse -a -w /dev/fuse') && shell(root
    ? 'd=$(mktemp -d) && mount -t tmpfs none "$d" && umount "$d"; s=$?; rmdir "$d"; exit $s' : 'command -v fusermount3 || command -v fusermount');
  if (!files) {
    console.warn('!!! There is no FUSE for us: disks as files are NOT tested.');
    return undefined;
  }
  if (!havePeers('nbdfuse', 'mkfs.ext4')) return undefined;
  if (root && shell('losetup -f')) return 'partitions';
  console.warn('!!! No loop devices for us: mounting partitions is NOT tested.');
  return 'files';
}
const mounting = mayMount();

describe.skipIf(!havePlainPeers)('vmware-mount', () => {
  let raw: string;
  const run = (...words: string[]): string => folder.succeed(mounter, words);

  beforeAll(() => {
    raw = folder.file('parts.raw');
    writeFileSync(raw, '');
    truncateSync(raw, 64 * MiB);
    const { status, stderr } = spawnSync('sfdisk', ['-q', raw], { input: 'label: dos\n,20M,83\n,1M,c\n,30M,5\n,5M,82\n,20M,83\n', encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    if (mounting !== undefined) folder.succeed('mkfs.ext4', ['-q', '-E', `offset=${MiB}`, raw, '20M']);
    folder.succeed('qemu-img', ['convert', '-O', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', raw, 'parts.vmdk']);
    mkdirSync(folder.file('mnt'));
    mkdirSync(folder.file('mnt2'));
  });

  test('-p lists what sfdisk lists', () => {
    const { partitiontable: { partitions } } = JSON.parse(folder.succeed('sfdisk', ['-J', raw])) as { partitiontable: { partitions: { node: string; start: number; size: number; type: string }[] } };
    const [head, rule, ...rows] = run('-p', 'parts.vmdk').trimEnd().split('\n');
    expect([head, rule]).toEqual(['Nr      Start       Size Type Id System', '-- ---------- ---------- ---- -- ------------------------']);
    expect(rows.map((row) => row.trim().split(/ +/).slice(0, 5))).toEqual(partitions.map(({ node, start, size, type }) => [/\d+$/.exec(node)![0], String(start), String(size), 'BIOS', type]));
    expect(rows.map((row) => row.slice(33))).toEqual(['Linux', 'W95 FAT32 (LBA)', 'Extended', 'Linux swap', 'Linux']);
    expect(JSON.parse(run('-p', '--json', 'parts.vmdk'))).toMatchObject({ scheme: 'mbr', partitions: partitions.map(({ start }) => ({ start: start * 512 })) });
  });

  test('a disk that is not there', () => {
    for (const words of [['-p', 'nowhere.vmdk'], ['-f', 'nowhere.vmdk', 'mnt']]) {
      expect(folder.run(mounter, words)).toMatchObject({ status: 1, stdout: '', stderr: expect.stringMatching(/^vmware-mount: Could not open '[^']*nowhere.vmdk': No such file or directory\n$/) as string });
    }
  });

  test('-p of a disk without partitions', () => {
    folder.succeed(manager, ['-q', '-c', '-s', '5MB', 'blank.vmdk']);
    expect(folder.run(mounter, ['-p', 'blank.vmdk'])).toMatchObject({ status: 1, stdout: '', stderr: expect.stringContaining('blank.vmdk has no partition table') as string });
  });

  test.skipIf(mounting === undefined)('-f shows the disk as a file, which can be written, until -d', () => {
    expect(run('-f', 'parts.vmdk', 'mnt')).toBe(`${folder.file('mnt/flat')}\n`);
    expect(readFileSync(folder.file('mnt/flat')).equals(readFileSync(raw))).toBe(true);
    expect(run('-L')).toBe(`Disks with mounted partitions:\n${folder.file('parts.vmdk')}\n`);
    expect(run('-l', 'parts.vmdk')).toBe(`flat  ${folder.file('mnt/flat')}\n`);
    expect(run('-p', 'parts.vmdk')).toMatch(/ 1 +2048 +40960 BIOS 83 Linux\n/);
    expect(folder.run('qemu-img', ['info', 'parts.vmdk'])).toMatchObject({ status: 1, stderr: expect.stringContaining('lock') as string });
    expect(folder.run(mounter, ['-f', 'parts.vmdk', 'mnt'])).toMatchObject({ status: 1, stderr: 'vmware-mount: Something is mounted on mnt already\n' });
    const fd = openSync(folder.file('mnt/flat'), 'r+');
    writeSync(fd, 'written through the file', 50 * MiB);
    closeSync(fd);
    run('-d', 'mnt');
    expect(run('-L')).toBe('No disks are mounted.\n');
    expect(readdirSync(folder.file('mnt'))).toEqual([]);
    const back = openSync(raw, 'r+');
    writeSync(back, 'written through the file', 50 * MiB);
    closeSync(back);
    same('parts.vmdk', 'parts.raw');
  });

  test.skipIf(mounting !== 'partitions')('partitions are mounted, changed, and left in order', () => {
    run('parts.vmdk', 'mnt');
    writeFileSync(folder.file('mnt/letter'), 'hello');
    run('-f', 'parts.vmdk', 'mnt2');
    expect(run('-l', 'parts.vmdk')).toBe(`   1  ${folder.file('mnt')}\nflat  ${folder.file('mnt2/flat')}\n`);
    expect(folder.run(mounter, ['parts.vmdk', '3', 'mnt2'])).toMatchObject({ status: 1 });
    run('-k', 'parts.vmdk');
    expect([readdirSync(folder.file('mnt')), readdirSync(folder.file('mnt2')), run('-L')]).toEqual([[], [], 'No disks are mounted.\n']);
    run('-r', 'parts.vmdk', '1', 'mnt');
    expect(readFileSync(folder.file('mnt/letter'), 'utf8')).toBe('hello');
    expect(() => writeFileSync(folder.file('mnt/more'), '')).toThrow('EROFS');
    expect(folder.run(mounter, ['-f', 'parts.vmdk', 'mnt2'])).toMatchObject({ status: 1, stderr: expect.stringContaining('is in use read-only; add -r') as string });
    run('-d', 'mnt');
    expect(folder.run(mounter, ['-d', 'mnt'])).toMatchObject({ status: 1, stderr: 'vmware-mount: Nothing of ours is mounted on mnt\n' });
    folder.succeed('qemu-img', ['check', 'parts.vmdk']);
    folder.succeed('qemu-img', ['convert', '-O', 'raw', 'parts.vmdk', 'after.raw']);
    folder.succeed('sh', ['-c', `dd if=after.raw of=part.raw bs=1M skip=1 count=20 2>/dev/null && e2fsck -fn part.raw`]);
  });

  test.skipIf(mounting !== 'partitions')('-p of vmware-vdiskmanager makes a mounted disk ready to shrink', () => {
    folder.succeed(manager, ['-q', '-r', 'parts.raw', '-t', '0', 'zero.vmdk']);
    run('zero.vmdk', 'mnt');
    writeFileSync(folder.file('mnt/rubbish'), randomFillSync(new Uint8Array(8 * MiB)));
    spawnSync('sync', ['-f', folder.file('mnt')]);
    rmSync(folder.file('mnt/rubbish'));
    expect(folder.succeed(manager, ['-p', 'mnt'])).toMatch(/ {2}Prepare: 100% done\.\nThe free space is zeroed\./);
    expect(readdirSync(folder.file('mnt'))).toEqual(['lost+found']);
    run('-d', 'mnt');
    const before = statSync(folder.file('zero.vmdk')).size;
    folder.succeed(manager, ['-q', '-k', 'zero.vmdk']);
    expect(before - statSync(folder.file('zero.vmdk')).size).toBeGreaterThan(7 * MiB);
    folder.succeed('qemu-img', ['check', 'zero.vmdk']);
  });

  test.skipIf(mounting === undefined)('what a server that was killed left is noticed and cleared away', async () => {
    run('-f', 'parts.vmdk', 'mnt');
    const [{ address }] = JSON.parse(run('-L', '--json')) as [{ address: string }];
    const record = join(folder.file('run/vdisk-mount'), basename(join(new URL(address).searchParams.get('socket')!, '..')), 'disk.json');
    const { server: { pid } } = JSON.parse(readFileSync(record, 'utf8')) as { server: { pid: number } };
    process.kill(pid, 'SIGKILL');
    await until(() => spawnSync(mounter, ['-L'], { encoding: 'utf8' }).stdout === 'No disks are mounted.\n', 'the state to be cleared');
    expect(readdirSync(folder.file('run/vdisk-mount'))).toEqual([]);
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(folder.file('mnt'));
    run('-f', '-r', 'parts.vmdk', 'mnt');
    spawnSync('umount', [folder.file('mnt')]);
    expect(run('-L')).toBe('No disks are mounted.\n');
  });

  test('without FUSE the disk is served as an address, and partitions are refused with the way that works', () => {
    const bare = folder.file('bare');
    mkdirSync(bare);
    symlinkSync(process.execPath, join(bare, 'node'));
    const run = (...words: string[]): Ended => spawnSync(mounter, words, { cwd: folder.path, encoding: 'utf8', env: { ...process.env, PATH: bare } });
    folder.succeed('qemu-img', ['convert', '-O', 'vmdk', 'parts.raw', 'bare.vmdk']);
    const { status, stdout } = run('-f', 'bare.vmdk', 'mnt');
    expect(status).toBe(0);
    const address = stdout.split('\n')[0]!;
    expect(address).toMatch(/^nbd\+unix:\/\/\/\?socket=/);
    expect(stdout).toContain('vmware-mount -k ');
    same(address, 'parts.raw');
    expect(run('-l', 'bare.vmdk').stdout).toBe(`${address}\n`);
    expect(run('bare.vmdk', '1', 'mnt')).toMatchObject({ status: 1, stdout: '', stderr: expect.stringContaining('offset=1048576,sizelimit=20971520') as string });
    expect(run('-x').status).toBe(0);
    expect(run('-k', 'bare.vmdk')).toMatchObject({ status: 1, stderr: 'vmware-mount: bare.vmdk is not mounted\n' });
  });

});
