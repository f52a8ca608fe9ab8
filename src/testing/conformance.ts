/**
 * The conformance suite for drivers: what any layer must do, as cases for any test runner.
 *
 * @example
 * for (const { name, run } of conformanceCases({ drivers, size: 1 << 20, fresh: async (wrap) => wrap({ driver: 'memory', size: 1 << 20 }) })) it(name, run);
 */
import type { BlockBackend } from '../block/child.js';
import { Perm, Req, type BlockDriver } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { BlockGraph, type OpenOptions, type OpenSpec } from '../block/graph.js';
import { chainStatus } from '../block/status.js';
import { DriverRegistry } from '../block/registry.js';
import { firstDifference } from '../platform/bytes.js';
import { passthrough } from './passthrough.js';
import { seededRandom } from './random.js';

export interface ConformanceTarget {
  /** Must hold every driver the specs name. */
  readonly drivers: Iterable<BlockDriver>;
  /** Virtual size in bytes of what fresh() makes; a multiple of 64 KiB, at least 512 KiB. */
  readonly size: number;
  /**
   * Makes a new disk that reads as zero and resolves with the spec that opens it. Each spec of a file the disk is stored in goes
   * through `wrap`, by which a composition puts itself below the layer under test.
   */
  fresh(wrap: (file: OpenSpec) => OpenSpec): Promise<OpenSpec>;
  /** Content survives closing and opening the same spec again. */
  readonly persistent?: boolean;
  /** Seed of the random case (default: 1). */
  readonly seed?: number;
}

export interface ConformanceCase {
  readonly name: string;
  run(): Promise<void>;
}

type Composition = 'plain' | 'under a filter' | 'over a 4096-byte-aligned file' | 'read-only';
const compositions: readonly Composition[] = ['plain', 'under a filter', 'over a 4096-byte-aligned file', 'read-only'];

/** All cases for a driver in the four compositions. What a layer's capabilities exclude must be refused cleanly instead. */
export function conformanceCases(target: ConformanceTarget): ConformanceCase[] {
  const drivers = new DriverRegistry([...target.drivers, passthrough]);
  return compositions.flatMap((composition) =>
    cases.filter((entry) => entry.persistent !== true || target.persistent === true).map((entry) => ({
      name: `${composition}: ${entry.name}`,
      run: async () => {
        const graph = new BlockGraph({ drivers, gate: () => true });
        const align = composition === 'over a 4096-byte-aligned file' ? 4096 : undefined;
        const made = await target.fresh((file) => (align === undefined ? file : { driver: 'passthrough', align, file: graph.toOptions(file) }));
        const spec = composition === 'under a filter' ? { driver: 'passthrough', file: graph.toOptions(made) } : made;
        const readOnly = composition === 'read-only';
        const open = (options: OpenOptions = {}): Promise<BlockBackend> => graph.openBackend(spec, { discard: 'unmap', readOnly, ...options });
        try {
          await entry.run({ open, target, readOnly });
        } finally {
          await graph.close();
        }
      },
    })));
}

interface Situation {
  readonly target: ConformanceTarget;
  readonly readOnly: boolean;
  open(options?: OpenOptions): Promise<BlockBackend>;
}

