/**
 * VHDX both ways: what we write is checked, compared and read by qemu-img 7.2 and 10, 7-Zip and libvhdi; what they write reads and
 * checks the same with us. Every layout runs the same steps, and a plain byte array says what must come out.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { checksum } from '../../src/format/vhdx/header.js';
import { createFields, parseCreateOptions } from '../../src/image/create.js';
import { applySteps, content, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { type Ended, ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';
import { scratchFolder } from '../support/scratch.js';

const MiB = 1 << 20;
const size = 12 * MiB + 3 * 4096;

const layouts = [
  { name: 'as it comes', options: '' },
  { name: 'blocks of 1 MiB, a log of 2 MiB', options: 'block_size=1M,log_size=2M' },
  { name: 'unmarked blocks', options: 'block_state_zero=off,block_size=2M' },
  { name: 'fixed', options: 'subformat=fixed,block_size=2M' },
] as const;

const first: readonly Step[] = [
  { kind: 'write', offset: 100_001, length: 300_001, seed: 1 },
  { kind: 'write', offset: 2 * MiB - 700, length: 3 * MiB, seed: 2 },
  { kind: 'zero', offset: 3 * MiB, length: MiB },
  { kind: 'write', offset: size - 700, length: 700, seed: 3 },
];
const second: readonly Step[] = [
  { kind: 'write', offset: 6 * MiB + 123, length: 1_234_567, seed: 4 },
  { kind: 'zero', offset: 4 * MiB + 100, length: 2_000_000 },
  { kind: 'write', offset: 3 * MiB + 512, length: 512, seed: 5 },
];
const grown = 20 * MiB;

const peers = { 'qemu-img 7.2': '/usr/bin', 'qemu-img 10': '' };
const oracle = oracleTool('qemu-img');
if (oracle !== undefined) peers['qemu-img 10'] = oracle.replace(/\/qemu-img$/, '');
const newest = peers['qemu-img 10'];
const sevenZip = ['7zz', '7z'].find((program) => existsSync(join('/usr/bin', program))) ?? '7zz';

describe.skipIf(!havePeers('qemu-img', 'qemu-io', sevenZip, 'vhdimount', 'fusermount') || oracle === undefined)('VHDX', () => {
  let folder: ToolFolder;
  let graph: BlockGraph;
  let count = 0;
  beforeAll(() => {
    folder = new ToolFolder(scratchFolder);
    graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  });
  afterAll(async () => {
    await graph.close();
    await folder.remove();
  });

  const newName = (): string => folder.file(`${count++}.vhdx`);
  const modelOf = (...steps: readonly (readonly Step[])[]): DiskModel => steps.reduce((model, some) => model.apply(some), new DiskModel(new Uint8Array(size)));

  async function create(image: string, optionText: string): Promise<void> {
    const driver = graph.drivers.get('vhdx')!;
    const options = parseCreateOptions(createFields(driver, graph.drivers.get('file')), optionText);
    await createImageFile(graph, { filename: image, format: 'vhdx', size, options });
  }

  async function change(image: string, steps: readonly Step[]): Promise<void> {
    const disk = await graph.openBackend(image, { driver: 'vhdx', discard: 'unmap', cache: { noFlush: true } });
    await applySteps(disk, steps);
    await disk.close();
  }

  /** The same with a tool's command line. */
  function changeWith(tools: string, image: string, steps: readonly Step[]): void {
    folder.succeed(`${tools}/qemu-io`, ['-f', 'vhdx', '-d', 'unmap', '-t', 'unsafe', ...stepParameters(steps, (name) => folder.file(name)), image]);
  }

  async function weRead(image: string): Promise<Buffer> {
    const disk = await graph.openBackend(image, { driver: 'vhdx', readOnly: true });
    const bytes = Buffer.alloc(disk.size);
    await disk.read(0, bytes);
    await disk.close();
    return bytes;
  }

  const expectSame = (found: Uint8Array, model: DiskModel): void => expect(Buffer.compare(found, model.bytes)).toBe(0);

  function sevenZipReads(image: string): Buffer {
    const raw = `${image}.7z.raw`;
    folder.succeed('sh', ['-c', `${sevenZip} e -tvhdx -so ${image} > ${raw}`]);
    return readFileSync(raw);
  }

  function libvhdiReads(image: string): Buffer {
    const mount = `${image}.mounted`;
    mkdirSync(mount, { recursive: true });
    folder.succeed('vhdimount', [image, mount]);
    try {
      return readFileSync(join(mount, readdirSync(mount).sort().at(-1)!));
    } finally {
      folder.succeed('fusermount', ['-u', mount]);
    }
  }

  /** Sound to both peers, and what the model says to everybody. */
  function expectSound(image: string, model: DiskModel): void {
    const reference = `${image}.expected`;
    writeFileSync(reference, model.bytes);
    for (const tools of Object.values(peers)) {
      expect(folder.run(`${tools}/qemu-img`, ['check', '-f', 'vhdx', image])).toMatchObject({ status: 0, stderr: '', stdout: 'No errors were found on the image.\n' });
      expect(folder.run(`${tools}/qemu-img`, ['compare', '-f', 'vhdx', '-F', 'raw', image, reference]).stdout).toBe('Images are identical.\n');
    }
    expectSame(sevenZipReads(image), model);
    expectSame(libvhdiReads(image), model);
  }

  describe.each(layouts)('$name', ({ options }) => {
    it('written by us, changed by the peer, grown by us', async () => {
      const image = newName();
      await create(image, options);
      await change(image, first);
      expectSound(image, modelOf(first));
      changeWith(newest, image, second);
      expectSame(await weRead(image), modelOf(first, second));
      folder.succeed(folder.tool('vdisk'), ['resize', '-f', 'vhdx', image, String(grown)]);
      await change(image, [{ kind: 'write', offset: grown - MiB, length: MiB, seed: 7 }]);
      expectSound(image, modelOf(first, second).resize(grown).apply([{ kind: 'write', offset: grown - MiB, length: MiB, seed: 7 }]));
    });

    it.each(Object.keys(peers) as (keyof typeof peers)[])('written by the tools of %s, changed by us', async (name) => {
      const image = newName();
      folder.succeed(`${peers[name]}/qemu-img`, ['create', '-q', '-f', 'vhdx', ...(options === '' ? [] : ['-o', options]), image, String(size)]);
      changeWith(peers[name], image, first);
      expectSame(await weRead(image), modelOf(first));
      await change(image, second);
      expectSound(image, modelOf(first, second));
    });
  });

  it('a disk of many chunks grows beyond its table, which moves', async () => {
    const image = newName();
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', image, '100G']);
    const steps = [{ kind: 'write', offset: 0, length: 5000, seed: 20 }, { kind: 'write', offset: 5 * 1024 * MiB, length: 3 * MiB, seed: 21 }] as const;
    await change(image, steps);
    folder.succeed(folder.tool('vdisk'), ['resize', '-f', 'vhdx', image, '300G']);
    const behind = [{ kind: 'write', offset: 299 * 1024 * MiB, length: 3 * MiB, seed: 22 }] as const;
    await change(image, behind);
    for (const { offset, length, seed } of [...steps, ...behind]) {
      for (const tools of Object.values(peers)) {
        folder.succeed(`${tools}/qemu-img`, ['dd', '-f', 'vhdx', '-O', 'raw', `bs=${MiB}`, `skip=${offset / MiB}`, `count=${Math.ceil(length / MiB) + offset / MiB}`, `if=${image}`, `of=${folder.file('part')}`]);
        expect(Buffer.compare(readFileSync(folder.file('part')).subarray(0, length), content(seed, length))).toBe(0);
        expect(folder.run(`${tools}/qemu-img`, ['check', '-f', 'vhdx', image])).toMatchObject({ status: 0, stdout: 'No errors were found on the image.\n' });
      }
    }
  });

  it('space is measured exactly', async () => {
    const raw = folder.file('measured.raw');
    writeFileSync(raw, modelOf(first).bytes);
    const image = newName();
    const measured = JSON.parse(folder.succeed(folder.tool('vdisk'), ['measure', '-f', 'raw', '-O', 'vhdx', '--output=json', raw])) as { required: number };
    folder.succeed(folder.tool('qemu-img'), ['convert', '-f', 'raw', '-O', 'vhdx', raw, image]);
    expect(readFileSync(image).length).toBe(measured.required);
    expectSound(image, modelOf(first));
  });

  it('a log left by a killed writer is told of, and replayed, in the same words; without writing it is read as if', async () => {
    const image = newName();
    await create(image, 'block_size=1M');
    const steps: readonly Step[] = [{ kind: 'write', offset: 0, length: 3 * MiB, seed: 8 }, { kind: 'write', offset: 9 * MiB, length: 5000, seed: 9 }];
    const parameters = steps.flatMap((step) => [...stepParameters([step], (name) => folder.file(name)), '-c', 'flush']);
    folder.run(folder.tool('qemu-io'), ['-f', 'vhdx', ...parameters, '-c', 'abort', image]);
    const run = (tool: string, file: string, ...words: readonly string[]): unknown => {
      const { status, stdout, stderr } = folder.run(tool, [...words, '-f', 'vhdx', file]);
      return { status, stdout, stderr };
    };
    const ours = folder.tool('qemu-img');
    const refusal = run(`${newest}/qemu-img`, image, 'check');
    expect(refusal).toMatchObject({ status: 1, stderr: expect.stringContaining('contains a log that needs to be replayed') as string });
    expect(run(ours, image, 'check')).toEqual(refusal);
    expectSame(await weRead(image), modelOf(steps));
    const copy = `${image}.copy`;
    copyFileSync(image, copy);
    expect(run(ours, copy, 'check', '-r', 'all')).toEqual(run(`${newest}/qemu-img`, image, 'check', '-r', 'all'));
    for (const file of [image, copy]) expectSound(file, modelOf(steps));
  });

  it('a log without its beginning is told of, and stays until it is given up', async () => {
    const image = newName();
    await create(image, 'block_size=1M');
    const steps: readonly Step[] = [{ kind: 'write', offset: 0, length: 3 * MiB, seed: 8 }];
    folder.run(folder.tool('qemu-io'), ['-f', 'vhdx', ...stepParameters(steps, (name) => folder.file(name)), '-c', 'flush', '-c', 'abort', image]);
    const bytes = readFileSync(image);
    for (let at = bytes.indexOf('loge'); at >= 0; at = bytes.indexOf('loge', at + 4096)) {
      const entry = bytes.subarray(at, at + bytes.readUInt32LE(at + 8));
      entry.writeUInt32LE(entry.readUInt32LE(12) ^ 0x8000, 12);
      entry.writeUInt32LE(checksum(entry), 4);
    }
    writeFileSync(image, bytes);
    const run = (...words: readonly string[]): Ended => folder.run(folder.tool('vdisk'), [...words, image]);
    expect(run('check', '-f', 'vhdx')).toMatchObject({ status: 2, stderr: expect.stringContaining('where they begin is damaged') as string });
    expect(run('bench', '-w', '-c', '1', '-f', 'vhdx')).toMatchObject({ status: 1 });
    expect(run('info')).toMatchObject({ status: 0, stderr: expect.stringContaining('they are not shown') as string });
    expect(folder.run(folder.tool('qemu-img'), ['info', image]).stderr).toBe(folder.run(`${newest}/qemu-img`, ['info', image]).stderr);
    expect(Buffer.compare(readFileSync(image), bytes)).toBe(0);
    expect(run('check', '-r', 'all', '-f', 'vhdx')).toMatchObject({ status: 0 });
    expect(folder.succeed(`${newest}/qemu-img`, ['check', '-f', 'vhdx', image])).toContain('No errors were found');
  });

  it.each([512, 4096])('a differencing disk with sectors of %d bytes reads through its parent for libvhdi, too', async (sector) => {
    const parent = newName();
    await create(parent, `block_size=1M,logical_sector_size=${sector}`);
    await change(parent, [{ kind: 'write', offset: 0, length: size, seed: 10 }]);
    const image = newName();
    await create(image, `block_size=2M,logical_sector_size=${sector},backing_file=${parent.slice(folder.path.length + 1)},backing_fmt=vhdx`);
    // libvhdi takes blocks of zeroes in a differencing disk for those of its parent: none is left here
    const steps: readonly Step[] = [
      { kind: 'write', offset: 5000, length: 70_000, seed: 11 }, { kind: 'write', offset: 2 * MiB, length: 2 * MiB, seed: 12 },
      { kind: 'zero', offset: 7 * MiB, length: 300_000 }, { kind: 'write', offset: size - 5000, length: 5000, seed: 13 },
    ];
    await change(image, steps);
    const model = modelOf([{ kind: 'write', offset: 0, length: size, seed: 10 }], steps);
    expectSame(await weRead(image), model);
    expectSame(libvhdiReads(image), model);
  });

  it.each(['', 'subformat=fixed,block_size=2M'])('shrinks and grows again: %s', async (options) => {
    const image = newName();
    await create(image, options);
    await change(image, first);
    const resize = (to: number): string => folder.succeed(folder.tool('vdisk'), ['resize', '-q', '-f', 'vhdx', '--shrink', image, String(to)]);
    const shorter = 3 * MiB + 4096;
    const before = statSync(image).size;
    resize(shorter);
    expectSound(image, modelOf(first).resize(shorter));
    expect(statSync(image).size).toBeLessThan(before);
    resize(size);
    await change(image, second);
    expectSound(image, modelOf(first).resize(shorter).resize(size).apply(second));
  });

  it('a child gets a parent that moved, another one, and none', async () => {
    const [parent, moved, other, image] = [newName(), newName(), newName(), newName()];
    await create(parent, 'block_size=1M');
    await change(parent, first);
    await create(other, 'block_size=2M');
    await change(other, [first[0]!]);
    await create(image, `block_size=1M,backing_file=${parent},backing_fmt=vhdx`);
    await change(image, second);
    const model = modelOf(first, second);
    renameSync(parent, moved);
    const rebase = (...parameters: string[]): string => folder.succeed(folder.tool('vdisk'), ['rebase', '-q', '-f', 'vhdx', ...parameters, image]);
    rebase('-u', '-b', moved, '-F', 'vhdx');
    expectSame(await weRead(image), model);
    rebase('-b', other, '-F', 'vhdx');
    expectSame(await weRead(image), model);
    await change(other, [first[0]!]);
    await expect(weRead(image)).rejects.toThrow('VHDX parent was changed');
    rebase('-u', '-b', `${other}.gone`, '-F', 'vhdx');
    rebase('-u', '-b', other, '-F', 'vhdx');
    expectSame(await weRead(image), model);
    rebase('-b', '');
    expectSound(image, model);
  });

  it.each(['nbd:127.0.0.1:9', 'json:x', 'a:b'])('a parent called %s is a file, to the gate, too', async (name) => {
    const image = newName();
    await create(folder.file(name), 'block_size=1M');
    await change(folder.file(name), first);
    await create(image, `block_size=1M,backing_file=./${name},backing_fmt=vhdx`);
    expectSame(await weRead(image), modelOf(first));
    const seen: unknown[] = [];
    const watched = new BlockGraph({ drivers: createRegistry(), gate: ({ filename }) => { seen.push(filename); return true; } });
    const child = await watched.openBackend(image, { driver: 'vhdx', readOnly: true });
    await child.close();
    expect(seen).toEqual([`${folder.path}/./${name}`]);
  });

  it('a parent that was written to after its child was made is refused; commit leaves both in order', async () => {
    const parent = newName();
    await create(parent, 'block_size=1M');
    const image = newName();
    await create(image, `block_size=1M,backing_file=${parent.slice(folder.path.length + 1)},backing_fmt=vhdx`);
    await change(image, first);
    folder.succeed(folder.tool('vdisk'), ['commit', '-q', '-d', '-f', 'vhdx', image]);
    expectSame(libvhdiReads(image), modelOf(first));
    folder.succeed(folder.tool('vdisk'), ['commit', '-q', '-f', 'vhdx', image]);
    expectSound(parent, modelOf(first));
    expectSame(await weRead(image), modelOf(first));
    await change(parent, second);
    await expect(weRead(image)).rejects.toThrow('VHDX parent was changed after its child was made');
  });
});
