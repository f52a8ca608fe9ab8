/** Dynamic and differencing images in memory: what foreign writers leave, damage and repair, growing beyond the table. */
import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import type { BlockBackend } from '../../block/child.js';
import type { CheckResult } from '../../block/facets.js';
import type { OptionValue } from '../../block/options.js';
import { firstDifference } from '../../platform/bytes.js';
import { Recording, recorderDriver } from '../../testing/recorder.js';
import { seededRandom } from '../../testing/random.js';
import { checksum, footerSize } from './header.js';
import { vpc } from './index.js';

const MiB = 1 << 20;
const blockSize = 65_536;
const table = 1536;

interface Open { readonly disk: BlockBackend; readonly recording: Recording; close(): Promise<Uint8Array> }

async function open(image: Uint8Array, options: { readonly readOnly?: boolean; readonly check?: boolean } = {}, parent?: Uint8Array): Promise<Open> {
  const recording = new Recording(image);
  const below = { ...recorderDriver(new Recording(parent)), name: 'parent-recorder' };
  const graph = new BlockGraph({ drivers: new DriverRegistry([vpc, recorderDriver(recording), below]), gate: () => true });
  const disk = await graph.openBackend({
    driver: 'vpc', file: { driver: 'recorder' }, ...(parent && { backing: { driver: 'vpc', file: { driver: 'parent-recorder' } } }),
  }, { discard: 'unmap', ...options });
  return { disk, recording, close: async () => {
    await disk.close();
    await graph.close();
    return recording.content.slice(0, recording.size);
  } };
}

async function create(options: Record<string, OptionValue> & { readonly size: number }, parent?: Uint8Array): Promise<Uint8Array> {
  const recording = new Recording();
  const graph = new BlockGraph({ drivers: new DriverRegistry([recorderDriver(recording)]) });
  const target = await graph.openBackend({ driver: 'recorder' });
  const none = (): Promise<never> => Promise.reject(new Error('not needed'));
  await vpc.create!(target, { force_size: true, block_size: blockSize, ...options }, {
    filename: 'x.vhd', createFile: none, openTarget: none, object: () => undefined, warn: () => undefined,
    openBacking: async () => (await open(parent!, { readOnly: true })).disk,
  });
  await target.close();
  return recording.content.slice(0, recording.size);
}

async function written(image: Uint8Array, requests: readonly (readonly [offset: number, length: number, value: number])[], parent?: Uint8Array): Promise<Uint8Array> {
  const { disk, close } = await open(image, {}, parent);
  for (const [offset, length, value] of requests) await disk.write(offset, new Uint8Array(length).fill(value));
  return close();
}

async function contentOf(image: Uint8Array, parent?: Uint8Array): Promise<Uint8Array> {
  const { disk, close } = await open(image, { readOnly: true }, parent);
  const content = new Uint8Array(disk.size);
  await disk.read(0, content);
  await close();
  return content;
}

async function check(image: Uint8Array, repair: 'none' | 'leaks' | 'all'): Promise<{ result: CheckResult; image: Uint8Array; lines: string[] }> {
  const { disk, close } = await open(image, { check: true, readOnly: repair === 'none' });
  const lines: string[] = [];
  const result = await disk.node.facet('check')!.check({ repair, report: (line) => lines.push(line) });
  return { result, image: await close(), lines };
}

const entryAt = (image: Uint8Array, block: number): number => new DataView(image.buffer, image.byteOffset).getUint32(table + block * 4);
function withEntry(image: Uint8Array, block: number, entry: number): Uint8Array {
  const copy = image.slice();
  new DataView(copy.buffer).setUint32(table + block * 4, entry);
  return copy;
}
/** Much faster than toEqual. */
function expectBytes(found: Uint8Array, expected: Uint8Array): void {
  expect(found.length).toBe(expected.length);
  const at = firstDifference(found, expected);
  expect(at, `bytes differ at ${at}`).toBe(-1);
}
const filled = (length: number, ...parts: readonly (readonly [offset: number, length: number, value: number])[]): Uint8Array => {
  const bytes = new Uint8Array(length);
  for (const [offset, count, value] of parts) bytes.fill(value, offset, offset + count);
  return bytes;
};