const cases: readonly { readonly name: string; readonly persistent?: boolean; run(situation: Situation): Promise<void> }[] = [
  {
    name: 'a fresh disk has its size and reads as zero',
    run: async ({ open, target }) => {
      const disk = await open();
      check(disk.size === target.size, `size ${disk.size}, expected ${target.size}`);
      await expectContent(disk, new Uint8Array(target.size));
    },
  },
  {
    name: 'writes are read back, neighbours untouched',
    run: async (situation) => {
      const disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const model = new Uint8Array(situation.target.size);
      for (const [offset, length] of [[0, 512], [65_000, 1_000], [131_072, 65_536], [situation.target.size - 7, 7], [200_001, 3]] as const) {
        const data = pattern(length, offset);
        await disk.write(offset, data);
        model.set(data, offset);
      }
      await expectContent(disk, model);
    },
  },
  {
    name: 'requests beyond the end are refused and change nothing',
    run: async (situation) => {
      const disk = await situation.open();
      const { size } = situation.target;
      await expectError(() => disk.read(size - 256, new Uint8Array(512)), 'OUT_OF_RANGE');
      await expectError(() => disk.write(size - 256, new Uint8Array(512).fill(1)), 'OUT_OF_RANGE');
      await expectError(() => disk.read(-1, new Uint8Array(1)), 'OUT_OF_RANGE');
      await expectError(() => disk.read(Number.MAX_SAFE_INTEGER, new Uint8Array(8)), 'OUT_OF_RANGE');
      await expectContent(disk, new Uint8Array(size));
    },
  },
  {
    name: 'empty requests succeed',
    run: async (situation) => {
      const disk = await situation.open();
      await disk.read(0, new Uint8Array(0));
      if (!situation.readOnly && disk.node.ops.capabilities.write) {
        await disk.write(0, new Uint8Array(0));
        await disk.writeZeroes(0, 0);
        await disk.discard(0, 0);
      }
    },
  },
  {
    name: 'zeroed ranges read as zero, with and without unmapping',
    run: async (situation) => {
      const disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const model = pattern(situation.target.size, 5);
      await disk.write(0, model);
      for (const [offset, length, flags] of [[65_536, 65_536, 0], [3, 700, 0], [196_608, 131_072, Req.MAY_UNMAP], [100_000, 100_000, Req.MAY_UNMAP | Req.FUA]] as const) {
        await disk.writeZeroes(offset, length, flags);
        model.fill(0, offset, offset + length);
        await expectContent(disk, model);
      }
    },
  },
  {
    name: 'discard leaves other ranges alone',
    run: async (situation) => {
      const disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const model = pattern(situation.target.size, 9);
      await disk.write(0, model);
      await disk.discard(65_536, 131_072);
      const seen = new Uint8Array(situation.target.size);
      await disk.read(0, seen);
      expectEqual(seen.subarray(0, 65_536), model.subarray(0, 65_536), 0);
      expectEqual(seen.subarray(196_608), model.subarray(196_608), 196_608);
    },
  },
  {
    name: 'status covers the disk, and what it calls zero reads as zero',
    run: async (situation) => {
      const disk = await situation.open();
      if (!situation.readOnly && disk.node.ops.capabilities.write) {
        await disk.write(131_072, pattern(70_000, 3));
        await disk.writeZeroes(131_072, 4096);
      }
      const { size } = situation.target;
      for (let at = 0, steps = 0; at < size; steps++) {
        check(steps < 100_000, 'status does not get on');
        const status = await chainStatus(disk.node, at, size - at);
        check(status.length > 0 && at + status.length <= size, `status at ${at} covers ${status.length} bytes`);
        if (status.zero) {
          const seen = new Uint8Array(status.length);
          await disk.read(at, seen);
          expectEqual(seen, new Uint8Array(status.length), at);
        }
        at += status.length;
      }
    },
  },
  {
    name: 'parallel requests to different places do not disturb each other',
    run: async (situation) => {
      const disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const model = new Uint8Array(situation.target.size);
      const piece = 1_536;
      const writes: (void | Promise<void>)[] = [];
      for (let offset = 0; offset + piece <= model.length; offset += piece) {
        const data = pattern(piece, offset);
        model.set(data, offset);
        writes.push(disk.write(offset, data));
        if (offset % (piece * 20) === 0) writes.push(disk.flush());
      }
      await Promise.all(writes);
      await expectContent(disk, model);
    },
  },
  {
    name: 'random requests match a plain byte array',
    run: async (situation) => {
      const disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const { size, seed = 1 } = situation.target;
      const model = new Uint8Array(size);
      const random = seededRandom(seed);
      for (let step = 0; step < 300; step++) {
        const length = 1 + Math.floor(random() ** 3 * 150_000);
        const offset = Math.floor(random() * (size - length + 1));
        const what = random();
        if (what < 0.5) {
          const data = pattern(length, step + 1);
          await disk.write(offset, data, random() < 0.1 ? Req.FUA : 0);
          model.set(data, offset);
        } else if (what < 0.65) {
          await disk.writeZeroes(offset, length, random() < 0.5 ? Req.MAY_UNMAP : 0);
          model.fill(0, offset, offset + length);
        } else {
          const seen = new Uint8Array(length);
          await disk.read(offset, seen);
          expectEqual(seen, model.subarray(offset, offset + length), offset, `seed ${seed}, step ${step}`);
        }
      }
      await expectContent(disk, model);
    },
  },
  {
    name: 'resize keeps content and zeroes what is new',
    run: async (situation) => {
      const disk = await situation.open();
      const { size } = situation.target;
      const { resize, growsNoise } = disk.node.ops.capabilities;
      if (disk.node.readOnly) return expectError(() => disk.resize(size * 2), 'PERMISSION');
      if (resize === 'none') return expectError(() => disk.resize(size * 2), 'NOT_SUPPORTED');
      const options = { zeroNew: growsNoise === true };
      const model = new Uint8Array(size * 2);
      const data = pattern(size, 11);
      await disk.write(0, data);
      model.set(data);
      await disk.resize(size * 2, options);
      check(disk.size === size * 2, `size after growing: ${disk.size}`);
      await expectContent(disk, model);
      if (resize !== 'any') return;
      await disk.resize(size / 2);
      await disk.writeZeroes(0, size / 4, Req.MAY_UNMAP);
      await disk.write(size / 4, data.subarray(0, size / 8));
      await disk.resize(size, options);
      model.fill(0, 0, size / 4);
      model.set(data.subarray(0, size / 8), size / 4);
      model.fill(0, size / 2);
      await expectContent(disk, model.subarray(0, size));
    },
  },
  {
    name: 'what was flushed is there after reopening',
    persistent: true,
    run: async (situation) => {
      let disk = await situation.open();
      if (!await writable(disk, situation)) return;
      const model = new Uint8Array(situation.target.size);
      const data = pattern(123_456, 21);
      await disk.write(77_777, data);
      model.set(data, 77_777);
      await disk.close();
      disk = await situation.open({ readOnly: true });
      await expectContent(disk, model);
    },
  },
];

