import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { native } from '../../platform/native.js';
import { DirectoryExports } from './directory.js';

const drivers = createRegistry();
let folder: string;
let root: string;
let exports: DirectoryExports;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-directory-'));
  root = join(folder, 'disks');
  mkdirSync(join(root, 'deeper'), { recursive: true });
  for (const name of ['b.raw', 'a.raw', '.hidden.raw', 'deeper/c.raw', '../outside.raw']) writeFileSync(join(root, name), new Uint8Array(4096));
  symlinkSync('b.raw', join(root, 'near.raw'));
  symlinkSync('../outside.raw', join(root, 'far.raw'));
  symlinkSync('/dev/zero', join(root, 'device.raw'));
  symlinkSync('nowhere', join(root, 'dangling.raw'));
  exports = new DirectoryExports(root, { drivers, writable: true });
});
afterEach(async () => {
  await exports.close();
  rmSync(folder, { recursive: true });
});

it('serves the files of the directory itself', async () => {
  expect(exports.names()).toEqual(['a.raw', 'b.raw', 'near.raw']);
  for (const name of exports.names()) {
    const lent = (await exports.acquire(name))!;
    expect([lent.name, lent.size, lent.writable]).toEqual([name, 4096, true]);
    exports.release(lent);
  }
});

it.each(['.hidden.raw', 'deeper/c.raw', './a.raw', '../outside.raw', 'far.raw', 'device.raw', 'dangling.raw', 'deeper', '.', '..', '', 'a.raw\0', 'A.raw', 'no.raw'])(
  'has nothing under the name %j', async (name) => {
    expect(await exports.acquire(name)).toBeUndefined();
  });

it('needs no name for a file that is alone', async () => {
  for (const name of ['a.raw', 'near.raw']) rmSync(join(root, name));
  const lent = (await exports.acquire(''))!;
  expect(lent.name).toBe('b.raw');
  exports.release(lent);
});

it('shares an image among those who use it at a time, and opens it anew for those who come as the last one leaves', async () => {
  const [first, second] = await Promise.all([exports.acquire('a.raw'), exports.acquire('a.raw')]);
  expect(first).toBe(second);
  for (let round = 0; round < 20; round++) {
    const lent = (await exports.acquire('b.raw'))!;
    await lent.backend.write(0, new Uint8Array(512).fill(round));
    exports.release(lent);
  }
  exports.release(first!);
  expect(await exports.acquire('a.raw')).toBe(first);
  exports.release(first!);
  exports.release(second!);
  expect(await exports.acquire('a.raw')).not.toBe(first);
});

it.skipIf(native() === undefined)('has let go of everything when it is closed', async () => {
  const inUse = await exports.acquire('a.raw');
  const left = await exports.acquire('b.raw');
  const other = new BlockGraph({ drivers });
  const open = (name: string): Promise<void> => other.openBackend(join(root, name), { driver: 'raw' }).then((disk) => disk.close());
  await expect(open('b.raw')).rejects.toMatchObject({ code: 'PERMISSION_CONFLICT' });
  exports.release(left!);
  await exports.close();
  expect(inUse).toBeDefined();
  for (const name of ['a.raw', 'b.raw']) await open(name);
  await other.close();
});
