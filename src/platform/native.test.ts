import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { Fallocate, native, nativeReport, Seek } from './native.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-native-'));
afterAll(() => rmSync(folder, { recursive: true }));
const EBADF = 9;
const EAGAIN = 11;
const ENXIO = 6;

const calls = native();
describe.skipIf(calls === undefined)('native', () => {
  const n = calls!;

  it('reads and writes where it is told, into any kind of view', () => {
    const path = join(folder, 'rw');
    const fd = openSync(path, 'w+');
    for (const source of [Buffer.from('hello'), new Uint8Array([1, 2, 3]), new Uint8Array(100_000).fill(7), new Uint8Array(10).fill(9).subarray(3, 8)]) {
      expect(n.write(fd, source, 4097)).toBe(source.length);
      const target = new Uint8Array(source.length + 4).fill(0xee);
      expect(n.read(fd, target.subarray(2, 2 + source.length), 4097)).toBe(source.length);
      expect(Buffer.compare(target.subarray(2, -2), source)).toBe(0);
      expect([...target.subarray(0, 2), ...target.subarray(-2)]).toEqual([0xee, 0xee, 0xee, 0xee]);
      const now = n.readNow(fd, target, 4097);
      if (now > 0) expect(Buffer.compare(target.subarray(0, source.length), source)).toBe(0);
    }
    closeSync(fd);
    expect(n.read(fd, new Uint8Array(1), 0)).toBe(-EBADF);
  });

  it('sees data and holes beyond 4 GiB, and makes them', async () => {
    const path = join(folder, 'sparse');
    const fd = openSync(path, 'w+');
    ftruncateSync(fd, 2 ** 40);
    expect(n.seek(fd, 0, Seek.DATA)).toBe(-ENXIO);
    const at = 5 * 2 ** 32;
    writeSync(fd, Buffer.alloc(1 << 20, 1), 0, 1 << 20, at);
    expect(n.seek(fd, 0, Seek.DATA)).toBe(at);
    expect(n.seek(fd, at, Seek.HOLE)).toBe(at + (1 << 20));
    expect(await n.allocateLater(fd, Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, at, 1 << 19)).toBe(0);
    expect(n.seek(fd, 0, Seek.DATA)).toBe(at + (1 << 19));
    expect(n.allocate(fd, 0, 0, 1 << 20)).toBe(0);
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(3 << 19);
    closeSync(fd);
  });

  it('gives the errno of a call made on another thread', async () => {
    expect(await Promise.all([n.allocateLater(-1, 0, 0, 1), n.copyRangeLater(-1, 0, -1, 0, 1)])).toEqual([-EBADF, -EBADF]);
  });

  it('locks a range against another description of the same file', () => {
    const path = join(folder, 'lock');
    writeFileSync(path, '');
    const [one, two] = [openSync(path, 'r+'), openSync(path, 'r+')];
    expect(n.lock(one, 'read', 100, 1)).toBe(0);
    expect(n.lockConflicts(one, 'write', 100, 1)).toBe(0);
    expect(n.lockConflicts(two, 'read', 100, 1)).toBe(0);
    expect(n.lockConflicts(two, 'write', 100, 1)).toBe(1);
    expect(n.lock(two, 'write', 100, 1)).toBe(-EAGAIN);
    expect(n.lock(one, 'none', 100, 1)).toBe(0);
    expect(n.lock(two, 'write', 100, 1)).toBe(0);
    closeSync(one);
    closeSync(two);
  });

  it('counts the waits of this thread', () => {
    const before = n.waits();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    expect(n.waits()).toBeGreaterThan(before);
  });

  it('copies inside the kernel', async () => {
    const [from, to] = [join(folder, 'from'), join(folder, 'to')];
    writeFileSync(from, 'abcdefghij');
    writeFileSync(to, '..........');
    const [source, target] = [openSync(from, 'r'), openSync(to, 'r+')];
    expect(await n.copyRangeLater(source, 2, target, 4, 3)).toBe(3);
    expect(readFileSync(to, 'latin1')).toBe('....cde...');
    expect(n.sendfile(target, source, 8, 10)).toBe(2);
    expect(readFileSync(to, 'latin1')).toBe('ij..cde...');
    closeSync(source);
    closeSync(target);
  });
});

it('VDISK_NATIVE=0 switches it off, and the report says what is lost', async () => {
  vi.stubEnv('VDISK_NATIVE', '0');
  vi.resetModules();
  const fresh = await import('./native.js');
  expect(fresh.native()).toBeUndefined();
  vi.unstubAllEnvs();
  expect(fresh.nativeReport().reason).toBe('VDISK_NATIVE=0 switches it off');
  expect(fresh.nativeReport().lost.join(' ')).toContain('not locked');
  if (calls !== undefined) expect(nativeReport()).toEqual({ available: true, lost: [] });
});
