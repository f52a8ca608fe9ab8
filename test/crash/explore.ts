/** Runs a random workload on a format over a recorder and judges the states a power cut could leave. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockBackend } from '../../src/block/child.js';
import { BlockGraph } from '../../src/block/graph.js';
import { Req, type BlockDriver, type CreateContext } from '../../src/block/driver.js';
import { DriverRegistry } from '../../src/block/registry.js';
import type { OptionValue } from '../../src/block/options.js';
import { crashStates, GuestHistory } from '../../src/testing/power-cut.js';
import { seededRandom } from '../../src/testing/random.js';
import { Recording, recorderDriver } from '../../src/testing/recorder.js';
import { scratchFolder } from '../support/scratch.js';

export interface CrashSetup {
  readonly driver: BlockDriver;
  /** Virtual size in bytes; a multiple of 64 KiB. */
  readonly size: number;
  /** The image is made this large, and grows to `size` while guests write. A multiple of 512. */
  readonly growsFrom?: number;
  /** The image shrinks to this size behind the workload, is written to, grows back to `size`, and is written to again. A multiple of 512. */
  readonly shrinksTo?: number;
  /** While the image has shrunk and not grown back, so many bytes behind its smaller size may hold anything. */
  readonly cutOffMayChange?: number;
  readonly createOptions: Readonly<Record<string, OptionValue>>;
  readonly openOptions?: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly states: number;
  /** Guest requests in the workload. */
  readonly requests: number;
  /** Longest request in sectors (default: 300). */
  readonly maxSectors?: number;
  /** A disk below: how creation opens it, what drivers openOptions name for it, what it shows. */
  readonly parent?: { readonly open: CreateContext['openBacking']; readonly drivers: readonly BlockDriver[]; readonly content: Uint8Array };
  /** What a foreign tool finds wrong with the image in `file`; undefined: nothing that a power cut may not leave. Absent: nobody else can tell. */
  readonly judge?: (run: RunCommand, file: string, image: Uint8Array) => Promise<string | undefined>;
  /** The image says of itself that it must be repaired before its tables are right: our check is not asked then. */
  readonly needsRepair?: (image: Uint8Array) => boolean;
  /** The foreign judge sees one state in so many (default: all); our own check sees them all. */
  readonly judgeEvery?: number;
  /** The format promises less than that all which was flushed is there: only that the image opens and passes its judge. */
  readonly contentMayBeLost?: boolean;
}

