// What needs the superuser: a full file system, block devices.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { Req } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { raw } from '../../format/raw/index.js';
import { conformanceCases } from '../../testing/conformance.js';
import { file, hostDevice } from './index.js';

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('NOT TESTED: full file systems and block devices (needs root)');
const folder = mkdtempSync(join(tmpdir(), 'vdisk-host-'));
const graph = new BlockGraph({ drivers: new DriverRegistry([file, hostDevice, raw]) });
afterEach(() => graph.close());
afterAll(() => rmSync(folder, { recursive: true }));

async function failure(attempt: Promise<unknown>): Promise<BlockError> {
  const error = await attempt.then(() => undefined, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(BlockError);
  return error as BlockError;
}

describe.skipIf(!isRoot)('a full file system', () => {
  const mounted = join(folder, 'small');
  mkdirSync(mounted, { recursive: true });
  if (isRoot) execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mounted]);
  afterAll(() => { execFileSync('umount', [mounted]); });

  it('fails writes, zeroes and preallocation with NO_SPACE, and goes on', async () => {
    const path = join(mounted, 'image');
    const disk = await (async () => {
      await file.createFile!(path, {});
      return graph.openBackend({ driver: 'file', filename: path, discard: 'unmap' });
    })();
    await disk.resize(4 << 20);
    const results = await Promise.allSettled(Array.from({ length: 8 }, async (_, index) => disk.write(index << 18, new Uint8Array(1 << 18).fill(1))));
    const refused = results.filter((result) => result.status === 'rejected').map(({ reason }) => reason as BlockError);
    expect(refused.length).toBeGreaterThanOrEqual(4);
    for (const error of refused) {
      expect(error).toMatchObject({ code: 'NO_SPACE', message: 'No space left on device', context: { errno: 28, op: 'write' } });
    }
    expect((await failure((async () => disk.writeZeroes(0, 4 << 20))())).code).toBe('NO_SPACE');
    expect(await failure(disk.resize(8 << 20, { preallocation: 'falloc' }))).toMatchObject({ code: 'NO_SPACE', message: 'Could not preallocate new data: No space left on device' });
    expect(await failure(disk.resize(8 << 20, { preallocation: 'full' }))).toMatchObject({ code: 'NO_SPACE', message: 'Could not write zeros for preallocation: No space left on device' });
    expect(statSync(path).size).toBe(4 << 20);
    await disk.discard(0, 4 << 20);
    await disk.write(0, new Uint8Array(1 << 19));
    await disk.flush();
  });

  it('leaves no file that could not be preallocated', async () => {
    const path = join(mounted, 'large');
    for (const preallocation of ['falloc', 'full']) {
      expect((await failure(file.createFile!(path, { size: 8 << 20, preallocation }))).code).toBe('NO_SPACE');
      expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
    }
  });
});

/** A loop device over a new file; undefined where the machine has none. */
function attachLoop(size: number): { device: string; backing: string; detach(): void } | undefined {
  const backing = join(mkdtempSync(join(folder, 'loop-')), 'backing');
  writeFileSync(backing, '');
  truncateSync(backing, size);
  try {
    const device = execFileSync('losetup', ['-f', '--show', backing], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return { device, backing, detach: () => { execFileSync('losetup', ['-d', device]); } };
  } catch {
    console.warn('NOT TESTED: host_device (no loop devices)');
    return undefined;
  }
}

const loop = isRoot ? attachLoop(1 << 20) : undefined;
afterAll(() => loop?.detach());

describe.skipIf(loop === undefined)('host_device', () => {
  const { device, backing } = loop!;

  for (const direct of [false, true]) {
    for (const { name, run } of conformanceCases({
      drivers: [hostDevice], size: 1 << 20, persistent: true,
      fresh: async (wrap) => {
        expect(spawnSync('blkdiscard', ['-f', '-z', device]).status).toBe(0);
        return wrap({ driver: 'host_device', filename: device, cache: { direct } });
      },
    }).filter(({ name }) => !name.includes('resize'))) it(`${direct ? 'past' : 'through'} the page cache, ${name}`, run);
  }

  it('has the size of the device, which does not change', async () => {
    const disk = await graph.openBackend(device, { driver: 'raw' });
    expect(disk.node.children.get('file')?.node.driver.name).toBe('host_device');
    expect(disk.size).toBe(1 << 20);
    await expect(disk.resize(2 << 20)).rejects.toThrow('Cannot resize device files');
    await expect(disk.resize(1024)).rejects.toThrow('Cannot resize device files');
    await expect(file.open({ options: { filename: device } } as never)).rejects.toThrow(`'file' driver requires '${device}' to be a regular file`);
    await expect(hostDevice.createFile!(device, { size: 2 << 20 })).rejects.toThrow('Cannot grow device files');
    await hostDevice.createFile!(device, { size: 1 << 19 });
  });

  it('discards to the device', async () => {
    const disk = await graph.openBackend({ driver: 'host_device', filename: device, discard: 'unmap' });
    await disk.write(0, new Uint8Array(1 << 20).fill(1));
    await disk.flush();
    const full = statSync(backing).blocks;
    await disk.discard(0, 1 << 19);
    expect(statSync(backing).blocks).toBeLessThan(full);
    await disk.writeZeroes(1 << 19, 1 << 18, Req.MAY_UNMAP);
    const target = new Uint8Array(1 << 19);
    await disk.read(1 << 19, target);
    expect(target.subarray(0, 1 << 18).every((byte) => byte === 0)).toBe(true);
    expect(target.subarray(1 << 18).every((byte) => byte === 1)).toBe(true);
  });
});
