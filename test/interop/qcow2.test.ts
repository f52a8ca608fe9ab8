/**
 * qcow2 both ways: what we write is checked, compared and read by qemu-img 7.2 and 10, 7-Zip and libqcow; what they write reads,
 * checks and is described the same by us. Every layout runs the same steps, and a plain byte array says what must come out.
 */
import { createHash } from 'node:crypto';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { addBitmap } from '../../src/image/bitmap.js';
import { createFields, parseCreateOptions } from '../../src/image/create.js';
import { applySteps, dirtyRanges, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { runHere } from '../support/in-process.js';
import { listens } from '../support/nbd-servers.js';
import { settle, ToolFolder, until } from '../support/our-tools.js';
import { share } from '../support/cases.js';
import { havePeers, oracleTool } from '../support/peers.js';

const MiB = 1 << 20;
const size = 8 * MiB + 3 * 512;

interface Layout {
  readonly name: string;
  /** Text of -o; IMAGE stands for the image's own name. */
  readonly options: string;
  readonly backing?: boolean;
  /** What else the layout has no room for. */
  readonly snapshots?: false;
  readonly bitmaps?: false;
  readonly compression?: false;
  /** What 7-Zip 26 and libqcow 20201213 make of QEMU's own images of this layout. */
  readonly foreign: readonly ('7-Zip' | 'libqcow')[];
}

const external = { snapshots: false, compression: false } as const;
const layouts: readonly Layout[] = [
  { name: 'as it comes', options: 'cluster_size=64k', foreign: ['7-Zip', 'libqcow'] },
  { name: 'clusters of 512 bytes', options: 'cluster_size=512', foreign: ['7-Zip', 'libqcow'] },
  { name: 'clusters of 4 KiB', options: 'cluster_size=4k', foreign: ['7-Zip', 'libqcow'] },
  { name: 'clusters of 2 MiB', options: 'cluster_size=2M', foreign: ['7-Zip', 'libqcow'] },
  { name: 'refcounts of 1 bit', options: 'refcount_bits=1', snapshots: false, foreign: ['7-Zip', 'libqcow'] },
  { name: 'refcounts of 64 bits', options: 'refcount_bits=64,cluster_size=4k', foreign: ['7-Zip', 'libqcow'] },
  { name: 'version 2', options: 'compat=0.10', bitmaps: false, foreign: ['7-Zip', 'libqcow'] },
  { name: 'subclusters', options: 'extended_l2=on', foreign: [] },
  { name: 'subclusters of 64 KiB', options: 'extended_l2=on,cluster_size=2M', foreign: [] },
  { name: 'lazy refcounts', options: 'lazy_refcounts=on,cluster_size=32k', foreign: ['7-Zip', 'libqcow'] },
  { name: 'zstd', options: 'compression_type=zstd', foreign: [] },
  { name: 'metadata preallocated', options: 'preallocation=metadata', compression: false, foreign: ['7-Zip', 'libqcow'] },
  { name: 'everything preallocated', options: 'preallocation=falloc,cluster_size=16k', compression: false, foreign: ['7-Zip', 'libqcow'] },
  { name: 'on a backing file', options: 'cluster_size=64k', backing: true, foreign: [] },
  { name: 'subclusters on a backing file', options: 'extended_l2=on,cluster_size=128k', backing: true, foreign: [] },
  { name: 'an external data file', options: 'data_file=IMAGE.data', ...external, foreign: [] },
  { name: 'a raw external data file', options: 'data_file=IMAGE.data,data_file_raw=on', ...external, foreign: [] },
];

/** Before the snapshot. */
const first: readonly Step[] = [
  { kind: 'write', offset: 100_001, length: 300_001, seed: 1 },
  { kind: 'compressed', offset: 2 * MiB, length: 2 * MiB, seed: 2 },
  { kind: 'write', offset: 2.5 * MiB + 100, length: 70_000, seed: 3 },
  { kind: 'write', offset: 4 * MiB, length: MiB, seed: 4 },
  { kind: 'zero', offset: 4 * MiB + 1000, length: 700_000 },
  { kind: 'write', offset: 6 * MiB, length: MiB, seed: 5 },
  { kind: 'write', offset: size - 700, length: 700, seed: 6 },
  { kind: 'discard', offset: 6 * MiB, length: 2 * MiB },
];
/** After it, recorded in a bitmap. */
const second: readonly Step[] = [
  { kind: 'write', offset: MiB - 5, length: 500_000, seed: 7 },
  { kind: 'write', offset: 3 * MiB + 65_536, length: 8192, seed: 8 },
  { kind: 'discard', offset: 4 * MiB, length: 2 * MiB },
  { kind: 'write', offset: 5 * MiB + 123, length: 10_000, seed: 9 },
  { kind: 'zero', offset: 7 * MiB, length: MiB },
];
/** Behind the first end, when the image has grown. */
const grown = 10 * MiB + 512;
const third: readonly Step[] = [
  { kind: 'write', offset: 8 * MiB - 512, length: 100_000, seed: 10 },
  { kind: 'discard', offset: 0, length: 2 * MiB },
  { kind: 'compressed', offset: 0, length: 2 * MiB, seed: 11 },
];
const shrunk = 5 * MiB;

const storable = (layout: Layout, steps: readonly Step[]): readonly Step[] =>
  layout.compression === false ? steps.map((step) => (step.kind === 'compressed' ? { ...step, kind: 'write' } : step)) : steps;

const peers = { 'qemu-img 7.2': '/usr/bin', 'qemu-img 10': '' };
const oracle = oracleTool('qemu-img');
const usable = havePeers('qemu-img', 'qemu-io', 'nbdinfo') && oracle !== undefined;
if (oracle !== undefined) peers['qemu-img 10'] = oracle.replace(/\/qemu-img$/, '');
const judges = Object.values(peers);
const newest = peers['qemu-img 10'];
const ours = 'ours';

describe.skipIf(!usable)('qcow2', () => {
  let folder: ToolFolder;
  let graph: BlockGraph;
  let base: DiskModel;
  const imageCount = new Map<string, number>();
  beforeAll(() => {
    folder = new ToolFolder();
    graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    base = new DiskModel(new Uint8Array(6 * MiB)).apply([{ kind: 'write', offset: 0, length: 6 * MiB, seed: 20 }]);
    writeFileSync(folder.file('base.raw'), base.bytes);
    folder.succeed(`${newest}/qemu-img`, ['convert', '-f', 'raw', '-O', 'qcow2', 'base.raw', 'base.qcow2']);
  });
  afterAll(async () => {
    await graph.close();
    await folder.remove();
  });

  const newName = (layout: Layout): string => {
    const count = (imageCount.get(layout.name) ?? 0) + 1;
    imageCount.set(layout.name, count);
    return folder.file(`${layouts.indexOf(layout)}-${count}.qcow2`);
  };
  const optionText = (layout: Layout, image: string): string =>
    `${layout.options.replace('IMAGE', image)}${layout.backing ? `,backing_file=${folder.file('base.qcow2')},backing_fmt=qcow2` : ''}`;
  const modelOf = (layout: Layout): { before: DiskModel; after: DiskModel } => {
    const before = new DiskModel(layout.backing ? base.copy().resize(size).bytes : new Uint8Array(size)).apply(first);
    return { before, after: before.copy().apply(second) };
  };

  async function writeThroughLibrary(layout: Layout, image: string): Promise<void> {
    const driver = graph.drivers.get('qcow2')!;
    const options = parseCreateOptions(createFields(driver, graph.drivers.get('file')), optionText(layout, image));
    await createImageFile(graph, { filename: image, format: 'qcow2', size, options });
    const disk = await graph.openBackend(image, { driver: 'qcow2', discard: 'unmap', cache: { noFlush: true } });
    try {
      await applySteps(disk, storable(layout, first));
      if (layout.snapshots !== false) await disk.node.facet('snapshots')!.create({ name: 'one' });
      if (layout.bitmaps !== false) await addBitmap(disk.node, 'b0');
      await applySteps(disk, second);
    } finally {
      await disk.close();
    }
  }

  /** The same with a tool's command lines. */
  function writeWith(tools: string, layout: Layout, image: string): void {
    const io = (steps: readonly Step[]): string =>
      folder.succeed(`${tools}/qemu-io`, ['-f', 'qcow2', '-d', 'unmap', '-t', 'unsafe', ...stepParameters(steps, (name) => folder.file(name)), image]);
    folder.succeed(`${tools}/qemu-img`, ['create', '-q', '-f', 'qcow2', '-o', optionText(layout, image), image, String(size)]);
    io(storable(layout, first));
    if (layout.snapshots !== false) folder.succeed(`${tools}/qemu-img`, ['snapshot', '-c', 'one', image]);
    if (layout.bitmaps !== false) folder.succeed(`${tools}/qemu-img`, ['bitmap', '--add', image, 'b0']);
    io(second);
  }

  /** Runs a tool of that name that must succeed: a peer's from its folder, or ours. */
  async function run(tools: string, tool: 'qemu-img' | 'qemu-io', ...parameters: readonly string[]): Promise<void> {
    if (tools === ours) expect(await runHere(tool, parameters), parameters.join(' ')).toMatchObject({ status: 0 });
    else folder.succeed(`${tools}/${tool}`, parameters);
  }

  /** Snapshots created, applied and deleted, a bitmap removed and one added, the image grown and written. Resolves with what it must show. */
  async function change(tools: string, layout: Layout, image: string): Promise<DiskModel> {
    const { before, after } = modelOf(layout);
    if (layout.bitmaps !== false) await run(tools, 'qemu-img', 'bitmap', '--remove', image, 'b0');
    if (layout.snapshots !== false) {
      for (const options of [['-c', 'two'], ['-a', 'one'], ['-d', 'one'], ['-d', 'two']]) await run(tools, 'qemu-img', 'snapshot', ...options, image);
    }
    await run(tools, 'qemu-img', 'resize', '-f', 'qcow2', image, String(grown));
    if (layout.bitmaps !== false) await run(tools, 'qemu-img', 'bitmap', '--add', '-g', '32k', image, 'b1');
    await run(tools, 'qemu-io', '-f', 'qcow2', '-d', 'unmap', '-t', 'unsafe', ...stepParameters(storable(layout, third), (name) => folder.file(name)), image);
    return (layout.snapshots === false ? after : before).resize(grown).apply(third);
  }

  /** Sound to both peers, and what the model says. */
  function expectSound(image: string, model: DiskModel): void {
    const reference = `${image}.expected`;
    writeFileSync(reference, model.bytes);
    for (const tools of judges) {
      const check = folder.run(`${tools}/qemu-img`, ['check', '-f', 'qcow2', image]);
      expect([check.status, check.stderr, check.stdout]).toEqual([0, '', expect.stringContaining('No errors were found on the image.')]);
      expect(folder.run(`${tools}/qemu-img`, ['compare', '-f', 'qcow2', '-F', 'raw', image, reference]).stdout).toBe('Images are identical.\n');
    }
  }

  async function expectSnapshot(tools: string, image: string, name: string, model: DiskModel): Promise<void> {
    await run(tools, 'qemu-img', 'convert', '-f', 'qcow2', '-l', `snapshot.name=${name}`, '-O', 'raw', image, `${image}.snapshot`);
    expect(sha256(readFileSync(`${image}.snapshot`))).toBe(sha256(model.bytes));
  }

  /** The bitmap's dirty ranges as the peer's NBD server shows them. */
  async function dirtyByPeer(image: string, bitmap: string): Promise<[number, number][]> {
    const socket = folder.file('bitmap.sock');
    const server = folder.start(`${newest}/qemu-nbd`, ['-t', '-e', '0', '-r', '-f', 'qcow2', '-k', socket, '-B', bitmap, image]);
    await until(async () => server.child.exitCode !== null || await listens(socket), 'qemu-nbd');
    const { stdout, stderr } = folder.run('nbdinfo', ['--json', `--map=qemu:dirty-bitmap:${bitmap}`, `nbd+unix:///?socket=${socket}`]);
    server.child.kill();
    await server.ended;
    if (stdout === '') throw new Error(`${stderr}${server.output.stderr}`);
    const ranges: [number, number][] = [];
    for (const { offset, length, type } of JSON.parse(stdout) as { offset: number; length: number; type: number }[]) {
      const last = ranges.at(-1);
      if (type !== 0 && last !== undefined && last[0] + last[1] === offset) last[1] += length;
      else if (type !== 0) ranges.push([offset, length]);
    }
    return ranges;
  }

  /** check, map and info say the same, word for word. */
  async function expectSameWords(image: string): Promise<void> {
    settle(image);
    for (const command of [['check'], ['map', '--output=json'], ['info', '--output=json'], ['info']]) {
      const parameters = [...command, '-f', 'qcow2', image];
      const { status, stdout } = folder.run(`${newest}/qemu-img`, parameters);
      expect(await runHere('qemu-img', parameters), command.join(' ')).toMatchObject({ status, stdout });
    }
  }

  async function expectWeRead(image: string, model: DiskModel, dirty: [number, number][] | undefined): Promise<void> {
    const disk = await graph.openBackend(image, { driver: 'qcow2', readOnly: true });
    try {
      const bytes = new Uint8Array(disk.size);
      await disk.read(0, bytes);
      expect(sha256(bytes)).toBe(sha256(model.bytes));
      if (dirty === undefined) return;
      const bitmap = disk.node.bitmaps.get('b0')!;
      const ranges: [number, number][] = [];
      for (let range = bitmap.nextDirty(0); range !== undefined; range = bitmap.nextDirty(range.offset + range.length)) ranges.push([range.offset, range.length]);
      expect(ranges).toEqual(dirty);
    } finally {
      await disk.close();
    }
  }

  const granularityOf = (layout: Layout): number => {
    const [, digits, unit] = /cluster_size=(\d+)(k|M)?/.exec(layout.options) ?? [undefined, '64', 'k'];
    return Math.min(65_536, Math.max(4096, Number(digits) * (unit === undefined ? 1 : unit === 'k' ? 1024 : MiB)));
  };

  describe.each(layouts)('$name', (layout) => {
    const dirty = layout.bitmaps === false ? undefined : dirtyRanges(second, granularityOf(layout), size);

    it('written by the library, changed by our command line: sound and equal to the peers', async () => {
      const image = newName(layout);
      await writeThroughLibrary(layout, image);
      const { before, after } = modelOf(layout);
      expectSound(image, after);
      for (const tools of judges) if (layout.snapshots !== false) await expectSnapshot(tools, image, 'one', before);
      if (dirty) expect(await dirtyByPeer(image, 'b0')).toEqual(dirty);
      await expectSameWords(image);

      const changed = await change(ours, layout, image);
      expectSound(image, changed);
      if (dirty) expect(await dirtyByPeer(image, 'b1')).toEqual(dirtyRanges(third, 32_768, grown));
      if (layout.bitmaps !== false) await run(ours, 'qemu-img', 'bitmap', '--remove', image, 'b1');
      await run(ours, 'qemu-img', 'resize', '--shrink', '-f', 'qcow2', image, String(shrunk));
      expectSound(image, changed.resize(shrunk));
    });

    it.each(Object.keys(peers) as (keyof typeof peers)[])('written by the tools of %s: reads and is described the same', async (name) => {
      const image = newName(layout);
      writeWith(peers[name], layout, image);
      const { before, after } = modelOf(layout);
      await expectWeRead(image, after, dirty);
      if (layout.snapshots !== false) await expectSnapshot(ours, image, 'one', before);
      await expectSameWords(image);
    });
  });

  it.each(share(layouts, 2))('$name: written by the peer, changed by us; written by us, changed by the peer', async (layout) => {
    const theirs = newName(layout);
    writeWith(newest, layout, theirs);
    expectSound(theirs, await change(ours, layout, theirs));
    const image = newName(layout);
    await writeThroughLibrary(layout, image);
    const changed = await change(newest, layout, image);
    await expectWeRead(image, changed, undefined);
    await expectSameWords(image);
  });

  it('an image left open by a killed peer is checked and repaired in the same words', () => {
    const image = folder.file('killed.qcow2');
    folder.succeed(`${newest}/qemu-img`, ['create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on,cluster_size=4k', image, '4M']);
    folder.run(`${newest}/qemu-io`, ['-f', 'qcow2', '-c', 'write -P 5 0 1M', '-c', 'flush', '-c', 'abort', image]);
    copyFileSync(image, `${image}.ours`);
    const written = new DiskModel(new Uint8Array(4 * MiB));
    written.bytes.fill(5, 0, MiB);
    const run = (tool: string, file: string, ...options: readonly string[]): unknown => {
      const { status, stdout, stderr } = folder.run(tool, ['check', ...options, '-f', 'qcow2', file]);
      return { status, stdout, stderr };
    };
    const check = run(`${newest}/qemu-img`, image);
    expect(check).toMatchObject({ status: 2, stderr: expect.stringContaining('refcount=0') as string });
    expect(run(folder.tool('qemu-img'), `${image}.ours`)).toEqual(check);
    expect(run(folder.tool('qemu-img'), `${image}.ours`, '-r', 'all')).toEqual(run(`${newest}/qemu-img`, image, '-r', 'all'));
    for (const file of [image, `${image}.ours`]) expectSound(file, written);
  });

  it.skipIf(!havePeers('7zz') && !havePeers('7z'))('7-Zip extracts what we write', async () => {
    const sevenZip = folder.run('7zz', []).status === null ? '7z' : '7zz';
    for (const layout of layouts.filter(({ foreign }) => foreign.includes('7-Zip'))) {
      const image = newName(layout);
      await writeThroughLibrary(layout, image);
      expect(folder.run('sh', ['-c', `${sevenZip} e -so ${image} | sha256sum`]).stdout, layout.name).toBe(`${sha256(modelOf(layout).after.bytes)}  -\n`);
    }
  });

  it.skipIf(!havePeers('qcowinfo'))('libqcow opens what we write', async () => {
    for (const layout of layouts.filter(({ foreign }) => foreign.includes('libqcow'))) {
      const image = newName(layout);
      await writeThroughLibrary(layout, image);
      const information = folder.succeed('qcowinfo', [image]);
      expect(information, layout.name).toContain(`(${size} bytes)`);
      expect(information, layout.name).toContain(`Number of snapshots\t: ${layout.snapshots === false ? 0 : 1}`);
    }
  });
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
