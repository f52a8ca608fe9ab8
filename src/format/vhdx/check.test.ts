import { describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { DriverRegistry } from '../../block/registry.js';
import { Recording, recorderDriver } from '../../testing/recorder.js';
import { viewOf } from '../../util/view.js';
import { MiB } from './header.js';
import { vhdx } from './index.js';
import { State, writeEntry } from './tables.js';

const table = 2 * MiB;
const data = 8 * MiB;
const none = (): Promise<never> => Promise.reject(new Error('not needed'));

/** A disk of 6 blocks of 1 MiB, the first three of which are written, with some entries changed. */
async function damaged(change: (view: DataView) => void, cut?: number): Promise<Recording> {
  const recording = new Recording();
  const graph = graphOf(recording);
  const target = await graph.openBackend({ driver: 'recorder' });
  await vhdx.create!(target, { size: 6 * MiB, block_size: MiB }, { filename: 'disk', createFile: none, openBacking: none, openTarget: none, object: () => undefined, warn: () => undefined });
  await target.close();
  const disk = await graph.openBackend(spec);
  for (let block = 0; block < 3; block++) await disk.write(block * MiB, new Uint8Array(MiB).fill(block + 1));
  await graph.close();
  change(viewOf(recording.content.subarray(table)));
  return cut === undefined ? recording : new Recording(recording.content.slice(0, cut));
}

const spec = { driver: 'vhdx', file: { driver: 'recorder' } };
const graphOf = (recording: Recording): BlockGraph => new BlockGraph({ drivers: new DriverRegistry([vhdx, recorderDriver(recording)]) });

async function check(recording: Recording, repair: 'none' | 'all'): Promise<{ corruptions: number; corruptionsFixed: number; lines: string[] }> {
  const lines: string[] = [];
  const graph = graphOf(recording);
  const disk = await graph.openBackend(spec, { check: true, readOnly: repair === 'none' });
  const { corruptions, corruptionsFixed } = await disk.node.facet('check')!.check({ repair, reportError: (line) => lines.push(line) });
  await graph.close();
  return { corruptions, corruptionsFixed, lines };
}

/** First and last byte of each block. */
async function blocks(recording: Recording): Promise<number[][]> {
  const graph = graphOf(recording);
  const disk = await graph.openBackend(spec, { readOnly: true });
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  await graph.close();
  return [0, 1, 2, 3].map((block) => [bytes[block * MiB]!, bytes[(block + 1) * MiB - 1]!]);
}

const cases: readonly { readonly name: string; readonly change: (view: DataView) => void; readonly cut?: number; readonly lines: readonly string[]; readonly content: number[][] }[] = [
  {
    name: 'a block behind the end of the file', change: () => undefined, cut: data + 2 * MiB,
    lines: [`VHDX BAT entry 2 start offset ${data + 2 * MiB} points after end of file (${data + 2 * MiB}). Image has probably been truncated.`],
    content: [[1, 1], [2, 2], [0, 0], [0, 0]],
  },
  {
    name: 'a block that ends behind the end of the file', change: () => undefined, cut: data + 2.5 * MiB,
    lines: [`VHDX BAT entry 2 end offset ${data + 3 * MiB - 1} points after end of file (${data + 2.5 * MiB}). Image has probably been truncated.`],
    content: [[1, 1], [2, 2], [3, 0], [0, 0]],
  },
  {
    name: 'two blocks at one place', change: (view) => writeEntry(view, 3, data + State.FULLY_PRESENT),
    lines: [`VHDX BAT entry 3 refers to offset ${data}, where another block lies`],
    content: [[1, 1], [2, 2], [3, 3], [1, 1]],
  },
  {
    name: 'a block on the metadata', change: (view) => writeEntry(view, 2, 3 * MiB + State.FULLY_PRESENT),
    lines: [`VHDX region ${3 * MiB}-${4 * MiB} overlaps with region ${3 * MiB}-${4 * MiB}`],
    content: [[1, 1], [2, 2], ['m'.charCodeAt(0), 0], [0, 0]],
  },
  {
    name: 'a state that makes no sense', change: (view) => writeEntry(view, 1, data + 4),
    lines: ['VHDX BAT entry 1 has the invalid state 4'],
    content: [[1, 1], [0, 0], [3, 3], [0, 0]],
  },
];

describe('check', () => {
  it('finds nothing wrong with what was just written', async () => {
    expect(await check(await damaged(() => undefined), 'none')).toEqual({ corruptions: 0, corruptionsFixed: 0, lines: [] });
  });

  it.each(cases)('tells of $name, and mends it', async ({ change, cut, lines, content }) => {
    const recording = await damaged(change, cut);
    expect(await check(recording, 'none')).toEqual({ corruptions: 1, corruptionsFixed: 0, lines });
    expect(await check(recording, 'all')).toEqual({ corruptions: 0, corruptionsFixed: 1, lines });
    expect(await check(recording, 'none')).toEqual({ corruptions: 0, corruptionsFixed: 0, lines: [] });
    expect(await blocks(recording)).toEqual(content);
  });

  it.each([192, 256])('tells of the region table at %i KiB, and mends it', async (kib) => {
    const sound = (await damaged(() => undefined)).content.slice();
    const recording = new Recording(sound.slice());
    recording.content[kib * 1024 + 20]! ^= 1;
    const lines = [`The region table at offset ${kib * 1024} is damaged; there is another`];
    expect(await check(recording, 'none')).toEqual({ corruptions: 1, corruptionsFixed: 0, lines });
    expect(await check(recording, 'all')).toEqual({ corruptions: 0, corruptionsFixed: 1, lines });
    expect(await check(recording, 'none')).toEqual({ corruptions: 0, corruptionsFixed: 0, lines: [] });
    expect(Buffer.compare(recording.content.subarray(192 * 1024, MiB), sound.subarray(192 * 1024, MiB))).toBe(0);
  });

  it('a block that is not there may be said to lie anywhere', async () => {
    const recording = await damaged((view) => view.setBigUint64(3 * 8, 0xffff_ffff_fff0_0000n, true));
    expect(await check(recording, 'none')).toEqual({ corruptions: 0, corruptionsFixed: 0, lines: [] });
    expect(await blocks(recording)).toEqual([[1, 1], [2, 2], [3, 3], [0, 0]]);
  });

  it('an image whose blocks lie nowhere is not opened for anything else', async () => {
    const recording = await damaged(() => undefined, data + MiB);
    await expect(graphOf(recording).openBackend(spec)).rejects.toThrow('Invalid argument');
  });
});
