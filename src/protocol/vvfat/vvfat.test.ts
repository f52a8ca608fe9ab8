import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { havePeers } from '../../../test/support/peers.js';
import { randomBytes } from '../../../test/support/seed.js';

const scratch = mkdtempSync(join(tmpdir(), 'vdisk-vvfat-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const image = join(scratch, 'disk.raw');
let dir: string;
const long = 'A long file name, with spaces.text';
const contents: Record<string, Buffer> = {
  'hello.txt': Buffer.from('hello\n'), [long]: Buffer.from('long'), 'empty': Buffer.alloc(0),
  'sub/big.bin': randomBytes(100_001), 'sub/deeper/ünï.code': randomBytes(9000), 'sub/.hidden': Buffer.from('.'),
};
beforeEach(() => {
  dir = mkdtempSync(join(scratch, 'folder-'));
  mkdirSync(join(dir, 'sub/deeper'), { recursive: true });
  mkdirSync(join(dir, 'nothing'));
  for (const [name, bytes] of Object.entries(contents)) writeFileSync(join(dir, name), bytes);
});

async function readDisk(file: string | Record<string, unknown>): Promise<Buffer> {
  const graph = new BlockGraph({ drivers: createRegistry() });
  const disk = await graph.openBackend(file, { readOnly: true, ...(typeof file === 'string' && { driver: 'raw' }) });
  const bytes = Buffer.alloc(disk.size);
  for (let at = 0; at < disk.size; at += 1 << 20) await disk.read(at, bytes.subarray(at, at + (1 << 20)));
  await graph.close();
  return bytes;
}

async function writeDisk(filename: string, bytes: Buffer, meanwhile: () => void = () => undefined): Promise<void> {
  const graph = new BlockGraph({ drivers: createRegistry() });
  try {
    const disk = await graph.openBackend(filename, { driver: 'raw' });
    meanwhile();
    for (let at = 0; at < bytes.length; at += 1 << 20) await disk.write(at, bytes.subarray(at, at + (1 << 20)));
    await disk.flush();
    await disk.close();
  } finally {
    await graph.close().catch(() => undefined);
  }
}

const sum = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** Leaves out what is zero. */
function writeSparse(path: string, bytes: Buffer): void {
  const file = openSync(path, 'w');
  const zeroes = Buffer.alloc(1 << 20);
  for (let at = 0; at < bytes.length; at += zeroes.length) {
    const part = bytes.subarray(at, at + zeroes.length);
    if (!zeroes.subarray(0, part.length).equals(part)) writeSync(file, part, 0, part.length, at);
  }
  ftruncateSync(file, bytes.length);
  closeSync(file);
}

/** Paths of the files below a folder, with the sums of their content. */
function files(folder: string): Record<string, string> {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(found.map((entry) => join(entry.parentPath, entry.name)).map((path) => [path.slice(folder.length + 1), sum(readFileSync(path))]));
}

const peers = havePeers('mcopy', 'fsck.fat');
describe.skipIf(!peers)('vvfat, judged by fsck.fat and mtools', () => {
  // Writing large disks through takes long and tests no more than writing small ones.
  for (const kind of ['', '12:', '32:', 'floppy:']) {
    const volumeStart = kind.startsWith('floppy') ? 0 : 63 * 512;
    const mtools = (command: string, ...parameters: string[]): string =>
      execFileSync(command, ['-i', `${image}@@${volumeStart}`, ...parameters], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C.UTF-8' } });

    it(`shows a folder as fat:${kind}`, async () => {
      const bytes = await readDisk(`fat:${kind}${dir}`);
      writeSparse(image, bytes);
      writeSparse(`${image}.volume`, bytes.subarray(volumeStart));
      const check = spawnSync('fsck.fat', ['-n', `${image}.volume`], { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
      expect(check.stdout + check.stderr).toContain(': 10 files, ');
      expect(check.status).toBe(0);
      const copy = mkdtempSync(join(scratch, 'copy-'));
      mtools('mcopy', '-s', '::/*', copy);
      expect(files(copy)).toEqual(files(dir));
    });

    if (kind === '' || kind === '32:') continue;
    it(`brings to the folder what was made of fat:${kind}`, async () => {
      writeFileSync(image, await readDisk(`fat:${kind}${dir}`));
      const added = join(scratch, 'a new file with a long name.bin');
      writeFileSync(added, randomBytes(30_000));
      mtools('mcopy', added, '::/sub');
      mtools('mdel', '::/hello.txt');
      mtools('mmd', '::/made');
      mtools('mmove', `::/${long}`, '::/made');
      mtools('mrd', '::/nothing');
      await writeDisk(`fat:${kind}rw:${dir}`, readFileSync(image), () => writeFileSync(join(dir, 'of others'), 'stays'));
      const { 'hello.txt': _gone, [long]: moved, ...rest } = Object.fromEntries(Object.entries(contents).map(([name, bytes]) => [name, sum(bytes)]));
      expect(files(dir)).toEqual({
        ...rest, [`made/${long}`]: moved, 'sub/a new file with a long name.bin': sum(readFileSync(added)), 'of others': sum(Buffer.from('stays')),
      });
      expect(existsSync(join(dir, 'nothing'))).toBe(false);
    });
  }
});

describe('vvfat', () => {
  it('passes over words that mean nothing, as the peer does', async () => {
    const bytes = await readDisk(`fat:floppy:12:${dir}`);
    expect(sum(await readDisk(`fat:floppy:nonsense::12:${dir}`))).toBe(sum(bytes));
  });

  it('stores nothing of a file system that is not consistent, and says why', async () => {
    const before = files(dir);
    const bytes = await readDisk(`fat:12:${dir}`);
    bytes.fill(0x77, 64 * 512, 65 * 512);
    await expect(writeDisk(`fat:12:rw:${dir}`, bytes)).rejects.toThrow(/not consistent, nothing was stored: the chain of .* leads to cluster 0/);
    expect(files(dir)).toEqual(before);
  });

  it('does not let a name leave the folder', async () => {
    const bytes = await readDisk(`fat:12:${dir}`);
    const name = Buffer.from('hello.txt', 'utf16le');
    const at = bytes.indexOf(name.subarray(0, 10));
    expect(at).toBeGreaterThan(0);
    Buffer.from('../no', 'utf16le').copy(bytes, at);
    await expect(writeDisk(`fat:12:rw:${dir}`, bytes)).rejects.toThrow(/is called ".*\//);
    expect(existsSync(join(scratch, 'no.txt'))).toBe(false);
  });

  it('keeps partition table and boot sector', async () => {
    const bytes = await readDisk(`fat:12:${dir}`);
    bytes[63 * 512 + 3] = 0;
    await expect(writeDisk(`fat:12:rw:${dir}`, bytes)).rejects.toThrow('Operation not permitted');
  });

  it.each([
    [() => 'fat:/no/such/folder', 'Could not read directory /no/such/folder'],
    [() => ({ driver: 'vvfat' }), "vvfat block driver requires a 'dir' option"],
    [() => ({ driver: 'vvfat', dir, 'fat-type': 13 }), 'Valid FAT types are only 12, 16 and 32'],
    [() => ({ driver: 'vvfat', dir, label: 'twelve chars' }), 'vvfat label cannot be longer than 11 bytes'],
    [() => `fat:rw:${dir}`, "Unable to set VVFAT to 'rw' when drive is read-only"],
  ] as [() => string | Record<string, unknown>, string][])('refuses what cannot be shown: %#', async (filename, message) => {
    await expect(readDisk(filename())).rejects.toThrow(message);
  });

  it('refuses what does not fit', async () => {
    writeFileSync(join(dir, 'large'), Buffer.alloc(33 << 20));
    await expect(readDisk(`fat:12:${dir}`)).rejects.toThrow('Directory does not fit in FAT12');
  });

  it('refuses folders that contain themselves', async () => {
    symlinkSync('..', join(dir, 'sub/up'));
    await expect(readDisk(`fat:12:${dir}`)).rejects.toThrow('contains itself');
  });
});
