/** Parallels both ways: images, checks and repairs as qemu-img sees them; bundles, which qemu-img cannot open, by their images. */
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { DirtyBitmap } from '../../src/block/dirty-bitmap.js';
import { createRegistry } from '../../src/drivers.js';
import { applySteps, content, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { runHere } from '../support/in-process.js';
import { TestFolder } from '../support/nbd-servers.js';
import { ToolFolder } from '../support/our-tools.js';
import { bitmapName, describeBundle, guid, withBitmap } from '../support/parallels-maker.js';
import { havePeers, oracleTool } from '../support/peers.js';

const MiB = 1 << 20;
const size = 8 * MiB + 3 * 512;
const steps: readonly Step[] = [
  { kind: 'write', offset: 100_001, length: 300_001, seed: 1 },
  { kind: 'write', offset: 4 * MiB - 512, length: 2 * MiB, seed: 2 },
  { kind: 'zero', offset: 5 * MiB, length: MiB },
  { kind: 'discard', offset: 0, length: 0 },
  { kind: 'write', offset: 2 * MiB + 5, length: 70_000, seed: 3 },
  { kind: 'write', offset: 5 * MiB + 100_000, length: 10, seed: 4 },
  { kind: 'zero', offset: 2 * MiB, length: 3000 },
  { kind: 'write', offset: size - 1000, length: 1000, seed: 5 },
];

const graph = (gate: () => boolean = () => true): BlockGraph => new BlockGraph({ drivers: createRegistry(), gate });

async function contentOf(spec: string, gate?: () => boolean): Promise<Uint8Array> {
  const opened = graph(gate);
  try {
    const disk = await opened.openBackend(spec, { driver: 'parallels', readOnly: true });
    const bytes = new Uint8Array(disk.size);
    await disk.read(0, bytes);
    await disk.close();
    return bytes;
  } finally {
    await opened.close();
  }
}

async function change(spec: string, todo: readonly Step[]): Promise<void> {
  const opened = graph();
  const disk = await opened.openBackend(spec, { driver: 'parallels', discard: 'unmap' });
  await applySteps(disk, todo);
  await disk.close();
  await opened.close();
}

const make = (filename: string, bytes: number, clusterSize: number): Promise<void> =>
  createImageFile(graph(), { filename, format: 'parallels', size: bytes, options: { cluster_size: clusterSize } });
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Turns an image whose table counts clusters into one of the older kind, whose table counts sectors. */
function makeOld(file: string): void {
  const image = readFileSync(file);
  image.write('WithoutFreeSpace', 0, 'latin1');
  const clusterSectors = image.readUInt32LE(28);
  for (let entry = 0; entry < image.readUInt32LE(32); entry++) image.writeUInt32LE(image.readUInt32LE(64 + entry * 4) * clusterSectors, 64 + entry * 4);
  writeFileSync(file, image);
}

/** Puts a format extension with one bitmap, or what `edit` makes of it, into an empty image of 64-KiB clusters. */
function extend(file: string, disk: number, edit?: (feature: Buffer, cluster: Buffer) => void): void {
  writeFileSync(file, withBitmap(readFileSync(file), disk, edit));
}

describe.skipIf(!havePeers('qemu-img'))('parallels', () => {
  let folder: ToolFolder;
  let peers: { name: string; img: string; io: string }[];
  beforeAll(() => {
    folder = new ToolFolder();
    const [img, io] = [oracleTool('qemu-img'), oracleTool('qemu-io')];
    peers = [{ name: 'qemu 7.2', img: 'qemu-img', io: 'qemu-io' }, ...(img !== undefined && io !== undefined ? [{ name: 'qemu 10', img, io }] : [])];
  });
  afterAll(() => folder.remove());

  for (const [kind, clusterSize, old] of [['1 MiB', MiB, false], ['4 KiB', 4096, false], ['63 sectors', 63 * 512, false], ['64 KiB, old', 65_536, true]] as const) {
    // its check finds fault with clusters that are no power of two, and breaks what it has made itself
    const judged = Number.isInteger(Math.log2(clusterSize));
    it(`clusters of ${kind}: what we write reads the same elsewhere`, async () => {
      const file = folder.file('ours.hds');
      await make(file, size, clusterSize);
      if (old) makeOld(file);
      await change(file, steps);
      const { bytes } = new DiskModel(new Uint8Array(size)).apply(steps);
      expect(same(await contentOf(file), bytes)).toBe(true);
      for (const { img } of peers) {
        if (judged) expect(folder.succeed(img, ['check', '-f', 'parallels', file])).toContain('No errors were found');
        folder.succeed(img, ['convert', '-f', 'parallels', '-O', 'raw', file, 'out.raw']);
        expect(same(readFileSync(folder.file('out.raw')), bytes)).toBe(true);
      }
    });

    it(`clusters of ${kind}: what others write reads the same here`, async () => {
      for (const { img, io } of peers) {
        const file = folder.file('theirs.hds');
        folder.succeed(img, ['create', '-q', '-f', 'parallels', '-o', `cluster_size=${clusterSize}`, file, String(size)]);
        if (old) makeOld(file);
        folder.succeed(io, ['-f', 'parallels', '-d', 'unmap', ...stepParameters(steps, (name) => folder.file(name)), file]);
        expect(same(await contentOf(file), new DiskModel(new Uint8Array(size)).apply(steps).bytes)).toBe(true);
        if (judged) expect((await runHere('qemu-img', ['check', file])).stdout).toBe(folder.run(peers.at(-1)!.img, ['check', file]).stdout);
      }
    });
  }

  for (const [clusterSize, old] of [[512, false], [4096, false], [512, true], [MiB, false]] as const) {
    it(`grows and shrinks as others can read, with ${old ? 'old ' : ''}clusters of ${clusterSize} bytes`, async () => {
      const file = folder.file('resized.hds');
      const sizes = [100 * 512, 3 * MiB + 512, 2 * MiB, 64 * MiB + 512 * 7, 70_000 - (70_000 % 512), 5 * MiB];
      await make(file, sizes[0]!, clusterSize);
      if (old) makeOld(file);
      const model = new DiskModel(new Uint8Array(sizes[0]!));
      for (const [turn, bytes] of sizes.entries()) {
        const opened = graph();
        const disk = await opened.openBackend(file, { driver: 'parallels', discard: 'unmap' });
        await disk.resize(bytes, {});
        model.resize(bytes);
        const todo: Step[] = [{ kind: 'write', offset: 1000 * turn, length: 30_000, seed: turn }, { kind: 'write', offset: bytes - 3000, length: 3000, seed: turn + 50 }];
        await applySteps(disk, todo);
        model.apply(todo);
        await disk.close();
        await opened.close();
        expect(same(await contentOf(file), model.bytes)).toBe(true);
        for (const { img } of peers) {
          expect(folder.succeed(img, ['check', '-f', 'parallels', file])).toContain('No errors were found');
          folder.succeed(img, ['convert', '-f', 'parallels', '-O', 'raw', file, 'out.raw']);
          expect(same(readFileSync(folder.file('out.raw')), model.bytes)).toBe(true);
        }
      }
    });
  }

  /** Offset and 32-bit word for each change of a sound image. */
  const damages: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
    none: [], 'not closed': [[44, 0x746f_6e59]], 'data_off 0': [[48, 0]], 'data_off 1': [[48, 1]], 'one cluster twice': [[64 + 4, 1]],
    'not closed, data_off wrong': [[44, 0x746f_6e59], [48, 77]],
  };
  for (const [name, words] of Object.entries(damages)) {
    it(`is checked and repaired as by qemu-img 10: ${name}`, () => {
      const peer = oracleTool('qemu-img');
      if (peer === undefined) return;
      folder.succeed(peer, ['create', '-q', '-f', 'parallels', 'sound.hds', '8M']);
      folder.succeed(peers.at(-1)!.io, ['-f', 'parallels', '-c', 'write -P 1 0 1M', '-c', 'write -P 3 2M 1M', '-c', 'write -P 2 1M 1M', '-c', 'write -P 4 4M 1M', folder.file('sound.hds')]);
      const image = readFileSync(folder.file('sound.hds'));
      for (const [offset, word] of words) image.writeUInt32LE(word, offset);
      const once = [['check', '--output=json'], ['info'], ['info', '--output=json'], ['map']];
      for (const parameters of [['check'], ['check', '-r', 'leaks'], ['check', '-r', 'all'], ...(name === 'not closed' ? once : [])]) {
        const [theirs, ours] = [peer, folder.tool('qemu-img')].map((tool) => {
          writeFileSync(folder.file('damaged.hds'), image, { flush: true });
          const { status, stdout, stderr } = folder.run(tool, [...parameters, 'damaged.hds']);
          return { parameters, status, stdout, stderr, file: createHash('md5').update(readFileSync(folder.file('damaged.hds'))).digest('hex') };
        });
        expect(ours).toEqual(theirs);
      }
    });
  }

  it('stored bitmaps are read, and broken ones refused, as by qemu-io 10', async () => {
    const peer = oracleTool('qemu-io');
    if (peer === undefined) return;
    const edits: ((feature: Buffer, cluster: Buffer) => void)[] = [
      () => undefined, (feature) => feature.writeUInt32LE(1, 8), (feature) => feature.writeUInt32LE(2, 8), (feature) => feature.writeBigUInt64LE(0x1234n, 0),
      (feature) => feature.writeUInt32LE(20, 16), (feature) => feature.writeBigUInt64LE(5n, 24), (feature) => feature.writeUInt32LE(7, 52),
      (feature) => feature.writeUInt32LE(0x7fff_ffff, 16), (feature) => feature.writeBigUInt64LE(0n, 0), (feature) => feature.writeBigUInt64LE(1n, 56),
      (_, cluster) => cluster.writeBigUInt64LE(1n, 0), (feature) => void feature.copy(feature, 64, 0, 64),
    ];
    for (const edit of edits) {
      const file = folder.file('extended.hds');
      await make(file, 4 * MiB, 65_536);
      extend(file, 4 * MiB, edit);
      const { stderr } = folder.run(peer, ['-r', '-c', 'read -q 0 512', file]);
      const ours = await contentOf(file).then(() => '', (error: Error) => `qemu-io: can't open device ${file}: ${error.message}\n`);
      expect(ours).toBe(stderr);
    }
  });

  /** The bitmap's dirty bytes as another reader has them. */
  async function dirtyByPeer(file: string, format = 'parallels'): Promise<[number, number][]> {
    const servers = new TestFolder();
    try {
      const { socket } = await servers.serve(oracleTool('qemu-nbd')!, (path) => ['-r', '-t', '-f', format, '-k', path, '-B', bitmapName, file]);
      const map = folder.succeed(oracleTool('qemu-img')!, ['map', '--output=json', '--image-opts',
        `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${bitmapName}`]);
      return (JSON.parse(map) as { start: number; length: number; data: boolean }[]).filter(({ data }) => !data).map(({ start, length }) => [start, start + length]);
    } finally {
      await servers.remove();
    }
  }

  it('writes are recorded by stored bitmaps, which others read then, and sizes may change', async () => {
    const file = folder.file('extended.hds');
    await make(file, 4 * MiB, 65_536);
    extend(file, 4 * MiB);
    const before = readFileSync(file);
    await change(file, []);
    expect(same(readFileSync(file), before)).toBe(true);
    const expected = new DirtyBitmap({ granularity: 65_536, size: 4 * MiB });
    for (let bit = 0; bit < 64; bit += 3) expected.set(bit * 65_536, 1);
    for (const [offset, length, grown] of [[70_000, 200_000, 0], [3 * MiB, MiB, 0], [MiB, 1, 64 * 1024], [0, 4 * MiB, 0]] as const) {
      const opened = graph();
      const disk = await opened.openBackend(file, { driver: 'parallels' });
      if (grown > 0) await disk.resize(disk.size + grown, { zeroNew: true });
      expected.resize(disk.size);
      await disk.write(offset, content(length, length));
      expected.set(offset, length);
      await disk.close();
      await opened.close();
      const dirty = [...expected.ranges()].map((range) => [range.offset, range.offset + range.length]);
      if (oracleTool('qemu-nbd') !== undefined) expect(await dirtyByPeer(file)).toEqual(dirty);
      for (const { img } of peers) {
        folder.succeed(img, ['convert', '-f', 'parallels', '-O', 'raw', file, 'out.raw']);
        expect(same(readFileSync(folder.file('out.raw')), await contentOf(file))).toBe(true);
        expect(folder.succeed(img, ['check', '-f', 'parallels', file])).toContain('No errors were found');
      }
    }
    for (const parameters of [['bitmap', '--clear'], ['check', '-r', 'all'], ['bitmap', '--remove']]) {
      const [verb, ...rest] = parameters;
      const given = verb === 'check' ? ['-f', 'parallels', file] : ['-f', 'parallels', file, bitmapName];
      expect(await runHere('qemu-img', [verb!, ...rest, ...given])).toMatchObject({ status: 0 });
      const opened = graph();
      const disk = await opened.openBackend(file, { driver: 'parallels', readOnly: true });
      expect([...disk.node.bitmaps.values()].map(({ count }) => count)).toEqual(rest[0] === '--remove' ? [] : [0]);
      await opened.close();
    }
  });

  it('stored bitmaps go with a conversion, for others to read', async () => {
    const file = folder.file('extended.hds');
    await make(file, 4 * MiB, 65_536);
    extend(file, 4 * MiB);
    await change(file, [{ kind: 'write', offset: 70_000, length: 200_000, seed: 9 }]);
    const copy = folder.file('copy.qcow2');
    expect(await runHere('qemu-img', ['convert', '--bitmaps', '-f', 'parallels', '-O', 'qcow2', file, copy])).toMatchObject({ status: 0 });
    for (const { img } of peers) {
      expect(folder.succeed(img, ['compare', '-f', 'parallels', '-F', 'qcow2', file, copy])).toContain('identical');
      expect(folder.succeed(img, ['check', '-f', 'qcow2', copy])).toContain('No errors were found');
    }
    if (oracleTool('qemu-nbd') === undefined) return;
    const dirty = await dirtyByPeer(file);
    expect(dirty.length).toBeGreaterThan(10);
    expect(await dirtyByPeer(copy, 'qcow2')).toEqual(dirty);
  });

  it('a bundle of split images with snapshots is read and written through its descriptor', async () => {
    const half = 4 * MiB;
    const chain = ['base.hds', 'middle.hds', 'top.hds'];
    for (const name of chain) for (const part of ['a', 'b']) await make(folder.file(`${part}.${name}`), half, 65_536);
    const model = new DiskModel(new Uint8Array(2 * half));
    const layers: readonly (readonly Step[])[] = [
      [{ kind: 'write', offset: 0, length: 2 * half, seed: 10 }],
      [{ kind: 'write', offset: 200_000, length: 500_000, seed: 11 }, { kind: 'write', offset: half - 100_000, length: 200_000, seed: 12 }],
      [{ kind: 'write', offset: 100_000, length: 200_000, seed: 13 }, { kind: 'write', offset: half + 50_000, length: 1000, seed: 14 }, { kind: 'zero', offset: 600_000, length: 200_000 }],
    ];
    for (const [depth, layer] of layers.entries()) {
      const shots = chain.slice(0, depth + 1).map((_, id) => `<Shot><GUID>${guid(id + 1)}</GUID><ParentGUID>${guid(id)}</ParentGUID></Shot>`).join('');
      const images = (part: string): [number, string][] => chain.slice(0, depth + 1).map((name, id) => [id + 1, `${part}.${name}`]);
      writeFileSync(folder.file('DiskDescriptor.xml'), describeBundle(
        [{ end: half / 512, images: images('a') }, { end: 2 * half / 512, images: images('b') }], `<TopGUID>${guid(depth + 1)}</TopGUID>${shots}`));
      await change(folder.file('DiskDescriptor.xml'), layer);
      model.apply(layer);
      expect(same(await contentOf(folder.file('DiskDescriptor.xml')), model.bytes)).toBe(true);
    }
    for (const name of chain) for (const part of ['a', 'b']) expect(folder.run(peers[0]!.img, ['check', '-f', 'parallels', `${part}.${name}`])).toMatchObject({ status: 0 });
    // what lies below a snapshot has not changed: the oldest image still shows the first layer
    const base = await contentOf(folder.file('a.base.hds'));
    expect(same(base, content(10, 2 * half).subarray(0, half))).toBe(true);
    expect(folder.succeed(folder.tool('qemu-img'), ['info', 'DiskDescriptor.xml'])).toMatch(/file format: parallels[^]*virtual size: 8 MiB/);
    await expect(contentOf(folder.file('DiskDescriptor.xml'), () => false)).rejects.toMatchObject({ code: 'GATE_DENIED' });
  });

  it('a bundle of a plain image is the raw disk; other bundles are refused by name', async () => {
    writeFileSync(folder.file('plain.raw'), content(20, MiB));
    const descriptor = folder.file('DiskDescriptor.xml');
    const plain = [{ end: MiB / 512, images: [[1, 'plain.raw']] }] as const;
    writeFileSync(descriptor, describeBundle(plain));
    await change(descriptor, [{ kind: 'write', offset: 1000, length: 3000, seed: 21 }]);
    copyFileSync(folder.file('plain.raw'), folder.file('copy.raw'));
    expect(same(readFileSync(folder.file('copy.raw')), await contentOf(descriptor))).toBe(true);
    const refused: [RegExp, string][] = [
      ...[' SYSTEM "http://127.0.0.1/x.dtd"', '', '[<!ENTITY file "plain.raw">]'].map((rest): [RegExp, string] =>
        [/document type/, describeBundle(plain).replace('?>', `?>\n<!-- note -->\n<!DOCTYPE Parallels_disk_image${rest}>`)]),
      [/version '2.0'/, describeBundle(plain).replace('Version="1.0"', 'Version="2.0"')],
      [/encryption/, describeBundle(plain, '', '<Encryption><Engine>{00000000-0000-0000-0000-000000000009}</Engine></Encryption>')],
      [/padding/, describeBundle(plain).replace('<Padding>0<', '<Padding>1<')],
      [/images of type 'Expanding'/, describeBundle(plain).replace('>Plain<', '>Expanding<')],
      [/lacks the image/, describeBundle(plain, `<TopGUID>${guid(7)}</TopGUID>`)],
      [/in a circle/, describeBundle(plain, `<TopGUID>${guid(1)}</TopGUID><Shot><GUID>${guid(1)}</GUID><ParentGUID>${guid(1)}</ParentGUID></Shot>`)],
      [/do not follow one another/, describeBundle(plain).replace('<Start>0<', '<Start>5<')],
      [/another size/, describeBundle(plain).replace('<Disk_size>2048<', '<Disk_size>4096<')],
    ];
    for (const [message, text] of refused) {
      writeFileSync(descriptor, text);
      await expect(contentOf(descriptor)).rejects.toThrow(message);
      expect(folder.run(folder.tool('vdisk'), ['info', 'DiskDescriptor.xml']).stderr, 'as it is found by its content').toMatch(message);
    }
  });

  it.each(['nbd:127.0.0.1:PORT', 'nbd://127.0.0.1:PORT/disk'])('an image of a bundle that is called %s is a file, not a server', async (name) => {
    let connections = 0;
    const server = createServer((socket) => { connections++; socket.destroy(); });
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    const image = name.replace('PORT', String((server.address() as AddressInfo).port));
    writeFileSync(folder.file('DiskDescriptor.xml'), describeBundle([{ end: MiB / 512, images: [[1, image]] }]));
    await expect(contentOf(folder.file('DiskDescriptor.xml'))).rejects.toThrow(`${image}': No such file`);
    expect(folder.run(folder.tool('vdisk'), ['info', 'DiskDescriptor.xml']).stderr).toContain(`'./${image}': No such file`);
    expect(connections).toBe(0);
    server.close();
  });

  it('creation and its refusals are those of qemu-img 10', () => {
    const peer = oracleTool('qemu-img');
    if (peer === undefined) return;
    for (const parameters of [['-o', 'help'], ['-o', 'cluster_size=100', 'n.hds', '1M'], ['-o', 'cluster_size=1536', 'n.hds', '1000'], ['-o', 'cluster_size=0', 'n.hds', '1M'],
      ['-o', 'cluster_size=8G', 'n.hds', '1M'], ['-o', 'cluster_size=512', 'n.hds', '8T'], ['n.hds', '0'], ['-o', 'foo=1', 'n.hds', '1M'], ['-b', 'sound.hds', 'n.hds']]) {
      const [theirs, ours] = [peer, folder.tool('qemu-img')].map((program) => {
        rmSync(folder.file('n.hds'), { force: true });
        const { status, stdout, stderr } = folder.run(program, ['create', '-f', 'parallels', ...parameters]);
        return { parameters, status, stdout, stderr, head: existsSync(folder.file('n.hds')) && status === 0 ? readFileSync(folder.file('n.hds')).subarray(0, 4096).toString('hex') : '' };
      });
      expect(ours).toEqual(theirs);
    }
  });
});
