/**
 * Hostile images: valid ones with header, tables and directories damaged by a seed. Whatever they say, opening, reading, checking
 * and mapping end in time, in bounded memory, with a BlockError or a result.
 */
import { expect } from 'vitest';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBackend } from '../../src/block/child.js';
import { createImageFile } from '../../src/block/create.js';
import type { BlockDriver } from '../../src/block/driver.js';
import { BlockError } from '../../src/block/errors.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { blockStatus } from '../../src/block/status.js';
import { createRegistry } from '../../src/drivers.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { testSeed } from '../support/seed.js';

/** Images per kind, all in all VDISK_FUZZ_CASES (default 1,500) per format. */
export const fuzzCases = Number(process.env['VDISK_FUZZ_CASES'] ?? 1_500);

/** The bytes of an image of 4 MiB, made by its driver and filled by `fill`. */
export async function seedImage(format: string, options: Record<string, string | number | boolean>, fill: (disk: BlockBackend) => Promise<void>): Promise<Uint8Array> {
  const dir = mkdtempSync(join(tmpdir(), 'vdisk-fuzz-'));
  const filename = join(dir, 'seed.img');
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  await createImageFile(graph, { filename, format, size: 1 << 22, options });
  const disk = await graph.openBackend(filename, { driver: format, discard: 'unmap' });
  await fill(disk);
  await disk.close();
  const bytes = new Uint8Array(readFileSync(filename));
  rmSync(dir, { recursive: true });
  return bytes;
}

const interesting = [0, 1, 2, 3, 7, 8, 31, 0x7f, 0x80, 0xff, 0x200, 0xfffe, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff];

/** A part of an image that is worth damaging. */
export interface Target {
  readonly offset: number;
  readonly length: number;
}

/** A copy with a few fields overwritten, most of them in the targets, or cut short. */
function damage(image: Uint8Array, targets: readonly Target[], random: () => number): Uint8Array {
  let copy = image.slice();
  const view = new DataView(copy.buffer);
  for (let n = 1 + Math.floor(random() * 4); n > 0; n--) {
    const inTarget = random() < 0.6;
    const { offset, length } = inTarget ? targets[targets.length === 1 ? 0 : Math.floor(random() * targets.length)]! : { offset: 0, length: copy.length };
    const at = offset + (Math.floor(random() * (length - 8)) & ~3);
    const value = random() < 0.7 ? interesting[Math.floor(random() * interesting.length)]! : Math.floor(random() * 2 ** 32);
    if (random() < 0.5) view.setUint32(at, value, random() < 0.5);
    else copy[at + Math.floor(random() * 8)] = value & 0xff;
  }
  if (random() < 0.1) copy = copy.slice(0, Math.floor(random() * copy.length));
  return copy;
}

async function visit(driver: BlockDriver, image: Uint8Array, readOnly: boolean): Promise<void> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([driver, recorderDriver(new Recording(image))]) });
  try {
    const disk = await graph.openBackend({ driver: driver.name, file: { driver: 'recorder' } }, { readOnly, check: true, discard: 'unmap' });
    const buffer = new Uint8Array(128 * 1024);
    for (let at = 0, steps = 0; at + buffer.length <= Math.min(disk.size, 1 << 22) && steps < 40; at += buffer.length, steps++) {
      await attempt(() => disk.read(at, buffer));
      if (!disk.readOnly) await attempt(() => disk.write(at + 1, buffer.subarray(0, 5000)));
    }
    let at = 0;
    for (let steps = 0; at < disk.size && steps < 200; steps++) {
      const status = await attempt(() => blockStatus(disk.node, at, disk.size - at));
      if (status === undefined) break;
      expect(status.length).toBeGreaterThan(0);
      at += status.length;
    }
    await attempt(async () => disk.node.facet('check')?.check({ repair: readOnly ? 'none' : 'all' }));
    await attempt(async () => disk.node.facet('snapshots')?.list());
    await attempt(() => disk.close());
  } finally {
    await attempt(() => graph.close());
  }
}

async function attempt<T>(step: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    return undefined;
  }
}

export interface HostileOptions {
  /** Most damage is done in the first so many bytes … */
  readonly headerBytes?: number;
  /** … or, instead, in one of these parts. */
  readonly targets?: readonly Target[];
  /** False: only opened read-only. */
  readonly writable?: boolean;
  /** Makes checksums right again, so that what they protect is looked at. */
  readonly mend?: (image: Uint8Array) => void;
}

/** Damages the seed in `count` ways; each must be survived within 10 s of processor time and 256 MiB. */
export async function surviveHostile(
  driver: BlockDriver, seed: Uint8Array, count: number,
  { headerBytes = 160, targets = [{ offset: 0, length: headerBytes }], writable = true, mend }: HostileOptions = {}): Promise<void> {
  for (let n = 0; n < count; n++) {
    const image = damage(seed, targets, seededRandom((testSeed - 1) * 1e6 + n * 4 + 1));
    mend?.(image);
    const started = process.cpuUsage();
    const before = process.memoryUsage();
    try {
      await attempt(() => visit(driver, image, !writable || n % 2 === 0));
    } catch (error) {
      throw new Error(`seed ${testSeed}, case ${n}: ${String((error as Error).stack)}`);
    }
    const { user, system } = process.cpuUsage(started);
    const elapsed = (user + system) / 1000;
    const after = process.memoryUsage();
    const grown = after.arrayBuffers + after.heapUsed - before.arrayBuffers - before.heapUsed;
    expect(elapsed, `seed ${testSeed}, case ${n} took ${elapsed} ms of processor time`).toBeLessThan(10_000);
    expect(grown, `seed ${testSeed}, case ${n} took ${grown} bytes`).toBeLessThan(256 << 20);
  }
}
