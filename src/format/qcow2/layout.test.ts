import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Req } from '../../block/driver.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { file } from '../../protocol/file/index.js';
import { raw } from '../raw/index.js';
import { qcow2 } from './index.js';

// The same requests through qemu-io and through this driver end in the same file, byte for byte.

let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-layout-')); });
afterAll(() => rmSync(folder, { recursive: true }));

function tool(name: 'qemu-img' | 'qemu-io', ...parameters: string[]): void {
  execFileSync(process.env[name === 'qemu-img' ? 'QEMU_IMG_PROG' : 'QEMU_IO_PROG'] ?? name, parameters, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
}

type Request =
  | { readonly kind: 'write'; readonly at: number; readonly length: number; readonly fill: number }
  | { readonly kind: 'zero' | 'unmap' | 'discard'; readonly at: number; readonly length: number };

function command(request: Request): string {
  const { at, length } = request;
  switch (request.kind) {
    case 'write': return `write -P ${request.fill} ${at} ${length}`;
    case 'zero': return `write -z ${at} ${length}`;
    case 'unmap': return `write -z -u ${at} ${length}`;
    case 'discard': return `discard ${at} ${length}`;
  }
}

async function play(image: string, requests: readonly Request[]): Promise<void> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([file, qcow2, raw]), gate: () => true });
  const disk = await graph.openBackend({ driver: 'qcow2', discard: 'unmap', file: { driver: 'file', filename: image, discard: 'unmap' } });
  for (const request of requests) {
    const { at, length } = request;
    switch (request.kind) {
      case 'write': await disk.write(at, new Uint8Array(length).fill(request.fill)); break;
      case 'zero': await disk.writeZeroes(at, length); break;
      case 'unmap': await disk.writeZeroes(at, length, Req.MAY_UNMAP); break;
      case 'discard': await disk.discard(at, length); break;
    }
  }
  await graph.close();
}

async function expectSame(options: string, size: number, requests: readonly Request[], prepare: () => void = () => undefined): Promise<void> {
  const [theirs, ours] = [join(folder, 'theirs.qcow2'), join(folder, 'ours.qcow2')];
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', ...(options ? ['-o', options] : []), theirs, String(size));
  prepare();
  copyFileSync(theirs, ours);
  tool('qemu-io', '-d', 'unmap', '-f', 'qcow2', ...requests.flatMap((request) => ['-c', command(request)]), theirs);
  await play(ours, requests);
  expect(Buffer.compare(readFileSync(ours), readFileSync(theirs)), `files differ after ${requests.map(command).join('; ')}`).toBe(0);
}

function requests(size: number): fc.Arbitrary<Request[]> {
  const range = fc.tuple(fc.constantFrom(1, 512, 4096, 65536), fc.nat(), fc.constantFrom(1, 3, 8, 40)).map(([unit, place, count]) => {
    const at = (place % Math.floor(size / unit)) * unit;
    return { at, length: Math.min(size - at, unit * count) };
  });
  const one = fc.tuple(fc.constantFrom('write', 'write', 'zero', 'unmap', 'discard'), range, fc.integer({ min: 1, max: 255 }))
    .map(([kind, place, fill]): Request => (kind === 'write' ? { kind, ...place, fill } : { kind: kind as 'zero', ...place }));
  return fc.array(one, { minLength: 1, maxLength: 10 });
}

describe('where things land', () => {
  const layouts: readonly (readonly [options: string, size: number])[] = [
    ['', 64 << 20], ['cluster_size=512', 2 << 20], ['cluster_size=4k', 16 << 20], ['refcount_bits=1', 64 << 20],
    ['refcount_bits=64,cluster_size=512', 4 << 20], ['extended_l2=on', 64 << 20], ['extended_l2=on,cluster_size=16k', 16 << 20],
    ['compat=0.10', 64 << 20],
  ];
  for (const [options, size] of layouts) {
    it(`is where QEMU puts them (${options || 'defaults'})`, async () => {
      await fc.assert(fc.asyncProperty(requests(size), (list) => expectSame(options, size, list)), { numRuns: 6 });
    });
  }

  it('is where QEMU puts them after an internal snapshot', async () => {
    await fc.assert(fc.asyncProperty(requests(8 << 20), (list) => expectSame('cluster_size=4k', 8 << 20, list, () => {
      tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 0 256k', '-c', 'write -P 8 1M 64k', 'theirs.qcow2');
      tool('qemu-img', 'snapshot', '-c', 'x', 'theirs.qcow2');
    })), { numRuns: 8 });
  });

  it('is where QEMU puts them when the refcount table grows', async () => {
    for (const [options, length] of [['cluster_size=512,refcount_bits=64', 5 << 20], ['cluster_size=1k,refcount_bits=32', 36 << 20]] as const) {
      await expectSame(options, 64 << 20, [{ kind: 'write', at: 0, length, fill: 3 }]);
    }
  });
});
