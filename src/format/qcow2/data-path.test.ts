import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { Req } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { file } from '../../protocol/file/index.js';
import { memory } from '../../protocol/memory/index.js';
import { raw } from '../raw/index.js';
import { qcow2 } from './index.js';

let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-')); });
afterAll(() => rmSync(folder, { recursive: true }));

function qemuImg(...parameters: string[]): string {
  return execFileSync('qemu-img', parameters, { cwd: folder, encoding: 'utf8' });
}

type Step =
  | { readonly op: 'write' | 'compress'; readonly at: number; readonly length: number; readonly fill: number }
  | { readonly op: 'zero' | 'unmap' | 'discard'; readonly at: number; readonly length: number }
  | { readonly op: 'flush' | 'reopen' };

const layouts = [
  { name: 'v3', options: '', size: 3 << 20 },
  { name: 'v2', options: 'compat=0.10', size: 3 << 20 },
  { name: 'smallest clusters', options: 'cluster_size=512', size: 300 * 512 },
  { name: 'largest clusters', options: 'cluster_size=2M', size: 5 << 20 },
  { name: '1-bit refcounts', options: 'refcount_bits=1,cluster_size=4k', size: 1 << 20 },
  { name: '64-bit refcounts', options: 'refcount_bits=64,cluster_size=512', size: 1 << 18 },
  { name: '2-bit refcounts', options: 'refcount_bits=2,cluster_size=1k', size: 1 << 18 },
  { name: 'subclusters', options: 'extended_l2=on,cluster_size=16k', size: 1 << 20 },
  { name: 'lazy refcounts', options: 'lazy_refcounts=on', size: 1 << 20 },
  { name: 'ends within a cluster', options: '', size: 100 * 1024 + 512 },
  { name: 'zstd', options: 'compression_type=zstd', size: 1 << 20 },
];

function steps(size: number): fc.Arbitrary<Step[]> {
  const unit = 512;
  const range = fc.tuple(fc.nat(size / unit - 1), fc.nat(size / unit)).map(([start, count]) => {
    const at = start * unit;
    return { at, length: Math.min((count % 300) * unit + unit, size - at) };
  });
  const data = fc.tuple(fc.constantFrom('write' as const, 'write' as const, 'compress' as const), range, fc.integer({ min: 1, max: 255 }))
    .map(([op, place, fill]): Step => ({ op, ...place, fill }));
  const empty = fc.tuple(fc.constantFrom('zero' as const, 'unmap' as const, 'discard' as const), range).map(([op, place]): Step => ({ op, ...place }));
  const rest = fc.constantFrom<Step>({ op: 'flush' }, { op: 'reopen' });
  return fc.array(fc.oneof({ arbitrary: data, weight: 5 }, { arbitrary: empty, weight: 3 }, { arbitrary: rest, weight: 1 }), { minLength: 3, maxLength: 14 });
}

class Disk {
  readonly graph = new BlockGraph({ drivers: new DriverRegistry([file, memory, qcow2, raw]), gate: () => true });
  backend!: BlockBackend;
  readonly #filename: string;
  readonly #options: object;

  constructor(filename: string, options: object = {}) {
    this.#filename = filename;
    this.#options = options;
  }

