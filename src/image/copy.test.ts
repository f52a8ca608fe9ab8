import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockOps, Perm, type BlockDriver, type Capabilities, type LayerExtent } from '../block/driver.js';
import type { BlockBackend, BlockChild } from '../block/child.js';
import { systemError } from '../block/errors.js';
import { BlockGraph } from '../block/graph.js';
import { DriverRegistry } from '../block/registry.js';
import { memory } from '../protocol/memory/index.js';
import { seededRandom } from '../testing/random.js';
import type { MaybePromise } from '../util/maybe.js';
import { copyImages, type CopyControl } from './copy.js';
import { testSeed } from '../../test/support/seed.js';

const turn = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve); });
const random = seededRandom(testSeed);
async function randomTurns(): Promise<void> {
  for (let turns = random() * 5; turns > 0; turns--) await turn();
}

/** A passthrough whose requests are delayed, noted, and made to fail. */
class TestOps extends BlockOps {
  override readonly capabilities: Capabilities = { write: true, writeFlags: 0, zeroFlags: 0, discard: true, resize: 'any', growsOnWrite: false };
  readonly child: BlockChild;
  readonly asked: number[] = [];
  readonly log: { op: string; offset: number; length: number }[] = [];
  delay: (() => Promise<void>) | undefined;
  fails: (op: string, offset: number, length: number) => boolean = () => false;
  atOnce = 0;
  mostAtOnce = 0;
  constructor(child: BlockChild) {
    super();
    this.child = child;
  }
  get size(): number { return this.child.size; }
  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.#request('read', offset, target.length, () => this.child.read(offset, target));
  }
  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.#request('write', offset, source.length, () => this.child.write(offset, source));
  }
  override writeZeroes(offset: number, length: number): MaybePromise<void> {
    return this.#request('zero', offset, length, () => this.child.writeZeroes(offset, length));
  }
  status(offset: number, length: number): LayerExtent {
    this.asked.push(offset);
    if (this.fails('status', offset, length)) throw systemError(5);
    return { kind: 'child', length, host: { child: this.child, offset } };
  }
  close(): Promise<void> { return Promise.resolve(); }

  #request(op: string, offset: number, length: number, perform: () => MaybePromise<void>): MaybePromise<void> {
    this.log.push({ op, offset, length });
    if (this.fails(op, offset, length)) throw systemError(28);
    if (!this.delay) return perform();
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.atOnce);
    return this.delay().then(perform).finally(() => { this.atOnce--; });
  }
}
const testDriver: BlockDriver = {
  name: 'test', kind: 'filter', options: {}, children: { file: { role: 'filtered' } }, open: (context) => new TestOps(context.child('file')!),
};

const graph = new BlockGraph({ drivers: new DriverRegistry([memory, testDriver]) });
const page = 64 * 1024;

async function disk(size: number, content?: Uint8Array): Promise<{ image: BlockBackend; ops: TestOps }> {
  const node = await graph.open({ driver: 'test', file: { driver: 'memory', size } });
  const image = graph.attach(node, { take: Perm.ALL, share: Perm.ALL });
  await graph.release(node);
  const ops = node.ops as TestOps;
  if (content) {
    for (let at = 0; at < content.length; at += page) {
      const part = content.subarray(at, at + page);
      if (part.some((byte) => byte !== 0)) await image.write(at, part);
    }
    ops.log.length = 0;
  }
  return { image, ops };
}

function read(image: BlockBackend): Uint8Array {
  const bytes = new Uint8Array(image.size);
  void image.node.ops.read(0, bytes, 0);
  return bytes;
}

const defaults: CopyControl = { minSparse: 4096, zeroUnit: 1, targetIsZero: true, parallel: 8 };

