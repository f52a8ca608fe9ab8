import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { Req } from '../../block/driver.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { native } from '../../platform/native.js';
import { conformanceCases } from '../../testing/conformance.js';
import { file, hostDevice } from './index.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-file-'));
const drivers = [file, hostDevice];
let graph = new BlockGraph({ drivers: new DriverRegistry(drivers) });
let counter = 0;
const fresh = (content: Uint8Array | string | number = ''): string => {
  const path = join(folder, `image-${counter++}`);
  writeFileSync(path, typeof content === 'number' ? '' : content);
  if (typeof content === 'number') truncateSync(path, content);
  return path;
};
const open = (path: string, extra: object = {}): Promise<BlockBackend> =>
  graph.openBackend({ driver: 'file', filename: path, discard: 'unmap', ...extra });
afterEach(async () => {
  await graph.close();
  graph = new BlockGraph({ drivers: new DriverRegistry(drivers) });
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('file', () => {
  for (const { name, run } of conformanceCases({
    drivers, size: 1 << 20, persistent: true, fresh: async (wrap) => wrap({ driver: 'file', filename: fresh(1 << 20) }),
  })) it(name, run);

  it('does as a plain byte array does', async () => {
    const limit = 300_000;
    const step = fc.record({
      kind: fc.constantFrom('write', 'zero', 'unmap', 'discard', 'resize'), offset: fc.nat(limit - 1), length: fc.nat(100_000), fill: fc.integer({ min: 1, max: 255 }),
    });
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const path = fresh(100_000);
      const disk = await open(path);
      const { ops } = disk.node;
      const model = new Uint8Array(limit);
      let size = 100_000;
      for (const { kind, offset, length: wanted, fill } of steps) {
        const length = Math.min(wanted, kind === 'discard' ? size - offset : limit - offset);
        if (length <= 0 && kind !== 'resize') continue;
        if (kind === 'write') await ops.write(offset, new Uint8Array(length).fill(fill), 0);
        else if (kind === 'resize') await ops.resize(offset, { preallocation: 'off', exact: true, zeroNew: true });
        else if (kind !== 'discard') await ops.writeZeroes(offset, length, kind === 'unmap' ? Req.MAY_UNMAP : 0);
        else await ops.discard(offset, length);
        if (kind === 'resize') size = offset;
        else if (kind !== 'discard') size = Math.max(size, offset + length);
        model.fill(kind === 'write' ? fill : 0, kind === 'resize' ? size : offset, kind === 'resize' ? limit : offset + length);
        expect(disk.size).toBe(size);
      }
      for (let at = 0; at < size;) {
        const extent = await ops.status(at, size - at, true);
        if (extent.kind === 'zero') expect(model.subarray(at, at + extent.length).every((byte) => byte === 0)).toBe(true);
        at += extent.length;
      }
      await disk.close();
      expect(Buffer.compare(readFileSync(path), model.subarray(0, size))).toBe(0);
    }), { numRuns: 40 });
  });

  it('reads cached data without a promise', async () => {
    const disk = await open(fresh(new Uint8Array(8192).fill(5)));
    const target = new Uint8Array(4096);
    const answer = disk.read(4096, target);
    if (native() === undefined) await answer;
    else expect(answer).toBeUndefined();
    expect(target.every((byte) => byte === 5)).toBe(true);
  });

  it('moves large requests on other threads', async () => {
    const path = fresh();
    const { ops } = (await open(path)).node;
    const source = Buffer.alloc(9 << 20, 'vdisk');
    const written = ops.write(100, source, 0);
    expect(written).toBeInstanceOf(Promise);
    await written;
    const target = Buffer.alloc(9 << 20);
    const read = ops.read(100, target, 0);
    expect(read).toBeInstanceOf(Promise);
    await read;
    expect(target.equals(source)).toBe(true);
  });

  it('reads what another process cut off as zeroes', async () => {
    const path = fresh(new Uint8Array(8192).fill(5));
    const disk = await open(path, { locking: 'off' });
    truncateSync(path, 6000);
    const target = new Uint8Array(4096);
    await disk.read(4096, target);
    expect([target[1903], target[1904], target[4095]]).toEqual([5, 0, 0]);
  });

  it('flushes once for many writes, and again for later ones', async () => {
    const disk = await open(fresh(4096));
    expect(disk.node.ops.flush()).toBeUndefined();
    await disk.write(0, new Uint8Array(10));
    const first = disk.node.ops.flush();
    expect(first).toBeInstanceOf(Promise);
    expect(disk.node.ops.flush()).toBe(first);
    await first;
    expect(disk.node.ops.flush()).toBeUndefined();
  });

  describe.skipIf(native() === undefined)('with system calls', () => {
    it('tells data from holes, on terabytes at once', async () => {
      const path = fresh(2 ** 40);
      const fd = openSync(path, 'r+');
      writeSync(fd, Buffer.alloc(65536, 1), 0, 65536, 2 ** 39);
      closeSync(fd);
      const { ops } = (await open(path)).node;
      expect(await ops.status(0, 2 ** 40, true)).toEqual({ kind: 'zero', length: 2 ** 39, allocated: true });
      expect(await ops.status(2 ** 39, 2 ** 39, true)).toEqual({ kind: 'data', length: 65536 });
      expect(await ops.status(2 ** 39 + 65536, 1000, true)).toEqual({ kind: 'zero', length: 1000, allocated: true });
      await ops.discard(2 ** 39, 32768);
      expect(await ops.status(2 ** 39, 65536, true)).toEqual({ kind: 'zero', length: 32768, allocated: true });
    });

    it('gives space back when told to, and keeps it otherwise', async () => {
      const path = fresh(new Uint8Array(1 << 20).fill(1));
      const disk = await open(path);
      const allocated = disk.facet('allocatedSize')!;
      await disk.writeZeroes(0, 1 << 19);
      expect(await allocated.allocatedSize()).toBeGreaterThanOrEqual(1 << 20);
      await disk.writeZeroes(0, 1 << 19, Req.MAY_UNMAP);
      expect(await allocated.allocatedSize()).toBeLessThanOrEqual((1 << 19) + 8192);
      await disk.discard(1 << 19, 1 << 18);
      expect(await allocated.allocatedSize()).toBeLessThanOrEqual((1 << 18) + 8192);
      expect(readFileSync(path).subarray(0, 3 << 18).every((byte) => byte === 0)).toBe(true);
    });

    it('copies inside the kernel', async () => {
      const source = await open(fresh(Buffer.from('0123456789'.repeat(10_000))));
      const path = fresh();
      const target = await open(path);
      const copied = await target.facet('copyRange')!.copyFrom(source.facet('descriptor')!, 5, 3, 99_000);
      expect(copied).toBe(true);
      expect(target.size).toBe(99_003);
      expect(readFileSync(path, 'latin1')).toBe('\0\0\0' + '0123456789'.repeat(10_000).slice(5, 99_005));
      expect(await target.facet('copyRange')!.copyFrom({ fd: 9999 }, 0, 0, 10)).toBe(false);
    });
  });

  it('reserves or writes the space of a growth', async () => {
    const path = fresh(1000);
    const disk = await open(path);
    await disk.resize(1 << 20, { preallocation: 'falloc' });
    expect(statSync(path).size).toBe(1 << 20);
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(1 << 20);
    await disk.resize(3 << 20, { preallocation: 'full' });
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(3 << 20);
    await expect(disk.resize(4 << 20, { preallocation: 'metadata' })).rejects.toThrow('Unsupported preallocation mode: metadata');
    await expect(disk.resize(1 << 20, { preallocation: 'full' })).rejects.toThrow('Preallocation can only be used for growing images');
    await expect(disk.resize(2 ** 52)).rejects.toThrow('Could not resize file: File too large');
    expect(statSync(path).size).toBe(3 << 20);
  });

  it('changes access in place, even where the name is gone', async () => {
    const path = fresh(new Uint8Array(4096).fill(1));
    const node = await graph.open({ driver: 'file', filename: path }, { readOnly: true });
    rmSync(path);
    await graph.reopen(node, { readOnly: false });
    await node.ops.write(0, new Uint8Array([2]), 0);
    await graph.reopen(node, { readOnly: true });
    const target = new Uint8Array(2);
    await node.ops.read(0, target, 0);
    expect([...target]).toEqual([2, 1]);
    expect(node.ops.capabilities.write).toBe(false);
    await graph.release(node);
  });
});

