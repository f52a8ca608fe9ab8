/** Power cuts while a VHDX child is committed: it opens over its parent, shows what it showed, and is committed once more. */
import { expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { Perm } from '../../src/block/driver.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { vhdx } from '../../src/format/vhdx/index.js';
import { commitImage, emptyImage } from '../../src/image/commit.js';
import { seededRandom } from '../../src/testing/random.js';
import { testSeed } from '../support/seed.js';
import { RecordedFolder } from './recorded-folder.js';

const states = Math.max(40, Number(process.env['VDISK_CRASH_STATES'] ?? 10_000) / 250);
const MiB = 1 << 20;
const size = 3 * MiB;

async function inGraph<T>(folder: RecordedFolder, work: (graph: BlockGraph) => Promise<T>): Promise<T> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([vhdx, folder.driver]), gate: () => true });
  try {
    return await work(graph);
  } finally {
    await graph.close();
  }
}

function write(folder: RecordedFolder, filename: string, offset: number, data: Uint8Array): Promise<void> {
  return inGraph(folder, async (graph) => {
    const disk = await graph.openBackend(filename, { driver: 'vhdx' });
    await disk.write(offset, data);
  });
}

async function make(folder: RecordedFolder, filename: string, parent: string | undefined, seed: number): Promise<void> {
  const options = { block_size: MiB, ...(parent !== undefined && { backing_file: parent, backing_fmt: 'vhdx' }) };
  await inGraph(folder, (graph) => createImageFile(graph, { filename, format: 'vhdx', size, options }));
  await write(folder, filename, seed * 100 * 512, new Uint8Array(MiB).fill(seed));
}

function read(folder: RecordedFolder, filename: string): Promise<Buffer> {
  return inGraph(folder, async (graph) => {
    const disk = await graph.openBackend(filename, { driver: 'vhdx', readOnly: true });
    const content = Buffer.alloc(disk.size);
    await disk.read(0, content);
    return content;
  });
}

function commit(folder: RecordedFolder, { top, empties, deep }: { readonly top: string; readonly empties: boolean; readonly deep: boolean }): Promise<void> {
  return inGraph(folder, async (graph) => {
    const disk = await graph.openBackend(top, { driver: 'vhdx', discard: 'unmap', share: Perm.ALL });
    const parent = disk.node.backing!;
    expect(await commitImage(graph, disk, deep ? parent.backing! : parent)).toEqual({});
    if (empties) await emptyImage(disk);
  });
}

it.each([
  { what: 'its parent', top: 'child', empties: true, deep: false },
  { what: 'its parent, and keeps its content', top: 'child', empties: false, deep: false },
  { what: 'a parent that is a child itself', top: 'grandchild', empties: true, deep: false },
  { what: "its parent's parent", top: 'grandchild', empties: false, deep: true },
])('a child that goes to $what', async (kind) => {
  const before = new RecordedFolder();
  await make(before, 'base', undefined, 1);
  await make(before, 'child', 'base', 2);
  if (kind.top === 'grandchild') await make(before, 'grandchild', 'child', 3);
  const expected = await read(before, kind.top);
  const folder = new RecordedFolder(before.contents(), testSeed);
  await commit(folder, kind);
  expect((await read(folder, kind.top)).equals(expected)).toBe(true);
  const target = kind.top === 'child' || kind.deep ? 'base' : 'child';
  const random = seededRandom(testSeed + 5);
  for (let taken = 0; taken < states; taken++) {
    const { files, description } = folder.stateAt(Math.floor(random() * (folder.time + 1)), random);
    const found = new RecordedFolder(files);
    const shows = async (filename: string): Promise<void> => {
      const content = await read(found, filename).catch((error: unknown) => String(error));
      expect(typeof content === 'string' ? content : content.equals(expected), `${filename}, seed ${testSeed}, ${description}`).toBe(true);
    };
    await shows(kind.top);
    await commit(found, kind);
    for (const filename of [kind.top, target]) await shows(filename);
    await write(found, target, 0, new Uint8Array(512).fill(taken));
    const refused = await read(found, kind.top).then(() => 'nothing', String);
    expect(refused, description).toContain('VHDX parent was changed after its child was made');
  }
}, 600_000);