  async open(): Promise<void> {
    this.backend = await this.graph.openBackend({
      driver: 'qcow2', discard: 'unmap', file: { driver: 'file', filename: this.#filename, discard: 'unmap' }, ...this.#options,
    });
  }

  async close(): Promise<void> {
    await this.backend.close();
  }
}

/** What a range reads as, byte for byte, after each step; where discarding leaves a choice, what the disk chose. */
async function play(disk: Disk, model: Uint8Array, clusterSize: number, discardReadsZero: boolean, plan: readonly Step[]): Promise<void> {
  for (const step of plan) {
    const { backend } = disk;
    switch (step.op) {
      case 'write':
        await backend.write(step.at, new Uint8Array(step.length).fill(step.fill));
        model.fill(step.fill, step.at, step.at + step.length);
        break;
      case 'compress': {
        const at = step.at - (step.at % clusterSize);
        const length = Math.min(clusterSize, model.length - at);
        const written = await attempt(() => backend.write(at, new Uint8Array(length).fill(step.fill), Req.COMPRESSED));
        if (written) model.fill(step.fill, at, at + length);
        break;
      }
      case 'zero': case 'unmap':
        await backend.writeZeroes(step.at, step.length, step.op === 'unmap' ? Req.MAY_UNMAP : 0);
        model.fill(0, step.at, step.at + step.length);
        break;
      case 'discard': {
        await backend.discard(step.at, step.length);
        const start = Math.ceil(step.at / clusterSize) * clusterSize;
        const end = step.at + step.length === model.length ? model.length : Math.floor((step.at + step.length) / clusterSize) * clusterSize;
        if (end > start && discardReadsZero) model.fill(0, start, end);
        break;
      }
      case 'flush': await backend.flush(); break;
      case 'reopen': await disk.close(); await disk.open(); break;
    }
  }
  const content = new Uint8Array(model.length);
  await disk.backend.read(0, content);
  expect(Buffer.compare(content, model), 'content').toBe(0);
}

/** Stored clusters cannot be overwritten with compressed ones. */
async function attempt(request: () => unknown): Promise<boolean> {
  try {
    await request();
    return true;
  } catch (error) {
    if (error instanceof BlockError && error.errno === 5) return false;
    throw error;
  }
}

describe('data path', () => {
  for (const [index, layout] of layouts.entries()) {
    it(`keeps what is written (${layout.name})`, async () => {
      const image = join(folder, `${index}.qcow2`);
      await fc.assert(fc.asyncProperty(steps(layout.size), async (plan) => {
        qemuImg('create', '-q', '-f', 'qcow2', ...(layout.options ? ['-o', layout.options] : []), image, String(layout.size));
        const { 'cluster-size': clusterSize } = JSON.parse(qemuImg('info', '--output=json', image)) as { 'cluster-size': number };
        const model = new Uint8Array(layout.size);
        const disk = new Disk(image, { 'l2-cache-size': 0, 'refcount-cache-size': 0 });
        await disk.open();
        await play(disk, model, clusterSize, true, plan);
        await disk.close();
        expect(qemuImg('check', image)).toContain('No errors');
        qemuImg('convert', '-O', 'raw', image, join(folder, 'plain'));
        expect(Buffer.compare(readFileSync(join(folder, 'plain')), model), 'as QEMU reads it').toBe(0);
      }), { numRuns: 8 });
    });
  }

  it('shows the backing file where nothing is written', async () => {
    const size = 1 << 20;
    const base = join(folder, 'base.raw');
    const image = join(folder, 'overlay.qcow2');
    await fc.assert(fc.asyncProperty(steps(size), fc.constantFrom('', 'cluster_size=4k', 'extended_l2=on', 'compat=0.10'), async (plan, options) => {
      qemuImg('create', '-q', '-f', 'raw', base, '700k');
      execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 119 0 700k', base]);
      qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', ...(options ? ['-o', options] : []), image, String(size));
      const { 'cluster-size': clusterSize } = JSON.parse(qemuImg('info', '--output=json', image)) as { 'cluster-size': number };
      const model = new Uint8Array(size).fill(119, 0, 700 * 1024);
      const disk = new Disk(image);
      await disk.open();
      await play(disk, model, clusterSize, !options.includes('compat'), plan);
      await disk.close();
      expect(qemuImg('check', image)).toContain('No errors');
      qemuImg('convert', '-O', 'raw', image, join(folder, 'plain'));
      expect(Buffer.compare(readFileSync(join(folder, 'plain')), model), 'as QEMU reads it').toBe(0);
    }), { numRuns: 12 });
  });
});
