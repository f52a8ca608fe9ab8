/** VMDK disks both ways between us, QEMU 7.2 and 10, 7-Zip and libvmdk; kinds that nobody else writes, read by QEMU as by us. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import type { BlockBackend } from '../../src/block/child.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { uncleanOffset } from '../../src/format/vmdk/header.js';
import { seededRandom } from '../../src/testing/random.js';
import { applySteps, content, DiskModel, stepParameters, type Step } from '../support/disk-model.js';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';
import { cowdDisk, seSparseDisk } from '../support/vmdk-maker.js';

const size = 6 << 20;
const grain = 1 << 16;
const sevenZip = ['7zz', '7z'].find((program) => spawnSync(program).error === undefined);
const subformats = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'streamOptimized'];

/** Steps that a disk of the kind takes; streams are written once, in order, in whole grains. */
function randomSteps(seed: number, stream: boolean): Step[] {
  const random = seededRandom(seed);
  if (stream) {
    const places = Array.from({ length: size / grain }, (_, index) => index).filter(() => random() < 0.4);
    return places.map((place) => ({ kind: 'write', seed: seed + place, offset: place * grain, length: grain }));
  }
  return Array.from({ length: 14 }, (_, index) => {
    const length = 512 * (1 + Math.floor(random() * 600));
    const offset = 512 * Math.floor(random() * ((size - length) / 512));
    return random() < 0.75 ? { kind: 'write', seed: seed * 100 + index, offset, length } : { kind: 'zero', offset, length };
  });
}