describe('open, with the texts of the peer', () => {
  const refuse = async (options: object, text: string): Promise<void> => {
    await expect(graph.openBackend({ driver: 'file', ...options })).rejects.toThrow(text);
  };

  it('names the file and the reason', async () => {
    const missing = join(folder, 'missing');
    await refuse({ filename: missing }, `Could not open '${missing}': No such file or directory`);
    await refuse({ filename: `${fresh('x')}/y` }, "y': Not a directory");
    await refuse({ filename: '' }, "The 'file' block driver requires a file name");
    await refuse({}, "The 'file' block driver requires a file name");
  });

  it('takes only what the driver is for', async () => {
    await refuse({ filename: folder, 'read-only': true }, `'file' driver requires '${folder}' to be a regular file`);
    await refuse({ filename: folder }, `Could not open '${folder}': Is a directory`);
    await refuse({ filename: '/dev/null' }, "'file' driver requires '/dev/null' to be a regular file");
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    await refuse({ filename: pipe }, `'file' driver requires '${pipe}' to be a regular file`);
    const path = fresh('x');
    await refuse({ driver: 'host_device', filename: path }, `'host_device' driver requires '${path}' to be either a character or block device`);
  });

  it('refuses options it cannot honour', async () => {
    const filename = fresh('x');
    await refuse({ filename, 'pr-manager': 'p' }, "No persistent reservation manager with id 'p'");
    await refuse({ filename, aio: 'native' }, 'aio=native was specified, but it requires cache.direct=on, which was not specified.');
  });

  it.skipIf(process.getuid?.() !== 0)('opens read-only what it may not write, only with auto-read-only', async () => {
    const path = fresh(4096);
    const mounted = join(folder, 'mounted');
    writeFileSync(mounted, '');
    execFileSync('mount', ['--bind', path, mounted]);
    try {
      execFileSync('mount', ['-o', 'remount,bind,ro', mounted]);
      await refuse({ filename: mounted }, `Could not open '${mounted}': Read-only file system`);
      const disk = await graph.openBackend({ driver: 'file', filename: mounted, 'auto-read-only': true });
      expect(disk.readOnly).toBe(true);
    } finally {
      await graph.close();
      execFileSync('umount', [mounted]);
    }
  });

  it('finds devices behind plain names and links', () => {
    const registry = new DriverRegistry(drivers);
    const link = join(folder, 'link');
    symlinkSync('/dev/null', link);
    expect(registry.byPath(link)?.name).toBe('host_device');
    expect(registry.byPath(fresh('x'))?.name).toBe('file');
    expect(registry.byPath(join(folder, 'missing'))?.name).toBe('file');
  });
});

