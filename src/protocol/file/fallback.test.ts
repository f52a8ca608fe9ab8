// The driver without system calls of its own: slower, and correct all the same.
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

vi.stubEnv('VDISK_NATIVE', '0');
const { native } = await import('../../platform/native.js');
const { BlockGraph } = await import('../../block/graph.js');
const { DriverRegistry } = await import('../../block/registry.js');
const { conformanceCases } = await import('../../testing/conformance.js');
const { file } = await import('./index.js');

const folder = mkdtempSync(join(tmpdir(), 'vdisk-fallback-'));
let counter = 0;
const fresh = (content: number | Uint8Array): string => {
  const path = join(folder, `image-${counter++}`);
  writeFileSync(path, typeof content === 'number' ? '' : content);
  if (typeof content === 'number') truncateSync(path, content);
  return path;
};
const graph = new BlockGraph({ drivers: new DriverRegistry([file]) });
const open = (filename: string, extra: object = {}) => graph.openBackend({ driver: 'file', filename, discard: 'unmap', ...extra });
beforeAll(() => { expect(native()).toBeUndefined(); });
afterAll(async () => {
  await graph.close();
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

describe('file without system calls', () => {
  for (const { name, run } of conformanceCases({
    drivers: [file], size: 1 << 20, persistent: true, fresh: async (wrap) => wrap({ driver: 'file', filename: fresh(1 << 20) }),
  })) it(name, run);

  it('says what it cannot', async () => {
    const { ops } = (await open(fresh(4096))).node;
    expect(ops.capabilities).toMatchObject({ write: true, zeroFlags: undefined, discard: false, resize: 'any', growsOnWrite: true });
    expect(await ops.status(0, 4096, true)).toEqual({ kind: 'data', length: 4096 });
    expect(ops.facet('copyRange')).toBeUndefined();
    await expect(open(fresh(4096), { locking: 'on' })).rejects.toThrow('File lock requested but OFD locking syscall is unavailable');
  });

  it('zeroes by writing, reserves by writing', async () => {
    const path = fresh(new Uint8Array(1 << 20).fill(1));
    const disk = await open(path);
    await disk.writeZeroes(1000, 500_000);
    await disk.discard(0, 1000);
    await disk.resize(2 << 20, { preallocation: 'falloc' });
    await disk.close();
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(2 << 20);
    const content = readFileSync(path);
    expect([content[999], content[1000], content[500_999], content[501_000]]).toEqual([1, 0, 0, 1]);
  });

  it('goes past the page cache all the same', async () => {
    const path = fresh(new Uint8Array(10_000).fill(3));
    const disk = await open(path, { cache: { direct: true } }).catch((error: Error) => {
      expect(error.message).toContain('Invalid argument'); // the file system has no O_DIRECT
    });
    if (!disk) return;
    await disk.write(100, new Uint8Array([1, 2]));
    const target = new Uint8Array(10_000);
    await disk.read(0, target);
    expect([target[99], target[100], target[101], target[102], target[9999]]).toEqual([3, 1, 2, 3, 3]);
  });
});
