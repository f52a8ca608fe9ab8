import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { Perm } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { raw } from '../../format/raw/index.js';
import { native } from '../../platform/native.js';
import { file } from './index.js';

const qemuIo = process.env['QEMU_IO_PROG'] ?? '/usr/bin/qemu-io';
const hasPeer = existsSync(qemuIo);
if (!hasPeer) console.warn('NOT TESTED: locks against a real qemu-io (install qemu-utils)');
const folder = mkdtempSync(join(tmpdir(), 'vdisk-locks-'));
const path = join(folder, 'image.raw');
const hint = `Is another process using the image [${path}]?`;
let graph: BlockGraph;
let peer: ChildProcess | undefined;

beforeEach(() => {
  graph = new BlockGraph({ drivers: new DriverRegistry([file, raw]) });
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
});
afterEach(async () => {
  await graph.close();
  if (peer === undefined) return;
  const gone = new Promise((resolve) => peer!.once('exit', resolve));
  peer.kill();
  await gone;
  peer = undefined;
});
afterAll(() => rmSync(folder, { recursive: true }));

type Access = { readonly readOnly?: boolean; readonly forceShare?: boolean; readonly share?: number; readonly take?: number };
const open = (access: Access = {}, options: object = {}): Promise<BlockBackend> =>
  graph.openBackend({ driver: 'raw', file: { driver: 'file', filename: path, ...options } }, access);
async function refusal(attempt: Promise<unknown>): Promise<BlockError> {
  const error = await attempt.then(() => undefined, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(BlockError);
  return error as BlockError;
}

/** Bytes of the file that we or the peer hold read-locked. The list of all locks, /proc/locks, is not to be had at one moment. */
function lockedBytes(): number[] {
  const bytes = new Set<number>();
  for (const pid of [process.pid, ...(peer === undefined ? [] : [peer.pid!])]) {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      try {
        if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== path) continue;
        for (const [, first, last] of readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8').matchAll(/^lock:.* OFDLCK .* READ .* (\d+) (\d+)$/gm)) {
          for (let byte = Number(first); byte <= Number(last); byte++) bytes.add(byte);
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // closed meanwhile
      }
    }
  }
  return [...bytes].sort((a, b) => a - b);
}

/** A qemu-io that has the image open until the test ends. */
async function startPeer(...options: string[]): Promise<void> {
  peer = spawn(qemuIo, ['-f', 'raw', ...options, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  peer.stdin!.write('length\n');
  await new Promise((resolve) => peer!.stdout!.once('data', resolve));
}
const runPeer = (...options: string[]): string => spawnSync(qemuIo, ['-f', 'raw', '-c', 'length', ...options, path], { encoding: 'utf8' }).stderr;

describe.skipIf(native() === undefined)('locks between processes', () => {
  it('holds bytes for what is used and for what is not shared', async () => {
    const disk = await open({ take: Perm.CONSISTENT_READ | Perm.WRITE, share: Perm.CONSISTENT_READ });
    expect(lockedBytes()).toEqual([100, 101, 201, 203]);
    await disk.close();
    expect(lockedBytes()).toEqual([]);
  });

  it('holds nothing with locking=off or for users that share everything', async () => {
    await open({}, { locking: 'off' });
    await open({ take: 0, share: Perm.ALL, readOnly: true });
    expect(lockedBytes()).toEqual([]);
  });

  it('follows the users of a node as they come and go', async () => {
    const node = await graph.open({ driver: 'file', filename: path });
    const reader = graph.attach(node, { take: Perm.CONSISTENT_READ, share: Perm.ALL });
    expect(lockedBytes()).toEqual([100]);
    const writer = graph.attach(node, { take: Perm.WRITE, share: Perm.ALL & ~Perm.RESIZE });
    expect(lockedBytes()).toEqual([100, 101, 203]);
    await writer.close();
    expect(lockedBytes()).toEqual([100]);
    await graph.release(node);
    await reader.close();
  });

  it('keeps its locks when access changes in place', async () => {
    const node = await graph.open({ driver: 'file', filename: path });
    const reader = graph.attach(node, { take: Perm.CONSISTENT_READ, share: Perm.CONSISTENT_READ });
    const before = lockedBytes();
    await graph.reopen(node, { readOnly: true });
    expect(lockedBytes()).toEqual(before);
    await graph.release(node);
    await reader.close();
  });

  it('refuses a second writer in the words of the peer, and names the holder beside them', async () => {
    await open({ share: Perm.CONSISTENT_READ });
    const error = await refusal(new BlockGraph({ drivers: new DriverRegistry([file, raw]) }).openBackend({ driver: 'raw', file: { driver: 'file', filename: path } }));
    expect(error.code).toBe('PERMISSION_CONFLICT');
    expect(error.message).toBe('Failed to get "write" lock');
    expect(error.context.hint).toBe(hint);
    expect(error.context.holder).toMatch(new RegExp(`^process ${process.pid} \\(.+\\)$`));
  });

  it('a refused change leaves the former locks', async () => {
    const other = openSync(path, 'r+');
    native()!.lock(other, 'read', 203, 1);
    const node = await graph.open({ driver: 'file', filename: path });
    const reader = graph.attach(node, { take: Perm.CONSISTENT_READ, share: Perm.ALL });
    expect(() => graph.attach(node, { take: Perm.RESIZE, share: Perm.CONSISTENT_READ })).toThrow('Failed to get "resize" lock');
    native()!.lock(other, 'none', 203, 1);
    expect(lockedBytes()).toEqual([100]);
    native()!.lock(other, 'write', 101, 1);
    expect(() => graph.attach(node, { take: Perm.WRITE, share: Perm.ALL })).toThrow('Failed to lock byte 101');
    closeSync(other);
    await graph.release(node);
    await reader.close();
  });

  it('does not empty a file that is in use', async () => {
    writeFileSync(path, 'precious');
    await open({ share: Perm.CONSISTENT_READ });
    expect((await refusal(file.createFile!(path, {}))).message).toBe('Failed to get "write" lock');
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });
});

describe.skipIf(native() === undefined || !hasPeer)('locks against a real QEMU', () => {
  it('each of its modes is met', async () => {
    await startPeer();
    expect(lockedBytes()).toEqual([100, 101]);
    await open({ share: Perm.ALL }); // it shares writing, and so do we
    const error = await refusal(open({ share: Perm.CONSISTENT_READ }));
    expect(error.message).toBe('Failed to get shared "write" lock');
  });

  it('its exclusive writer keeps us out, and is named', async () => {
    peer = spawn(qemuIo, ['-c', 'open -o driver=blkdebug,image.driver=file,image.filename=' + path + ',take-child-perms.0=write,unshare-child-perms.0=write,unshare-child-perms.1=resize', '-c', 'sleep 20000'], { stdio: 'ignore' });
    for (let tries = 0; !lockedBytes().includes(201) && tries < 3000; tries++) await new Promise((resolve) => { setTimeout(resolve, 10); });
    const error = await refusal(open());
    expect(error.message).toBe('Failed to get "write" lock');
    expect(error.context.holder).toBe(`process ${peer.pid} (qemu-io)`);
    await open({ readOnly: true, share: Perm.ALL });
    await open({ readOnly: true, forceShare: true });
  });

  it('it is kept out by us, with its own words', async () => {
    await open({ share: Perm.CONSISTENT_READ });
    expect(runPeer()).toBe(`qemu-io: can't open device ${path}: Failed to get "write" lock\n${hint}\n`);
    expect(runPeer('-r')).toBe('');
    await graph.close();
    expect(runPeer()).toBe('');
  });
});