describe('a dynamic image', () => {
  it('in which a foreign writer left sectors out shows them as zeroes, and shows them when they are written', async () => {
    let image = await written(await create({ size: MiB }), [[0, blockSize, 5]]);
    image.set([0xf0, 0x01], entryAt(image, 0) * 512);
    const expected = filled(MiB, [0, blockSize, 5], [4 * 512, 11 * 512, 0]);
    expectBytes(await contentOf(image), expected);
    image = await written(image, [[6 * 512, 700, 9]]);
    expectBytes(await contentOf(image), filled(MiB, [0, blockSize, 5], [4 * 512, 11 * 512, 0], [6 * 512, 700, 9]));
    expect([...image.subarray(entryAt(image, 0) * 512, entryAt(image, 0) * 512 + 2)]).toEqual([0xf3, 0x01]);
  });

  it('grows beyond its table, which moves behind the blocks', async () => {
    const { disk, close } = await open(await create({ size: MiB }));
    await disk.write(500, new Uint8Array(3000).fill(1));
    await disk.resize(12 * MiB);
    await disk.write(11 * MiB, new Uint8Array(3000).fill(2));
    const image = await close();
    expectBytes(await contentOf(image), filled(12 * MiB, [500, 3000, 1], [11 * MiB, 3000, 2]));
    expect((await check(image, 'none')).result).toMatchObject({ corruptions: 0, leaks: 0, totalClusters: 192, allocatedClusters: 2 });
  });

  it('gives the room of the last blocks back when it shrinks, and reads as zero when it grows again', async () => {
    const before = await written(await create({ size: 4 * MiB }), [[0, 1000, 1], [2 * MiB, MiB, 2]]);
    const { disk, close } = await open(before);
    await disk.resize(2 * MiB + 512);
    expect(disk.size).toBe(2 * MiB + 512);
    await disk.resize(4 * MiB);
    const image = await close();
    expect(image.length).toBeLessThan(before.length - MiB / 2);
    expectBytes(await contentOf(image), filled(4 * MiB, [0, 1000, 1], [2 * MiB, 512, 2]));
  });

  it('opened for writing without its last footer gets it back', async () => {
    const whole = await written(await create({ size: MiB }), [[0, 100, 7]]);
    const cut = whole.slice(0, -footerSize);
    expect((await check(cut, 'none')).lines).toEqual(['NOTE the footer at the end is missing']);
    expectBytes(await written(cut, []), whole);
  });
});

describe('an image with room between its blocks and its footer', () => {
  it('uses it, and zeroes it first', async () => {
    const image = await create({ size: MiB });
    const roomy = new Uint8Array(MiB + 200_192).fill(0xaa);
    roomy.set(image.subarray(0, -footerSize));
    roomy.set(image.subarray(-footerSize), roomy.length - footerSize);
    const after = await written(roomy, [[70_000, 100, 3]]);
    expect(after.length).toBe(roomy.length);
    expectBytes(after.subarray(-footerSize), image.subarray(-footerSize));
    expectBytes(await contentOf(after), filled(MiB, [70_000, 100, 3]));
  });
});

describe('check', () => {
  const base = async (): Promise<Uint8Array> => written(await create({ size: MiB }), [[0, blockSize, 1], [blockSize, blockSize, 2]]);

  it('gives blocks that share room their own', async () => {
    const sound = await base();
    const image = withEntry(sound, 3, entryAt(sound, 0));
    expect((await check(image, 'none')).result).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    const repaired = await check(image, 'all');
    expect(repaired.result).toMatchObject({ corruptions: 0, corruptionsFixed: 1 });
    expect((await check(repaired.image, 'none')).result).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 3 });
    const separate = await written(repaired.image, [[3 * blockSize, 512, 9]]);
    expectBytes(await contentOf(separate), filled(MiB, [0, blockSize, 1], [blockSize, blockSize, 2], [3 * blockSize, blockSize, 1], [3 * blockSize, 512, 9]));
  });

  it.each([['outside the file', 0x7fff_ffff], ['overlaps the headers', 1]])('gives up a block that lies %s; such an image opens for a check only', async (what, entry) => {
    const image = withEntry(await base(), 1, entry);
    await expect(open(image)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' });
    const { result, lines } = await check(image, 'none');
    expect([result.corruptions, lines[0]]).toEqual([1, expect.stringContaining(what)]);
    const repaired = await check(image, 'all');
    expectBytes(await contentOf(repaired.image), filled(MiB, [0, blockSize, 1]));
    expect((await check(repaired.image, 'all')).result).toMatchObject({ corruptions: 0, corruptionsFixed: 0 });
  });

  it('finds room that belongs to no block, and gives it back', async () => {
    const sound = await base();
    const image = withEntry(sound, 1, 0xffff_ffff);
    expect((await check(image, 'none')).result).toMatchObject({ corruptions: 0, leaks: 1 });
    const repaired = await check(image, 'leaks');
    expect(repaired.result).toMatchObject({ leaks: 0, leaksFixed: 1 });
    expect(repaired.image.length).toBe(sound.length - blockSize - 512);
    expectBytes(await contentOf(repaired.image), filled(MiB, [0, blockSize, 1]));
  });

  it('repairs the copy of the footer in front, and the checksum of the dynamic header', async () => {
    const image = await base();
    image.fill(0, 0, 100);
    image[512 + 36]! ^= 1;
    await expect(open(image)).rejects.toThrow('invalid VPC image');
    const repaired = await check(image, 'all');
    expect(repaired.result).toMatchObject({ corruptions: 0, corruptionsFixed: 2 });
    expectBytes(repaired.image.subarray(0, footerSize), repaired.image.subarray(-footerSize));
    expect((await check(repaired.image, 'none')).result).toMatchObject({ corruptions: 0 });
  });
});