describe.skipIf(!havePeers('qemu-img', 'qemu-io', 'vmdkinfo'))('vmdk', () => {
  let folder: ToolFolder;
  let count = 0;
  let place = '';
  beforeAll(() => { folder = new ToolFolder(); });
  afterAll(() => folder.remove());
  beforeEach(() => {
    place = folder.file(String(count++));
    mkdirSync(place);
  });
  const file = (name: string): string => `${place}/${name}`;
  const peers = (): string[] => ['qemu-img', ...oracleTool('qemu-img') === undefined ? [] : [oracleTool('qemu-img')!]];

  async function create(filename: string, options: Record<string, string | boolean>): Promise<void> {
    const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    await createImageFile(graph, { filename, format: 'vmdk', size, options });
  }

  async function withDisk<T>(filename: string, use: (disk: BlockBackend) => Promise<T>, options: { readonly readOnly?: boolean; readonly check?: boolean } = {}): Promise<T> {
    await using graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    return await use(await graph.openBackend(filename, { driver: 'vmdk', discard: 'unmap', ...options }));
  }

  const shown = (filename: string): Promise<Uint8Array> => withDisk(filename, async (disk) => {
    const bytes = new Uint8Array(disk.size);
    await disk.read(0, bytes);
    return bytes;
  }, { readOnly: true });

  async function expectShown(filename: string, bytes: Uint8Array): Promise<void> {
    expect(Buffer.compare(await shown(filename), bytes), 'what we read').toBe(0);
  }

  /** All judges see these bytes, and find no fault. */
  function expectJudged(filename: string, bytes: Uint8Array, { sevenZipReads = true } = {}): void {
    const raw = file('expected.raw');
    writeFileSync(raw, bytes);
    for (const peer of peers()) {
      expect(folder.succeed(peer, ['compare', '-f', 'vmdk', '-F', 'raw', filename, raw]), peer).toBe('Images are identical.\n');
      expect(folder.succeed(peer, ['check', '-f', 'vmdk', filename]), peer).toContain('No errors were found');
    }
    expect(folder.succeed('vmdkinfo', [filename])).toContain(`(${size} bytes)`);
    if (sevenZip === undefined || !sevenZipReads) return;
    const { status, stdout } = spawnSync(sevenZip, ['e', '-so', '-tvmdk', filename], { maxBuffer: 1 << 26 });
    expect(status, sevenZip).toBe(0);
    expect(Buffer.from(bytes).equals(stdout), `${sevenZip} reads the same`).toBe(true);
  }

  describe.each(subformats)('%s', (subformat) => {
    const stream = subformat === 'streamOptimized';
    const steps = randomSteps(subformat.length, stream);

    it('written by us is what the others read', async () => {
      const model = new DiskModel(new Uint8Array(size)).apply(steps);
      await create(file('disk.vmdk'), { subformat });
      await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, steps));
      await expectShown(file('disk.vmdk'), model.bytes);
      expectJudged(file('disk.vmdk'), model.bytes, { sevenZipReads: !subformat.startsWith('twoGb') && subformat !== 'monolithicFlat' });
    });

    it('written by QEMU is read and changed by us', async () => {
      const model = new DiskModel(new Uint8Array(size)).apply(steps);
      folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, file('disk.vmdk'), String(size)]);
      folder.succeed('qemu-io', ['-f', 'vmdk', ...stepParameters(steps, file), file('disk.vmdk')]);
      await expectShown(file('disk.vmdk'), model.bytes);
      const free = steps.at(-1)!.offset / grain + 1;
      const more: Step[] = stream ? [{ kind: 'write', seed: 7, offset: free * grain, length: grain }] : randomSteps(99, false);
      if (stream && free >= size / grain) return;
      await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, more));
      model.apply(more);
      await expectShown(file('disk.vmdk'), model.bytes);
      expectJudged(file('disk.vmdk'), model.bytes, { sevenZipReads: false });
    });
  });

  it('zeroed grains are marked, and QEMU agrees', async () => {
    const steps: Step[] = [
      { kind: 'write', seed: 1, offset: 0, length: 8 * grain }, { kind: 'zero', offset: grain, length: 2 * grain },
      { kind: 'zero', offset: 20 * grain, length: grain }, { kind: 'write', seed: 2, offset: grain + 512, length: 1024 },
    ];
    await create(file('disk.vmdk'), { zeroed_grain: true });
    await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, steps));
    expectJudged(file('disk.vmdk'), new DiskModel(new Uint8Array(size)).apply(steps).bytes, { sevenZipReads: false });
    const map = folder.succeed(peers().at(-1)!, ['map', '--output=json', file('disk.vmdk')]);
    expect(JSON.parse(map)).toContainEqual(expect.objectContaining({ start: 2 * grain, length: grain, present: true, zero: true, data: false }));
  });

  it('made of extents that end within a grain is one disk to QEMU and us', async () => {
    const sectors = [1000, 129, 5001];
    for (const [index, count] of sectors.entries()) {
      folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', file(`part${index}.vmdk`), String(count * 512)]);
    }
    const lines = sectors.map((count, index) => `RW ${count} SPARSE "part${index}-s001.vmdk"`);
    writeFileSync(file('disk.vmdk'), `# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n# Extent description\n${lines.join('\n')}\n`);
    const random = seededRandom(77);
    const total = sectors.reduce((sum, count) => sum + count) * 512;
    const steps: Step[] = Array.from({ length: 30 }, (_, index) => {
      const length = 512 * (1 + Math.floor(random() * 300));
      return { kind: 'write', seed: index, offset: 512 * Math.floor(random() * ((total - length) / 512 + 1)), length };
    });
    await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, [...steps, { kind: 'write', seed: 1, offset: total - 512, length: 512 }]));
    const model = new DiskModel(new Uint8Array(total)).apply([...steps, { kind: 'write', seed: 1, offset: total - 512, length: 512 }]);
    await expectShown(file('disk.vmdk'), model.bytes);
    writeFileSync(file('expected.raw'), model.bytes);
    for (const peer of peers()) {
      expect(folder.succeed(peer, ['compare', '-f', 'vmdk', '-F', 'raw', file('disk.vmdk'), file('expected.raw')])).toContain('identical');
      expect(folder.succeed(peer, ['check', '-f', 'vmdk', file('disk.vmdk')])).toContain('No errors');
    }
    await withDisk(file('disk.vmdk'), async (disk) => {
      expect(await disk.facet('check')!.check({ repair: 'none' })).toMatchObject({ corruptions: 0, leaks: 0 });
    }, { readOnly: true });
  });

  it('that was not closed is told as such by vdisk, and described by qemu-img as by QEMU', async () => {
    await create(file('open.vmdk'), {});
    const opened = openSync(file('open.vmdk'), 'r+');
    writeSync(opened, Uint8Array.of(1), 0, 1, uncleanOffset);
    closeSync(opened);
    expect(folder.succeed(folder.tool('vdisk'), ['info', file('open.vmdk')])).toContain('cleanly shut down: no\n');
    const ours = folder.succeed(folder.tool('qemu-img'), ['info', '--output=json', file('open.vmdk')]);
    for (const peer of peers()) expect(JSON.parse(folder.succeed(peer, ['info', '--output=json', file('open.vmdk')]))).toMatchObject({ 'dirty-flag': false });
    expect(JSON.parse(ours)).toMatchObject({ 'dirty-flag': false });
  });

  it('descriptors have their own size, whatever the file is told about space', () => {
    for (const subformat of ['monolithicFlat', 'twoGbMaxExtentSparse']) {
      folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat},preallocation=off`, file('disk.vmdk'), '3M']);
      expect(readFileSync(file('disk.vmdk')).length).toBeLessThan(512);
    }
  });

  describe('a stream', () => {
    it('is continued where it ended, in order', async () => {
      await create(file('disk.vmdk'), { subformat: 'streamOptimized' });
      const model = new DiskModel(new Uint8Array(size));
      for (const [first, seed] of [[3, 1], [10, 2], [95, 3]] as const) {
        const steps: Step[] = [{ kind: 'write', seed, offset: first * grain, length: grain }];
        await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, steps));
        expectJudged(file('disk.vmdk'), model.apply(steps).bytes);
      }
      await withDisk(file('disk.vmdk'), async (disk) => {
        await expect((async () => disk.write(grain, new Uint8Array(grain)))()).rejects.toThrow('from its start to its end');
        await expect((async () => disk.write(10 * grain, new Uint8Array(grain)))()).rejects.toThrow('Input/output error');
      });
      expectJudged(file('disk.vmdk'), model.bytes);
    });

    it('that was cut off is completed from what its grains say', async () => {
      await create(file('disk.vmdk'), { subformat: 'streamOptimized' });
      const steps: Step[] = [0, 1, 7, 60].map((at) => ({ kind: 'write', seed: at, offset: at * grain, length: grain }));
      await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, steps));
      // within the last grain: marker and data of a third of 64 KiB
      truncateSync(file('disk.vmdk'), readFileSync(file('disk.vmdk')).length - 20_000);
      await expect(shown(file('disk.vmdk'))).rejects.toThrow('Invalid footer');
      await withDisk(file('disk.vmdk'), async (disk) => {
        expect(await disk.facet('check')!.check({ repair: 'none' })).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
      }, { readOnly: true, check: true });
      await withDisk(file('disk.vmdk'), async (disk) => {
        expect(await disk.facet('check')!.check({ repair: 'all' })).toMatchObject({ corruptions: 0, corruptionsFixed: 1 });
      }, { check: true });
      expectJudged(file('disk.vmdk'), new DiskModel(new Uint8Array(size)).apply(steps.slice(0, -1)).bytes);
    });

    it.each(['ours', 'theirs'])('that refuses what its child has keeps the child (%s)', async (maker) => {
      const zeroes = file('zeroes.raw');
      writeFileSync(zeroes, Buffer.concat([Buffer.alloc(grain, 1), Buffer.alloc(size - grain)]));
      const tool = maker === 'ours' ? folder.tool('qemu-img') : oracleTool('qemu-img');
      if (tool === undefined) return;
      folder.succeed(tool, ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', zeroes, file('base.vmdk')]);
      folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'vmdk', '-b', file('base.vmdk'), '-F', 'vmdk', file('child.vmdk')]);
      await withDisk(file('child.vmdk'), async (disk) => disk.write(0, new Uint8Array(512)));
      const [base, before] = [readFileSync(file('base.vmdk')), await shown(file('child.vmdk'))];
      const { status, stderr } = folder.run(folder.tool('qemu-img'), ['commit', file('child.vmdk')]);
      expect({ status, stderr }).toEqual({
        status: 1, stderr: 'qemu-img: Could not write to allocated cluster for streamOptimized\nqemu-img: Block job failed: Input/output error\n',
      });
      expect(readFileSync(file('base.vmdk')).equals(base)).toBe(true);
      expect(Buffer.from(await shown(file('child.vmdk'))).equals(before)).toBe(true);
    });

    it('takes zeroes where it has nothing, in any order', async () => {
      writeFileSync(file('source.raw'), new DiskModel(new Uint8Array(size)).apply(randomSteps(6, true)).bytes);
      await create(file('disk.vmdk'), { subformat: 'streamOptimized' });
      folder.succeed(folder.tool('qemu-img'), ['convert', '-n', '-f', 'raw', '-O', 'vmdk', file('source.raw'), file('disk.vmdk')]);
      expectJudged(file('disk.vmdk'), readFileSync(file('source.raw')));
    });

    it('goes to a pipe, and comes from one', () => {
      writeFileSync(file('source.raw'), new DiskModel(new Uint8Array(size)).apply(randomSteps(5, false)).bytes);
      const { status, stderr } = spawnSync('bash', ['-o', 'pipefail', '-c', '"$V" convert -f raw -O vmdk source.raw - | cat > stream.vmdk && cat stream.vmdk | "$V" convert -f vmdk -O raw - back.raw'], {
        cwd: place, env: { ...process.env, V: folder.tool('vdisk') }, encoding: 'utf8',
      });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(readFileSync(file('back.raw')).equals(readFileSync(file('source.raw')))).toBe(true);
      expectJudged(file('stream.vmdk'), readFileSync(file('source.raw')));
    });
  });

  describe('a child', () => {
    it('shows its parent where it holds nothing, to QEMU as to us', async () => {
      const below = randomSteps(21, false);
      const above = randomSteps(22, false);
      await create(file('base.vmdk'), { subformat: 'twoGbMaxExtentFlat' });
      await withDisk(file('base.vmdk'), (disk) => applySteps(disk, below));
      await create(file('child.vmdk'), { backing_file: 'base.vmdk', backing_fmt: 'vmdk' });
      await withDisk(file('child.vmdk'), (disk) => applySteps(disk, above));
      const model = new DiskModel(new Uint8Array(size)).apply(below).apply(above);
      await expectShown(file('child.vmdk'), model.bytes);
      expectJudged(file('child.vmdk'), model.bytes, { sevenZipReads: false });
    });

    it('made by QEMU is ours to read, and refuses a parent that has changed', async () => {
      folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', file('base.vmdk'), String(size)]);
      folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 5 0 1M', file('base.vmdk')]);
      folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', file('child.vmdk')]);
      folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 6 1000 3000', file('child.vmdk')]);
      const bytes = await shown(file('child.vmdk'));
      expect([bytes[0], bytes[1000], bytes[3999], bytes[4000], bytes[1 << 20]]).toEqual([5, 6, 6, 5, 0]);
      await withDisk(file('base.vmdk'), async (disk) => disk.write(2 << 20, new Uint8Array(512).fill(1)));
      expect(folder.run('qemu-io', ['-r', '-f', 'vmdk', '-c', 'read 512k 512', file('child.vmdk')]).stdout).toContain('read failed: Invalid argument');
      await expect(shown(file('child.vmdk'))).rejects.toThrow('Invalid argument');
    });
  });

  it('whose parent has changed: QEMU\'s names say what QEMU says, vdisk says why, and takes the parent as it is when told to', () => {
    const [base, child] = [file('base.vmdk'), file('child.vmdk')];
    folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', base, String(size)]);
    folder.succeed('qemu-img', ['create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', child]);
    folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 5 0 64k', base]);
    for (const parameters of [['compare', child, base], ['convert', '-O', 'raw', child, file('out.raw')]]) {
      const [theirs, ours, own] = [peers().at(-1)!, folder.tool('qemu-img'), folder.tool('vdisk')].map((program) => folder.run(program, parameters));
      expect({ ...ours }).toMatchObject({ status: theirs!.status, stderr: theirs!.stderr });
      expect(own).toMatchObject({ status: theirs!.status, stderr: `${theirs!.stderr.replace('qemu-img', 'vdisk')}The parent '${base}' has changed since the disk was made that stands on it; 'vdisk rebase -u' takes it as it is.\n` });
    }
    expect(folder.run(folder.tool('qemu-img'), ['rebase', '-u', '-b', 'base.vmdk', '-F', 'vmdk', child]).stderr).toContain('Operation not supported');
    folder.succeed(folder.tool('vdisk'), ['rebase', '-u', '-b', 'base.vmdk', '-F', 'vmdk', child]);
    for (const program of peers()) expect(folder.succeed(program, ['compare', child, base]), program).toBe('Images are identical.\n');
    folder.succeed(folder.tool('vdisk'), ['rebase', '-u', '-b', 'gone.vmdk', '-F', 'vmdk', child]);
    expect(folder.succeed('qemu-img', ['info', '-f', 'vmdk', '--output=json', child])).toContain('gone.vmdk');
  });

  describe('redo logs of ESX', () => {
    it.each([1, 8, 128])('COWD with grains of %i sectors: what we write, QEMU reads, and back', async (sectors) => {
      cowdDisk(file('disk.vmdk'), size, sectors);
      const steps = randomSteps(31 + sectors, false);
      await withDisk(file('disk.vmdk'), (disk) => applySteps(disk, steps));
      const model = new DiskModel(new Uint8Array(size)).apply(steps);
      await expectShown(file('disk.vmdk'), model.bytes);
      writeFileSync(file('expected.raw'), model.bytes);
      for (const peer of peers()) expect(folder.succeed(peer, ['compare', '-f', 'vmdk', '-F', 'raw', file('disk.vmdk'), file('expected.raw')])).toContain('identical');
    });

    it('SESPARSE is read as QEMU reads it', async () => {
      const large = 64 << 20;
      const grains = [0, 1, 5, 4095, 4096, 9000].map((number) => ({ grain: number, content: content(number, 4096) }));
      seSparseDisk(file('disk.vmdk'), large, [...grains, { grain: 7, content: 'unmapped' }, { grain: 8, content: 'zero' }]);
      const expected = new Uint8Array(large);
      for (const { grain: number, content: bytes } of grains) expected.set(bytes, number * 4096);
      await expectShown(file('disk.vmdk'), expected);
      writeFileSync(file('expected.raw'), expected);
      for (const peer of peers()) expect(folder.succeed(peer, ['compare', '-f', 'vmdk', '-F', 'raw', file('disk.vmdk'), file('expected.raw')])).toContain('identical');
      await expect(withDisk(file('disk.vmdk'), () => Promise.resolve())).rejects.toThrow('No write support for seSparse');
      await using graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
      const disk = await graph.openBackend(file('disk.vmdk'), { driver: 'vmdk', readOnly: true });
      await expect(graph.reopen(disk.node, { readOnly: false })).rejects.toThrow('No write support for seSparse');
      seSparseDisk(file('dirty.vmdk'), large, [], { journal: true });
      await expect(shown(file('dirty.vmdk'))).rejects.toThrow('Image is dirty, Replaying journal not supported');
    });
  });

  describe('check', () => {
    /** A disk whose first grain table has the entry of grain 2 overwritten, in both copies or one. */
    async function damaged(entry: number, copies: readonly number[]): Promise<string> {
      const path = file('disk.vmdk');
      await create(path, {});
      await withDisk(path, async (disk) => disk.write(0, new Uint8Array(4 * grain).fill(9)));
      const image = openSync(path, 'r+');
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(entry);
      for (const table of copies) writeSync(image, bytes, 0, 4, table * 512 + 2 * 4);
      closeSync(image);
      return path;
    }
    const [redundant, primary] = [22, 27];

    async function findings(path: string, repair: 'none' | 'all'): Promise<{ lines: string[]; corruptions: number; corruptionsFixed: number; leaks: number }> {
      const lines: string[] = [];
      const result = await withDisk(path, (disk) => disk.facet('check')!.check({ repair, report: (line) => lines.push(line) }), { check: true, readOnly: repair === 'none' });
      return { lines, corruptions: result.corruptions, corruptionsFixed: result.corruptionsFixed, leaks: result.leaks };
    }

    it.each([
      [0xffff, 'points after EOF'], [3, 'points into metadata'], [128, 'is used already'],
    ])('finds that entry %i %s, and takes it away', async (entry, fault) => {
      const path = await damaged(entry, [redundant, primary]);
      const found = await findings(path, 'none');
      expect(found).toMatchObject({ corruptions: 1, lines: [`ERROR: cluster offset for sector 256 ${fault}`] });
      if (entry === 0xffff) expect(folder.run('qemu-img', ['check', '-f', 'vmdk', path]).stderr).toContain(found.lines[0]);
      expect(await findings(path, 'all')).toMatchObject({ corruptions: 0, corruptionsFixed: 1 });
      expect(await findings(path, 'none')).toMatchObject({ corruptions: 0, leaks: 0 });
      expect((await shown(path)).subarray(2 * grain, 3 * grain).every((byte) => byte === 0)).toBe(true);
    });

    it('finds that the copies differ, and trusts the one that is read', async () => {
      const path = await damaged(0, [redundant]);
      expect(await findings(path, 'none')).toMatchObject({ corruptions: 1, lines: ['ERROR: redundant grain table 0 differs from the grain table'] });
      expect(await findings(path, 'all')).toMatchObject({ corruptions: 0, corruptionsFixed: 1 });
      expect(await findings(path, 'none')).toMatchObject({ corruptions: 0 });
      expect((await shown(path))[2 * grain]).toBe(9);
    });

    it('gives back what nobody refers to at the end of the file', async () => {
      const path = await damaged(0, []);
      truncateSync(path, readFileSync(path).length + 3 * grain);
      expect(await findings(path, 'none')).toMatchObject({ corruptions: 0, leaks: 3 });
      expect(await findings(path, 'all')).toMatchObject({ leaks: 0 });
      expectJudged(path, new Uint8Array(size).fill(9, 0, 4 * grain));
    });
  });
});
