import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, statfsSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { native } from '../../platform/native.js';
import { conformanceCases } from '../../testing/conformance.js';
import { probeAlignment } from './direct.js';
import { file } from './index.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-direct-'));
const graph = new BlockGraph({ drivers: new DriverRegistry([file]) });
const tmpfs = 0x01021994;
let counter = 0;
const fresh = (size: number): string => {
  const path = join(folder, `image-${counter++}`);
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
};
const open = (filename: string): Promise<BlockBackend> => graph.openBackend({ driver: 'file', filename, discard: 'unmap', cache: { direct: true } });
afterEach(() => graph.close());
afterAll(() => rmSync(folder, { recursive: true }));

function hasDirect(): boolean {
  try {
    closeSync(openSync(fresh(0), constants.O_RDWR | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}

describe.skipIf(!hasDirect())('file with cache.direct', () => {
  for (const { name, run } of conformanceCases({
    drivers: [file], size: 1 << 20, persistent: true,
    fresh: async (wrap) => wrap({ driver: 'file', filename: fresh(1 << 20), cache: { direct: true } }),
  })) it(name, run);

  it('asks for aligned requests, and finds the same alignment by trying', async () => {
    const path = fresh(1 << 20);
    const { requestAlignment } = (await open(path)).node.ops.limits;
    expect([512, 4096]).toContain(requestAlignment);
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
    expect(probeAlignment(fd)).toBe(requestAlignment);
    closeSync(fd);
  });

  it('reads the odd end of a file, zeroes after it', async () => {
    const path = fresh(0);
    writeFileSync(path, new Uint8Array(5000).fill(7));
    const disk = await open(path);
    const target = new Uint8Array(1000);
    await disk.read(4000, target);
    expect(target.every((byte) => byte === 7)).toBe(true);
    const whole = new Uint8Array(8192).fill(1);
    await disk.node.ops.read(0, whole, 0);
    expect([whole[4999], whole[5000], whole[8191]]).toEqual([7, 0, 0]);
  });

  it('serves more and larger requests at once than it has memory for', async () => {
    const path = fresh(32 << 20);
    const disk = await open(path);
    await Promise.all(Array.from({ length: 10 }, (_, index) => disk.write(index * (3 << 20), new Uint8Array(3 << 20).fill(index + 1))));
    const content = readFileSync(path);
    for (let at = 0; at < 30 << 20; at += 4096) expect(content[at]).toBe(Math.floor(at / (3 << 20)) + 1);
  });

  it('does not cut off a write that reached the file but was not yet reported', async () => {
    const path = fresh(0);
    const { ops } = (await open(path)).node;
    const written = ops.write(1 << 20, new Uint8Array(4096).fill(9), 0);
    // The pool's thread writes while this one stands still.
    for (const end = performance.now() + 10_000; statSync(path).size === 0 && performance.now() < end;);
    expect(ops.size).toBe(0);
    await ops.resize(4096, { preallocation: 'off', exact: false, zeroNew: false });
    await written;
    expect(readFileSync(path)[(1 << 20) + 4095]).toBe(9);
    expect(ops.size).toBe((1 << 20) + 4096);
  });

  it('a first growth does not cover a write at the start that was not yet reported', async () => {
    const path = fresh(0);
    const { ops } = (await open(path)).node;
    const written = ops.write(0, new Uint8Array(4096).fill(9), 0);
    for (const end = performance.now() + 10_000; statSync(path).size === 0 && performance.now() < end;);
    await ops.resize(8192, { preallocation: 'off', exact: false, zeroNew: false });
    await written;
    expect(readFileSync(path)[0]).toBe(9);
  });

  it.skipIf(native() === undefined || statfsSync(folder).type === tmpfs)('what is not cached is read elsewhere, and at once when it is', async () => {
    const path = fresh(1 << 20);
    const direct = await open(path);
    await direct.write(0, new Uint8Array(1 << 20).fill(7));
    await direct.close();
    const disk = await graph.openBackend({ driver: 'file', filename: path });
    const target = new Uint8Array(4096);
    const first = disk.read(1 << 19, target);
    expect(first).toBeInstanceOf(Promise);
    await first;
    expect(target.every((byte) => byte === 7)).toBe(true);
    expect(disk.read(1 << 19, target.fill(0))).toBeUndefined();
    expect(target.every((byte) => byte === 7)).toBe(true);
    const whole = new Uint8Array(1 << 20);
    await disk.read(0, whole);
    expect(whole.every((byte) => byte === 7)).toBe(true);
  });

  it('preallocates', async () => {
    const disk = await open(fresh(0));
    await disk.resize(5 << 19, { preallocation: 'full' });
    expect(disk.size).toBe(5 << 19);
    expect(await disk.facet('allocatedSize')!.allocatedSize()).toBeGreaterThanOrEqual(5 << 19);
  });
});