describe('a differencing image', () => {
  it('shows its parent through, sector by sector, whatever is written', async () => {
    const random = seededRandom(5);
    const parent = await written(await create({ size: MiB }), [[1000, 400_000, 1], [700_000, 50_000, 2]]);
    const model = await contentOf(parent);
    let child = await create({ size: MiB, backing_file: 'parent.vhd' }, parent);
    for (let round = 0; round < 6; round++) {
      const { disk, close } = await open(child, {}, parent);
      for (let step = 0; step < 12; step++) {
        const length = 1 + Math.floor(random() ** 3 * 200_000);
        const offset = Math.floor(random() * (MiB - length));
        const value = random() < 0.25 ? 0 : 3 + step + round * 12;
        if (value === 0) await disk.writeZeroes(offset, length);
        else await disk.write(offset, new Uint8Array(length).fill(value));
        model.fill(value, offset, offset + length);
      }
      child = await close();
      expectBytes(await contentOf(child, parent), model);
    }
  });

  it('knows its parent by the UUID', async () => {
    const [parent, stranger] = [await create({ size: MiB }), await create({ size: MiB })];
    const child = await create({ size: MiB, backing_file: 'parent.vhd' }, parent);
    await expect(open(child, {}, stranger)).rejects.toThrow('is not the parent of this image: its UUID is');
  });
});

describe('a fixed image', () => {
  it('whose guest writes the head of a dynamic one stays fixed', async () => {
    const dynamic = await create({ size: MiB });
    const { disk, close } = await open(await create({ size: MiB, subformat: 'fixed' }));
    await disk.write(0, dynamic);
    const image = await close();
    const again = await open(image, { readOnly: true });
    expect(again.disk.size).toBe(MiB);
    expectBytes((await contentOf(image)).subarray(0, dynamic.length), dynamic);
    await again.close();
  });

  it('with room between its end and its footer grows into it', async () => {
    const image = await create({ size: MiB, subformat: 'fixed' });
    const roomy = new Uint8Array(MiB + 200_192).fill(0xaa);
    roomy.set(image.subarray(0, -footerSize));
    roomy.set(image.subarray(-footerSize), roomy.length - footerSize);
    for (const preallocation of ['off', 'falloc', 'full'] as const) {
      for (const size of [MiB + 512, MiB + 199_680, MiB + 200_192, 2 * MiB, MiB - 512]) {
        const { disk, close } = await open(roomy.slice());
        await disk.resize(size, { preallocation: size < MiB ? 'off' : preallocation });
        expect(disk.size).toBe(size);
        const after = await close();
        expect(after.length).toBe(size + footerSize);
        expectBytes(await contentOf(after), filled(size));
      }
    }
  });

  it('takes its footer along when its size changes', async () => {
    const { disk, close } = await open(await create({ size: MiB, subformat: 'fixed', align_size: 4096 }));
    await disk.write(MiB - 100, new Uint8Array(100).fill(1));
    await disk.resize(2 * MiB);
    await disk.write(2 * MiB - 100, new Uint8Array(100).fill(2));
    await disk.resize(3 * MiB);
    await disk.resize(2 * MiB);
    const image = await close();
    expect(image.length).toBe(2 * MiB + footerSize);
    expect(checksum(image.subarray(-footerSize), 64)).toBe(new DataView(image.buffer, image.length - footerSize).getUint32(64));
    expectBytes(await contentOf(image), filled(2 * MiB, [MiB - 100, 100, 1], [2 * MiB - 100, 100, 2]));
  });
});

describe('the parent of a differencing image', () => {
  it('is another one, or has another name, from the next opening on', async () => {
    const [parent, other] = [await create({ size: MiB }), await create({ size: MiB })];
    const child = await written(await create({ size: MiB, backing_file: 'parent.vhd' }, parent), [[70_000, 5000, 4]], parent);
    const first = await open(child, {}, parent);
    const identity = (await open(other, { readOnly: true })).disk.facet('identity')!;
    await first.disk.node.facet('backing')!.change('sub/other.vhd', 'vpc', identity);
    await first.disk.write(0, new Uint8Array(100).fill(5));
    const changed = await first.close();
    await expect(open(changed, {}, parent)).rejects.toThrow('is not the parent of this image');
    expectBytes(await contentOf(changed, other), filled(MiB, [0, 100, 5], [70_000, 5000, 4]));
    const again = await open(changed, { readOnly: true }, other);
    expect(again.disk.node.facet('backing')).toMatchObject({ filename: 'sub/other.vhd', format: 'vpc' });
    await again.close();
  });
});
