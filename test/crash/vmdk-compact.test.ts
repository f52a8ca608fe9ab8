/** Power cuts while a VMDK disk is written anew, to be shrunk or defragmented: all states show the same content, and none is damaged. */
import { describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import type { OptionValue } from '../../src/block/options.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { vmdk } from '../../src/format/vmdk/index.js';
import { compactImage } from '../../src/image/compact.js';
import { seededRandom } from '../../src/testing/random.js';
import { testSeed } from '../support/seed.js';
import { RecordedFolder } from './recorded-folder.js';

const states = Math.max(60, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 100);
const size = (2 << 20) + 3 * 512;
const grain = 1 << 16;

const newGraph = (folder: RecordedFolder): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([vmdk, folder.driver]), gate: () => true });

async function make(folder: RecordedFolder, filename: string, options: Record<string, OptionValue>, writes: readonly (readonly [grain: number, byte: number])[]): Promise<void> {
  const graph = newGraph(folder);
  await createImageFile(graph, { filename, format: 'vmdk', size, options });
  const disk = await graph.openBackend(filename, { driver: 'vmdk' });
  for (const [index, byte] of writes) await disk.write(index * grain, new Uint8Array(grain).fill(byte));
  await disk.writeZeroes(size - 1024, 1024);
  await disk.close();
  await graph.close();
}

/** What a guest sees. @throws Error where our check finds damage */
async function read(folder: RecordedFolder): Promise<Buffer> {
  const graph = newGraph(folder);
  const disk = await graph.openBackend('disk.vmdk', { driver: 'vmdk', readOnly: true });
  const content = Buffer.alloc(disk.size);
  await disk.read(0, content);
  const result = await disk.node.facet('check')!.check({ repair: 'none' });
  await graph.close();
  if (result.corruptions + result.leaks > 0) throw new Error(`our check finds ${result.corruptions} corruptions and ${result.leaks} leaks`);
  return content;
}

describe.each([
  ['of one file', {}, false], ['with zeroed grains', { zeroed_grain: true }, false], ['split', { subformat: 'twoGbMaxExtentSparse' }, false],
  ['for ESX', { subformat: 'vmfsSparse' }, false], ['with a parent', { backing_file: 'parent.vmdk', backing_fmt: 'vmdk' }, true],
] as const)('a disk %s', (_name, options, isChild) => {
  it.each([['shrunk', true], ['defragmented', false]] as const)('that is being %s', async (_what, dropZeroes) => {
    const before = new RecordedFolder();
    if (isChild) await make(before, 'parent.vmdk', {}, [[3, 77], [4, 78], [12, 79]]);
    await make(before, 'disk.vmdk', options, [[30, 1], [2, 2], [17, 3], [3, 0], [9, 4], [20, 0], [31, 5]]);
    const expected = await read(before);
    const folder = new RecordedFolder(before.contents(), testSeed);
    const graph = newGraph(folder);
    expect(await compactImage(graph, 'disk.vmdk', { driver: 'vmdk', dropZeroes })).toEqual({ rewritten: true });
    await graph.close();
    expect(folder.replaced).toBe(1);
    expect((await read(folder)).equals(expected)).toBe(true);
    const random = seededRandom(testSeed + 5);
    let [formers, finals] = [0, 0];
    for (let state = 0; state < states; state++) {
      // names change near the end: half of the cuts are there
      const time = random() < 0.5 ? Math.floor(random() * (folder.time + 1)) : folder.time - Math.floor(random() * 8);
      const { files, description } = folder.stateAt(time, random);
      if (description.includes('(former)')) formers++;
      else finals++;
      const content = await read(new RecordedFolder(files)).catch((error: unknown) => String(error));
      expect(typeof content === 'string' ? content : content.equals(expected), `seed ${testSeed}, ${description}`).toBe(true);
    }
    expect(Math.min(formers, finals)).toBeGreaterThan(states / 20);
  }, 600_000);
});