/** A disk of `driver` for overlays, full of what none of them writes. */
export async function makeParent(driver: BlockDriver, size: number, createOptions: Readonly<Record<string, OptionValue>> = {}): Promise<Required<Pick<CrashSetup, 'parent' | 'openOptions'>>> {
  const file = { ...recorderDriver(new Recording()), name: 'parent-recorder' };
  const image = { driver: driver.name, file: { driver: file.name } };
  const open = (readOnly: boolean): Promise<BlockBackend> => new BlockGraph({ drivers: new DriverRegistry([driver, file]) }).openBackend(image, { readOnly });
  const target = await new BlockGraph({ drivers: new DriverRegistry([file]) }).openBackend({ driver: file.name });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await driver.create!(target, { ...createOptions, size }, { filename: 'parent', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  await target.close();
  const content = new Uint8Array(size).fill(0xee);
  const disk = await open(false);
  await disk.write(0, content);
  await disk.close();
  return { parent: { open: () => open(true), drivers: [file], content }, openOptions: { backing: image } };
}

/** Runs a shell command; its output is both streams'. */
export type RunCommand = (command: string) => Promise<{ readonly status: number; readonly output: string }>;

const scratch = mkdtempSync(join(scratchFolder, 'vdisk-crash-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

/** What a state holds, whenever it was left. */
interface Found {
  /** The foreign judge's, where it finds fault. */
  readonly verdict: string | undefined;
  /** What guests read, or why they cannot. */
  readonly content: Uint8Array | string;
}

/** Bytes of guest content that are kept while states are explored. */
const rememberedBytes = 1 << 27;

/** Resolves with the failures found: one line each, with what rebuilds the state. */
export async function explore(setup: CrashSetup): Promise<string[]> {
  const { recording, history, shrinking } = await workload(setup);
  const random = seededRandom(setup.seed * 7 + 3);
  const failures: string[] = [];
  const states = crashStates(recording, random);
  // two states in five hold the bytes of an earlier one: those are looked at once
  const known = new Map<string, Promise<Found>>();
  const lookAt = async (image: Uint8Array, slot: number, shell: Shell | undefined): Promise<Found> => {
    let verdict: string | undefined;
    if (setup.judge && shell) {
      const file = join(scratch, `${process.pid}-${slot}.img`);
      writeFileSync(file, image);
      verdict = await setup.judge((command) => shell.run(command), file, image);
    }
    return { verdict, content: await readBack(setup, image).catch((error: unknown) => String(error)) };
  };
  const worker = async (slot: number): Promise<void> => {
    const shell = new Shell();
    while (taken++ < setup.states && failures.length < 5) {
      const state = states.next().value;
      const where = `seed ${setup.seed}, ${JSON.stringify(setup.createOptions)}, ${state.description}`;
      const judged = taken % (setup.judgeEvery ?? 1) === 0;
      const key = `${judged} ${createHash('sha1').update(state.image).digest('base64')}`;
      const looking = known.get(key) ?? lookAt(state.image, slot, judged ? shell : undefined);
      if (known.size * setup.size < rememberedBytes) known.set(key, looking);
      const { verdict, content } = await looking;
      if (verdict !== undefined) failures.push(`${where}: ${verdict}`);
      if (typeof content === 'string') failures.push(`${where}: cannot be read: ${content}`);
      else if (setup.contentMayBeLost !== true) {
        const { shrinksTo = 0, cutOffMayChange = 0 } = setup;
        const cutOff = state.time > shrinking.from && state.time < shrinking.to;
        const illegal = history.firstIllegal(cutOff ? content.slice().fill(0, shrinksTo, shrinksTo + cutOffMayChange) : content, state.time);
        if (illegal !== undefined) failures.push(`${where}: guest offset ${illegal} holds what was never there or lost what was flushed`);
      }
    }
    shell.close();
  };
  let taken = 0;
  await Promise.all([worker(0), worker(1)]);
  return failures;
}

async function workload(setup: CrashSetup): Promise<{ recording: Recording; history: GuestHistory; shrinking: { from: number; to: number } }> {
  const recording = new Recording();
  const graph = new BlockGraph({ drivers: new DriverRegistry([setup.driver, recorderDriver(recording), ...setup.parent?.drivers ?? []]) });
  const target = await graph.openBackend({ driver: 'recorder' });
  const spec = { driver: setup.driver.name, file: { driver: 'recorder' }, ...setup.openOptions };
  await setup.driver.create!(target, { ...setup.createOptions, size: setup.growsFrom ?? setup.size }, {
    filename: 'recorded', createFile: () => Promise.reject(new Error('no second file')),
    openBacking: setup.parent?.open ?? (() => Promise.reject(new Error('no parent'))), object: () => undefined, warn: () => undefined,
    openTarget: async () => {
      await target.close();
      return graph.openBackend(spec, { discard: 'unmap' });
    },
  });
  await target.close();
  recording.reset();
  const random = seededRandom(setup.seed);
  recording.random = seededRandom(setup.seed + 1);
  const disk = await graph.openBackend(spec, { discard: 'unmap' });
  const history = new GuestHistory(setup.parent?.content ?? new Uint8Array(setup.size));
  const busy = new Set<number>();
  let issued = 0;
  let allowed = setup.requests;
  let size = setup.growsFrom ?? setup.size;
  const guest = async (): Promise<void> => {
    while (issued++ < allowed) {
      if (size < setup.size && issued > setup.requests / 3) {
        size = setup.size;
        await disk.resize(size);
      }
      const what = random();
      if (what < 0.12) {
        const submitted = recording.time;
        await disk.flush();
        history.flushed(submitted, recording.time);
        continue;
      }
      const sectors = 1 + Math.floor(random() ** 3 * (setup.maxSectors ?? 300));
      const first = Math.floor(random() * (disk.size / 512 - sectors + 1));
      const offset = first * 512;
      // a guest does not write one sector twice at a time
      const claimed = Array.from({ length: sectors }, (_, index) => first + index);
      if (claimed.some((sector) => busy.has(sector))) continue;
      claimed.forEach((sector) => busy.add(sector));
      const zero = what < 0.32;
      const data = zero ? new Uint8Array(sectors * 512) : stamped(sectors, issued, setup.seed);
      const acknowledge = history.write(offset, data, recording.time);
      if (what < 0.25) await disk.writeZeroes(offset, data.length, random() < 0.5 ? Req.MAY_UNMAP : 0);
      else await disk.write(offset, data, random() < 0.05 ? Req.FUA : 0);
      acknowledge(recording.time);
      claimed.forEach((sector) => busy.delete(sector));
    }
  };
  const shrinking = { from: Infinity, to: Infinity };
  const guests = async (): Promise<void> => void await Promise.all([guest(), guest(), guest()]);
  await guests();
  if (setup.shrinksTo !== undefined) {
    // what is cut off may turn to zeroes before the size changes
    const acknowledge = history.write(setup.shrinksTo, new Uint8Array(setup.size - setup.shrinksTo), recording.time);
    shrinking.from = recording.time;
    await disk.resize(setup.shrinksTo);
    allowed += setup.requests / 4;
    await guests();
    await disk.resize(setup.size, { zeroNew: true });
    acknowledge(recording.time);
    shrinking.to = recording.time;
    allowed += setup.requests / 4;
    await guests();
  }
  await disk.close();
  await graph.close();
  return { recording, history, shrinking };
}

/** Sectors that tell which request wrote them. */
function stamped(sectors: number, request: number, seed: number): Uint8Array {
  const data = new Uint8Array(sectors * 512);
  for (let i = 0; i < data.length; i++) data[i] = 1 + ((request * 37 + seed + (i >> 9) * 11 + (i & 15)) % 255);
  return data;
}

async function readBack(setup: CrashSetup, image: Uint8Array): Promise<Uint8Array> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([setup.driver, recorderDriver(new Recording(image)), ...setup.parent?.drivers ?? []]) });
  const disk = await graph.openBackend({ driver: setup.driver.name, file: { driver: 'recorder' }, ...setup.openOptions }, { readOnly: true, check: true });
  const result = setup.needsRepair?.(image) ? undefined : await disk.node.facet('check')?.check({ repair: 'none' });
  if (result && result.corruptions > 0) throw new Error(`our check finds ${result.corruptions} corruptions`);
  if (![setup.size, setup.growsFrom, setup.shrinksTo].includes(disk.size)) throw new Error(`it has ${disk.size} bytes`);
  const content = new Uint8Array(disk.size === setup.shrinksTo ? disk.size : setup.size);
  await disk.read(0, content.subarray(0, disk.size));
  await graph.close();
  return content;
}

/** A shell that runs one command after another: starting programs from it is much cheaper than from a large Node process. */
class Shell {
  readonly #child = spawn('bash', ['-s'], { stdio: ['pipe', 'pipe', 'inherit'] });
  #output = '';
  #waiting: ((answer: { status: number; output: string }) => void) | undefined;

  constructor() {
    this.#child.stdout.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString();
      const end = /\n?=== (\d+)\n$/.exec(this.#output);
      if (!end) return;
      const output = this.#output.slice(0, end.index);
      this.#output = '';
      this.#waiting?.({ status: Number(end[1]), output });
    });
  }

  run(command: string): Promise<{ status: number; output: string }> {
    return new Promise((resolve) => {
      this.#waiting = resolve;
      this.#child.stdin.write(`${command} 2>&1; echo "=== $?"\n`);
    });
  }

  close(): void {
    this.#child.stdin.end();
  }
}