describe('create', () => {
  it('makes, empties and preallocates', async () => {
    const path = join(folder, 'made');
    await file.createFile!(path, {});
    expect(statSync(path).size).toBe(0);
    await file.createFile!(path, { size: 5000, preallocation: 'full' });
    expect(statSync(path).size).toBe(5120);
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(5120);
    await file.createFile!(path, { size: 1 << 20, preallocation: 'falloc', nocow: true, extent_size_hint: 0 });
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(1 << 20);
    await file.createFile!(path, {});
    expect(statSync(path).size).toBe(0);
    await file.deleteFile!(path);
    expect(() => statSync(path)).toThrow();
  });

  it('stores the first block of what grows from nothing', async () => {
    const path = fresh();
    const disk = await open(path);
    await disk.resize(1 << 20);
    expect(statSync(path).blocks * 512).toBe(4096);
    expect(await disk.status(0, 1 << 20)).toMatchObject({ data: true, length: 4096 });
    await disk.resize(1000);
    await disk.resize(5000);
    expect(statSync(path).size).toBe(5000);
    await disk.close();
    await file.createFile!(path, { size: 3000 });
    expect([statSync(path).size, statSync(path).blocks]).toEqual([3072, 8]);
  });

  it('leaves no file behind where it fails', async () => {
    const path = join(folder, 'failed');
    await expect(file.createFile!(path, { size: 1024, preallocation: 'metadata' })).rejects.toThrow('Unsupported preallocation mode: metadata');
    await expect(file.createFile!(path, { preallocation: 'some' })).rejects.toThrow('invalid parameter value: some');
    await expect(file.createFile!(path, { size: 2 ** 52 })).rejects.toThrow('File too large');
    expect(() => statSync(path)).toThrow();
    await expect(file.createFile!(join(folder, 'no', 'x'), {})).rejects.toThrow(`Could not create '${join(folder, 'no', 'x')}': No such file or directory`);
    await expect(file.createFile!(folder, {})).rejects.toThrow(`Could not create '${folder}': Is a directory`);
  });
});
