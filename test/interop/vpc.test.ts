/**
 * VHD both ways: random steps through us and through QEMU 7.2 and 10 end in the same disk, and where nobody zeroes or discards in the
 * same file; chains of differencing disks, which QEMU cannot read, are read by libvhdi and 7-Zip.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import type { OptionValue } from '../../src/block/options.js';
import { createRegistry } from '../../src/drivers.js';
import { geometryOf, roomyGeometry } from '../../src/format/vpc/geometry.js';
import { parseFooter } from '../../src/format/vpc/header.js';
import { seededRandom } from '../../src/testing/random.js';
import { applySteps, content, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { runHere } from '../support/in-process.js';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';

const MiB = 1 << 20;
const size = 12 * MiB + 5 * 512;

const oracle = oracleTool('qemu-img')?.replace(/\/qemu-img$/, '');
const peers = { 'QEMU 7.2': '/usr/bin', 'QEMU 10': oracle ?? '' };
const usable = havePeers('qemu-img', 'qemu-io') && oracle !== undefined;

function randomSteps(seed: number, count: number, kinds: readonly Step['kind'][]): Step[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, (_, index): Step => {
    const length = 1 + Math.floor(random() ** 3 * 3 * MiB);
    const offset = Math.floor(random() * (size - length));
    const kind = kinds[Math.floor(random() * kinds.length)]!;
    return kind === 'write' || kind === 'compressed' ? { kind: 'write', offset, length, seed: seed * 1000 + index } : { kind, offset, length };
  });
}

describe.skipIf(!usable)('vpc', () => {
  let folder: ToolFolder;
  let graph: BlockGraph;
  beforeAll(() => {
    folder = new ToolFolder();
    graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  });
  afterAll(async () => {
    await graph.close();
    await folder.remove();
  });

  async function create(filename: string, options: Record<string, OptionValue>): Promise<void> {
    await createImageFile(graph, { filename, format: 'vpc', size, options: { force_size: true, ...options } });
  }
  async function write(filename: string, steps: readonly Step[]): Promise<void> {
    const disk = await graph.openBackend(filename, { driver: 'vpc', discard: 'unmap', cache: { noFlush: true } });
    try {
      await applySteps(disk, steps);
    } finally {
      await disk.close();
    }
  }
  async function contentOf(filename: string): Promise<Uint8Array> {
    const disk = await graph.openBackend(filename, { driver: 'vpc', readOnly: true });
    try {
      const bytes = new Uint8Array(disk.size);
      await disk.read(0, bytes);
      return bytes;
    } finally {
      await disk.close();
    }
  }
  function expectIdentical(tools: string, image: string, model: DiskModel): void {
    writeFileSync(`${image}.expected`, model.bytes);
    expect(folder.run(`${tools}/qemu-img`, ['compare', '-f', 'vpc', '-F', 'raw', image, `${image}.expected`]).stdout).toBe('Images are identical.\n');
  }

  describe.each(Object.keys(peers) as (keyof typeof peers)[])('%s', (name) => {
    it.each(['dynamic', 'fixed'])('reads what we wrote and writes on, %s', async (subformat) => {
      const image = folder.file(`ours-${name}-${subformat}.vhd`);
      await create(image, { subformat, block_size: name === 'QEMU 7.2' ? MiB / 2 : 2 * MiB });
      const model = new DiskModel(new Uint8Array(size));
      for (let round = 0; round < 2; round++) {
        const ours = randomSteps(round * 2 + 1, 8, ['write', 'write', 'zero']);
        await write(image, ours);
        expectIdentical(peers[name], image, model.apply(ours));
        const theirs = randomSteps(round * 2 + 2, 6, ['write', 'write', 'zero']);
        folder.succeed(`${peers[name]}/qemu-io`, ['-f', 'vpc', '-d', 'unmap', '-t', 'unsafe', ...stepParameters(theirs, (file) => folder.file(file)), image]);
        expect(sha256(await contentOf(image))).toBe(sha256(model.apply(theirs).bytes));
      }
      expect(await runHere('qemu-img', ['map', '--output=json', '-f', 'vpc', image]))
        .toMatchObject({ status: 0, stdout: folder.succeed(`${peers['QEMU 10']}/qemu-img`, ['map', '--output=json', '-f', 'vpc', image]) });
    });
  });

  it('puts everything where QEMU 10 puts it', async () => {
    const [ours, theirs] = [folder.file('same-ours.vhd'), folder.file('same-theirs.vhd')];
    folder.succeed(`${oracle}/qemu-img`, ['create', '-q', '-f', 'vpc', theirs, String(size)]);
    await createImageFile(graph, { filename: ours, format: 'vpc', size });
    const normal = (path: string): Buffer => {
      const bytes = readFileSync(path);
      // time, checksum and UUID
      for (const footer of [0, bytes.length - 512]) for (const [from, to] of [[24, 28], [64, 84]] as const) bytes.fill(0, footer + from, footer + to);
      return bytes;
    };
    expect(sha256(normal(ours))).toBe(sha256(normal(theirs)));
    const steps = randomSteps(7, 10, ['write']);
    folder.succeed(`${oracle}/qemu-io`, ['-f', 'vpc', '-t', 'unsafe', ...stepParameters(steps, (file) => folder.file(file)), theirs]);
    await write(ours, steps);
    expect(sha256(normal(ours))).toBe(sha256(normal(theirs)));
  });

  it('makes disks as large as QEMU 10 does', async () => {
    for (const bytes of [0, 1, 512, 34_817, 300 * MiB + 5, 504 * MiB, 2 ** 32 + 1, 33 * 2 ** 30, 136_899_993_600, 136_899_993_601]) {
      const image = folder.file('size.vhd');
      folder.succeed(`${oracle}/qemu-img`, ['create', '-q', '-f', 'vpc', image, String(bytes)]);
      const { geometry } = parseFooter(readFileSync(image).subarray(0, 512));
      expect(roomyGeometry(Math.ceil(bytes / 512)), `${bytes} bytes`).toEqual(geometry);
    }
    expect(geometryOf(65_535 * 16 * 63).sectorsPerTrack).toBe(255);
  });

  it.each(['co:lon.vhd', 'nbd:127.0.0.1:9'])('opens over a parent called %s', async (name) => {
    const [parent, child] = [folder.file(name), folder.file('of-colon.vhd')];
    const steps = randomSteps(9, 3, ['write']);
    await create(parent, {});
    await write(parent, steps);
    for (const backing of [`./${name}`, parent]) {
      await create(child, { backing_file: backing, backing_fmt: 'vpc' });
      expect(sha256(await contentOf(child))).toBe(sha256(new DiskModel(new Uint8Array(size)).apply(steps).bytes));
    }
  });

  it('speaks as qemu-img does: no check, no resizing, no measuring, no backing file; vdisk does all that', async () => {
    const image = folder.file('words.vhd');
    await create(image, {});
    for (const parameters of [['check', image], ['resize', '-f', 'vpc', image, '20M'], ['measure', '-O', 'vpc', '--size', '1M'], ['create', '-f', 'vpc', '-o', 'help'],
      ['create', '-f', 'vpc', '-b', image, '-F', 'vpc', folder.file('child.vhd')], ['create', '-f', 'vpc', '-o', 'block_size=64k', folder.file('child.vhd'), '1M']]) {
      const { status, stdout, stderr } = folder.run(`${oracle}/qemu-img`, parameters);
      expect(folder.run(folder.tool('qemu-img'), parameters), parameters.join(' ')).toMatchObject({ status, stdout, stderr });
    }
    const vdisk = (...parameters: string[]): string => folder.succeed(folder.tool('vdisk'), parameters);
    expect(vdisk('check', image)).toContain('No errors were found');
    expect(vdisk('resize', '-f', 'vpc', image, '20M')).toBe('Image resized.\n');
    expect(folder.succeed(`${oracle}/qemu-img`, ['info', image])).toContain('20971520 bytes');
    expect(vdisk('measure', '-O', 'vpc', '-o', 'subformat=fixed,align_size=1M,force_size=on', '--size', '1000001')).toContain(`required size: ${MiB + 512}\n`);
    expect(vdisk('create', '-f', 'vpc', '-b', image, '-F', 'vpc', folder.file('child.vhd'))).toContain('size=20971520');
  });

  describe.skipIf(!havePeers('vhdimount', 'fusermount') || (!havePeers('7zz') && !havePeers('7z')))('chains of differencing disks', () => {
    /** Resolves with the hash of what each of three disks shows, one on the other. */
    async function makeChain(name: string, unit: number): Promise<string[]> {
      const model = new DiskModel(new Uint8Array(size));
      const hashes: string[] = [];
      for (const level of [0, 1, 2]) {
        const image = folder.file(`${name}${level}.vhd`);
        await create(image, level === 0 ? {} : { backing_file: `${name}${level - 1}.vhd`, backing_fmt: 'vpc' });
        const steps = randomSteps(20 + level, 6, level === 0 ? ['write'] : ['write', 'zero'])
          .map((step) => ({ ...step, offset: step.offset - (step.offset % unit), length: Math.ceil(step.length / unit) * unit }));
        await write(image, steps);
        hashes.push(sha256(model.apply(steps).bytes));
        expect(sha256(await contentOf(image)), `level ${level}`).toBe(hashes[level]);
      }
      return hashes;
    }

    it('are read by 7-Zip', async () => {
      const sevenZip = folder.run('7zz', []).status === null ? '7z' : '7zz';
      for (const [level, hash] of (await makeChain('odd', 1)).entries()) {
        expect(folder.run('sh', ['-c', `${sevenZip} e -tvhd -so ${folder.file(`odd${level}.vhd`)} | sha256sum`]).stdout.slice(0, 64), `level ${level}`).toBe(hash);
      }
    });

    it('are read by libvhdi', async () => {
      // 20210425 takes a byte 0xf0 of a bitmap for 0xff.
      const hashes = await makeChain('even', 4096);
      mkdirSync(folder.file('mount'));
      folder.succeed('vhdimount', ['even2.vhd', 'mount']);
      try {
        for (const [level, hash] of hashes.entries()) expect(sha256(readFileSync(folder.file(`mount/vhdi${level + 1}`))), `level ${level}`).toBe(hash);
      } finally {
        folder.succeed('fusermount', ['-u', 'mount']);
      }
    });

    it('a child that was moved, or whose parent was, still finds it', async () => {
      const hashes = await makeChain('moved', 1);
      mkdirSync(folder.file('elsewhere'));
      renameSync(folder.file('moved2.vhd'), folder.file('elsewhere/moved2.vhd'));
      expect(sha256(await contentOf(folder.file('elsewhere/moved2.vhd')))).toBe(hashes[2]);
      for (const level of [0, 1]) renameSync(folder.file(`moved${level}.vhd`), folder.file(`elsewhere/moved${level}.vhd`));
      expect(sha256(await contentOf(folder.file('elsewhere/moved2.vhd')))).toBe(hashes[2]);
    });

    it('a child that loses its parent is a dynamic disk to everybody', async () => {
      const hash = (await makeChain('alone', 512))[2]!;
      const child = folder.file('alone2.vhd');
      folder.succeed(folder.tool('vdisk'), ['rebase', '-q', '-f', 'vpc', '-b', '', child]);
      folder.succeed('rm', [folder.file('alone0.vhd'), folder.file('alone1.vhd')]);
      expect(sha256(await contentOf(child))).toBe(hash);
      for (const [name, tools] of Object.entries(peers)) {
        folder.succeed(`${tools}/qemu-img`, ['convert', '-f', 'vpc', '-O', 'raw', child, 'alone.raw']);
        expect(sha256(readFileSync(folder.file('alone.raw'))), name).toBe(hash);
      }
      expect(folder.run(folder.tool('vdisk'), ['check', '-f', 'vpc', child])).toMatchObject({ status: 0 });
    });

    it('a child without its parent is refused, and by the gate too', async () => {
      const [parent, child] = [folder.file('lone-parent.vhd'), folder.file('lone-child.vhd')];
      await create(parent, {});
      await create(child, { backing_file: 'lone-parent.vhd', backing_fmt: 'vpc' });
      const strict = new BlockGraph({ drivers: createRegistry() });
      await expect(strict.openBackend(child, { driver: 'vpc', readOnly: true })).rejects.toMatchObject({ code: 'GATE_DENIED' });
      await strict.close();
      const alone = await graph.openBackend(child, { driver: 'vpc', readOnly: true, noBacking: true });
      expect(alone.size).toBe(size);
      await alone.close();
      folder.succeed('rm', [parent]);
      await expect(graph.openBackend(child, { driver: 'vpc', readOnly: true })).rejects.toThrow('Could not open backing file');
    });
  });

  it.skipIf(!havePeers('bximage'))('reads what bximage writes', async () => {
    const raw = new Uint8Array(10 * MiB);
    raw.set(content(3, 300_000), 5 * MiB + 12_345);
    writeFileSync(folder.file('bximage.raw'), raw);
    folder.succeed('bximage', ['-q', '-func=convert', '-imgmode=vpc', 'bximage.raw', 'bximage.vhd']);
    const found = await contentOf(folder.file('bximage.vhd'));
    expect(sha256(found.subarray(0, raw.length))).toBe(sha256(raw));
  });
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