describe('copyImages', () => {
  it('joins sources of any size, whatever is slow, in any order', async () => {
    await fc.assert(fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.nat(511)), { minLength: 1, maxLength: 3 }),
      fc.record({
        slowSource: fc.boolean(), slowTarget: fc.boolean(), outOfOrder: fc.boolean(), targetIsZero: fc.boolean(),
        parallel: fc.integer({ min: 1, max: 16 }), minSparse: fc.constantFrom(0, 4096, 1 << 20), zeroUnit: fc.constantFrom(1, 65_536),
      }),
      async (shapes, { slowSource, slowTarget, targetIsZero, ...control }) => {
        const contents = shapes.map(([pages, rest], index) => {
          const bytes = new Uint8Array(pages * page + rest);
          for (let at = 0; at < bytes.length; at += page) if (at % 3 !== 0) bytes.fill(index + 1 + at / page, at + 5000, at + 9000);
          return bytes;
        });
        const whole = Buffer.concat(contents);
        const sources = [];
        for (const content of contents) {
          const { image, ops } = await disk(content.length, content);
          ops.delay = slowSource ? randomTurns : undefined;
          sources.push({ image });
        }
        const target = await disk(whole.length, targetIsZero ? undefined : new Uint8Array(whole.length).fill(0xff));
        target.ops.delay = slowTarget ? randomTurns : undefined;
        await copyImages(sources, target.image, { ...defaults, ...control, targetIsZero });
        target.ops.delay = undefined;
        expect(Buffer.compare(read(target.image), whole)).toBe(0);
        const writes = target.ops.log.filter(({ op }) => op !== 'read').map(({ offset }) => offset);
        if (!control.outOfOrder) expect(writes).toEqual([...writes].sort((a, b) => a - b));
        await graph.close();
      }), { numRuns: 60 });
  });

  it('works on several pieces at a time where the source waits', async () => {
    const source = await disk(24 << 20, new Uint8Array(24 << 20).fill(1));
    const waiting: (() => void)[] = [];
    source.ops.delay = () => new Promise((resolve) => { waiting.push(resolve); });
    const target = await disk(24 << 20);
    let done = false;
    const copied = copyImages([{ image: source.image }], target.image, { ...defaults, parallel: 5 }).finally(() => { done = true; });
    while (!done) {
      for (let turns = 0; turns < 20; turns++) await turn();
      waiting.shift()?.();
    }
    await copied;
    expect(source.ops.mostAtOnce).toBe(5);
  });

  it('writes no zeroes to a target that reads as zero, and all of them for -S 0', async () => {
    const content = new Uint8Array(1 << 20);
    content[300_000] = 1;
    const source = await disk(1 << 20, content);
    const sparse = await disk(1 << 20);
    await copyImages([{ image: source.image }], sparse.image, defaults);
    expect(sparse.ops.log).toEqual([{ op: 'write', offset: 299_008, length: 4096 }]);
    const full = await disk(1 << 20);
    await copyImages([{ image: source.image }], full.image, { ...defaults, minSparse: 0 });
    expect(full.ops.log.reduce((sum, { op, length }) => sum + (op === 'write' ? length : 0), 0)).toBe(1 << 20);
  });

  it('says where it could not write, after what is under way has ended', async () => {
    const source = await disk(6 << 20, new Uint8Array(6 << 20).fill(1));
    const target = await disk(6 << 20);
    target.ops.delay = randomTurns;
    target.ops.fails = (op, offset, length) => op === 'write' && offset + length > 5 << 20;
    await expect(copyImages([{ image: source.image }], target.image, defaults)).rejects.toThrow('error while writing at byte 4194304: No space left on device');
    expect(target.ops.atOnce).toBe(0);
  });

  it('salvages all but the sectors that cannot be read', async () => {
    const source = await disk(1 << 20, new Uint8Array(1 << 20).fill(1));
    const bad = 123 * 512;
    source.ops.fails = (op, offset, length) => op !== 'write' && offset < bad + 512 && offset + length > bad;
    const target = await disk(1 << 20);
    const losses: string[] = [];
    await copyImages([{ image: source.image }], target.image, { ...defaults, salvage: (message) => losses.push(message) });
    const unknown = `error while reading block status at offset ${bad}: Input/output error`;
    expect(losses).toEqual([unknown, unknown, `error while reading offset ${bad}: No space left on device`]);
    const expected = new Uint8Array(1 << 20).fill(1);
    expected.fill(0, bad, bad + 512);
    expect(Buffer.compare(read(target.image), expected)).toBe(0);
    await expect(copyImages([{ image: source.image }], target.image, defaults)).rejects.toThrow('error while reading block status at offset 0');
  });

  it('tells how much of the work is done, or how far it is on the disk without a look at the rest beforehand', async () => {
    const content = new Uint8Array(66 << 20).fill(1);
    content.fill(0, 0, 1 << 20);
    const shown: Record<string, unknown[]> = { work: [], place: [] };
    const askedAtFirst: Record<string, number> = {};
    for (const kind of ['work', 'place']) {
      const source = await disk(content.length, content);
      const target = await disk(content.length);
      source.ops.asked.length = 0;
      const progress = (done: number, total: number): void => {
        askedAtFirst[kind] ??= Math.max(...source.ops.asked);
        shown[kind]!.push([done, total]);
      };
      await copyImages([{ image: source.image }], target.image, { ...defaults, progress, progressByPlace: kind === 'place' });
    }
    expect(shown['work']!.at(0)).toEqual([2 << 20, 65 << 20]);
    expect(shown['work']!.at(-1)).toEqual([65 << 20, 65 << 20]);
    expect(shown['place']!.slice(0, 2)).toEqual([[1 << 20, 66 << 20], [3 << 20, 66 << 20]]);
    expect(shown['place']!.at(-1)).toEqual([66 << 20, 66 << 20]);
    expect(askedAtFirst['work']).toBe(65 << 20);
    expect(askedAtFirst['place']).toBe(0);
  });

  it.each([1, 8])('stops when told, though the source keeps %i pieces waiting', async (parallel) => {
    const source = await disk(64 << 20, new Uint8Array(64 << 20).fill(1));
    const target = await disk(64 << 20);
    const control = new AbortController();
    let reads = 0;
    source.ops.delay = async () => {
      if (++reads === 10) control.abort();
      for (let turns = 0; turns < 20; turns++) await turn();
    };
    await expect(copyImages([{ image: source.image }], target.image, { ...defaults, parallel, signal: control.signal })).rejects.toThrow();
    expect(reads).toBe(10);
    expect(source.ops.atOnce).toBe(0);
  });
});