/** Whether the disk takes writes; if not, checks that it says so and changes nothing. */
async function writable(disk: BlockBackend, { readOnly, target }: Situation): Promise<boolean> {
  if (!readOnly && disk.node.ops.capabilities.write) return true;
  disk.take |= Perm.WRITE;
  await expectError(() => disk.write(0, new Uint8Array(512).fill(1)), 'PERMISSION');
  await expectError(() => disk.writeZeroes(0, 512), 'PERMISSION');
  await expectContent(disk, new Uint8Array(target.size));
  return false;
}

function check(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}

async function expectContent(disk: BlockBackend, expected: Uint8Array): Promise<void> {
  const seen = new Uint8Array(expected.length).fill(0xee);
  await disk.read(0, seen);
  expectEqual(seen, expected, 0);
}

function expectEqual(seen: Uint8Array, expected: Uint8Array, offset: number, where = ''): void {
  const at = firstDifference(seen, expected);
  check(at === -1, `content differs at ${offset + at}: ${seen[at]}, expected ${expected[at]} ${where}`);
}

async function expectError(request: () => unknown, code: string): Promise<void> {
  try {
    await request();
  } catch (error) {
    check(error instanceof BlockError && error.code === code, `expected ${code}, got ${String(error)}`);
    return;
  }
  throw new Error(`expected ${code}, but the request succeeded`);
}

/** Bytes that differ with place and seed and are never zero. */
function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + ((i * 31 + (i >> 9) * 7 + seed * 131) % 255);
  return bytes;
}
