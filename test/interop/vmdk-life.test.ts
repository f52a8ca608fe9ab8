/** VMDK disks that grow, are written anew, renamed, attached and removed: QEMU 7.2 and 10 and libvmdk agree, whatever moment it is cut off at. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../src/block/child.js';
import { createImageFile } from '../../src/block/create.js';
import type { BlockDriver, FolderOperations } from '../../src/block/driver.js';
import { BlockGraph } from '../../src/block/graph.js';
import type { OptionValue } from '../../src/block/options.js';
import { DriverRegistry } from '../../src/block/registry.js';
import { createRegistry } from '../../src/drivers.js';
import { attachImage } from '../../src/image/attach.js';
import { compactImage } from '../../src/image/compact.js';
import { leftovers, removeImage, removeLeftovers, renameImage, temporaryName } from '../../src/image/files.js';
import { resizeImage } from '../../src/image/resize.js';
import { applySteps, DiskModel, type Step } from '../support/disk-model.js';
import { havePeers, oracleTool } from '../support/peers.js';

const size = (6 << 20) + 3 * 512;
const grain = 1 << 16;
const kinds = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'vmfs', 'vmfsThin', 'vmfsSparse'];
const fill: readonly Step[] = [
  { kind: 'write', seed: 1, offset: 5 << 20, length: 3 * grain }, { kind: 'write', seed: 2, offset: 0, length: 512 },
  { kind: 'write', seed: 3, offset: size - 1024, length: 1024 }, { kind: 'write', seed: 4, offset: grain, length: 4 * grain },
  { kind: 'zero', offset: 2 * grain, length: grain },
];
const filled = new DiskModel(new Uint8Array(size)).apply(fill).bytes;
const sevenZip = ['7zz', '7z'].find((program) => spawnSync(program).error === undefined);
/** A base in one file: those 7-Zip reads. */
const isAlone = (filename: string): boolean => {
  const head = readFileSync(filename).subarray(0, 4096).toString('latin1');
  return head.startsWith('KDMV') && head.includes('parentCID=ffffffff');
};
const root = mkdtempSync(join(tmpdir(), 'vdisk-life-'));

describe.skipIf(!havePeers('qemu-img', 'vmdkinfo'))('the life of a vmdk', () => {
  let count = 0;
  let place = '';
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  beforeEach(() => {
    place = join(root, String(count++));
    mkdirSync(place);
  });
  const file = (name: string): string => join(place, name);
  const peers = ['qemu-img', ...oracleTool('qemu-img') === undefined ? [] : [oracleTool('qemu-img')!]];
  const newGraph = (drivers = createRegistry()): BlockGraph => new BlockGraph({ drivers, gate: () => true });

  function peer(program: string, ...parameters: string[]): string {
    const { status, stdout, stderr } = spawnSync(program, parameters, { encoding: 'utf8', cwd: place });
    expect(status, `${program} ${parameters.join(' ')}: ${stdout}${stderr}`).toBe(0);
    return stdout;
  }

  async function make(filename: string, options: Record<string, OptionValue> = {}, steps = fill): Promise<void> {
    await createImageFile(newGraph(), { filename, format: 'vmdk', size, options });
    await withDisk(filename, (disk) => applySteps(disk, steps));
  }

  async function withDisk<T>(filename: string, use: (disk: BlockBackend) => Promise<T> | T, options: { readOnly?: boolean; noBacking?: boolean } = {}): Promise<T> {
    await using graph = newGraph();
    return await use(await graph.openBackend(filename, { driver: 'vmdk', discard: 'unmap', ...options }));
  }

  const read = (filename: string): Promise<Uint8Array> => withDisk(filename, async (disk) => {
    const bytes = new Uint8Array(disk.size);
    await disk.read(0, bytes);
    return bytes;
  }, { readOnly: true });

  /** All judges see these bytes, followed by zeroes up to `length`, and find no fault. */
  function expectJudged(filename: string, bytes: Uint8Array, length = bytes.length): void {
    const raw = file('expected.raw');
    writeFileSync(raw, bytes);
    truncateSync(raw, length);
    // of a vmfsSparse disk QEMU reads each sector by itself
    const slow = existsSync(filename.replace('.vmdk', '-delta.vmdk'));
    for (const program of slow ? peers.slice(-1) : peers) {
      expect(peer(program, 'compare', '-f', 'vmdk', '-F', 'raw', filename, raw)).toBe('Images are identical.\n');
      expect(peer(program, 'check', '-f', 'vmdk', filename)).toContain('No errors were found');
    }
    expect(peer('vmdkinfo', filename)).toContain(`(${length} bytes)`);
    rmSync(raw);
    if (sevenZip === undefined || length > 1 << 27 || !isAlone(filename)) return;
    const { status, stdout } = spawnSync(sevenZip, ['e', '-so', '-tvmdk', filename], { maxBuffer: 1 << 28 });
    expect(status, sevenZip).toBe(0);
    expect(stdout.length === length && stdout.subarray(0, bytes.length).equals(bytes) && stdout.subarray(bytes.length).every((byte) => byte === 0), sevenZip).toBe(true);
  }

  const grow = (filename: string, to: number, graph = newGraph()): Promise<void> => graph.openBackend(filename, { driver: 'vmdk' })
    .then(async (disk) => {
      await resizeImage(disk, { size: to, preallocation: 'off', shrink: false });
      await disk.close();
    });

  describe.each(kinds)('%s', (subformat) => {
    it('grows, by a little and by much, and what is added reads as zero', async () => {
      await make(file('disk.vmdk'), { subformat, ddb: { note: 'kept' } });
      const large = subformat.startsWith('two') ? 5 * 2 ** 30 : subformat === 'vmfsSparse' ? 9 << 20 : 40 << 20;
      for (const to of [size + 512, large]) await grow(file('disk.vmdk'), to);
      expectJudged(file('disk.vmdk'), filled, large);
      const last = large - 4096;
      await withDisk(file('disk.vmdk'), async (disk) => {
        expect(disk.facet('diskDatabase')!.entries().get('note')).toBe('kept');
        expect(disk.facet('diskDatabase')!.entries().get('geometry.cylinders')).toBe(String(Math.floor(disk.size / 512 / (16 * 63))));
        await disk.write(last, new Uint8Array(4096).fill(7));
        expect(await disk.node.facet('check')!.check({ repair: 'none' })).toMatchObject({ corruptions: 0, leaks: 0 });
      });
      const tail = await withDisk(file('disk.vmdk'), async (disk) => {
        const bytes = new Uint8Array(4096);
        await disk.read(last, bytes);
        return bytes;
      }, { readOnly: true });
      expect(tail.every((byte) => byte === 7)).toBe(true);
    });
  });

  describe.each(['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'vmfsThin', 'vmfsSparse'])('%s', (subformat) => {
    it('is renamed with all its files, to another folder, and removed', async () => {
      await make(file('disk.vmdk'), { subformat });
      await renameImage(newGraph(), file('disk.vmdk'), file('other name.vmdk'));
      expect(Buffer.compare(await read(file('other name.vmdk')), filled)).toBe(0);
      expect(readdirSync(place).filter((name) => !name.startsWith('other name'))).toEqual([]);
      mkdirSync(file('sub'));
      const before = readdirSync(place).length;
      await renameImage(newGraph(), file('other name.vmdk'), file('sub/d.vmdk'), { driver: 'vmdk' });
      expectJudged(file('sub/d.vmdk'), filled);
      expect(readdirSync(place)).toEqual(['sub']);
      expect(readdirSync(file('sub')).length).toBe(before - 1);
      writeFileSync(file('sub/d-s009.vmdk'), 'not its own');
      await removeImage(newGraph(), file('sub/d.vmdk'));
      expect(readdirSync(file('sub'))).toEqual(['d-s009.vmdk']);
    });
  });

  describe.each(['monolithicSparse', 'twoGbMaxExtentSparse', 'vmfsSparse'])('%s', (subformat) => {
    it('is given its own name when it was made under its temporary one', async () => {
    const unfinished = temporaryName(file('disk.vmdk'));
    await make(unfinished, { subformat: 'twoGbMaxExtentSparse' });
    await renameImage(newGraph(), unfinished, file('disk.vmdk'));
    await withDisk(file('disk.vmdk'), async (disk) => {
      const content = new Uint8Array(size);
      await disk.read(0, content);
      expect(Buffer.compare(content, filled)).toBe(0);
    });
    expect(await leftovers(newGraph(), place)).toEqual([]);
  });

  it('is written anew in order, with less room for zeroes, and is the same disk', async () => {
      await make(file('disk.vmdk'), { subformat, ddb: { note: 'kept' } });
      const cid = await withDisk(file('disk.vmdk'), (disk) => disk.facet('identity')!.id.join());
      const data = (): number => readdirSync(place).reduce((sum, name) => sum + statSync(file(name)).size, 0);
      const first = data();
      const seen: number[] = [];
      expect(await compactImage(newGraph(), file('disk.vmdk'), { dropZeroes: false, progress: (done, total) => seen.push(done / total) })).toEqual({ rewritten: true });
      expect(seen.at(-1)).toBe(1);
      expectJudged(file('disk.vmdk'), filled);
      expect(data()).toBeLessThanOrEqual(first);
      const places = (JSON.parse(peer(peers.at(-1)!, 'map', '--output=json', '-f', 'vmdk', file('disk.vmdk'))) as { offset?: number }[])
        .flatMap(({ offset }) => offset ?? []);
      expect(places).toEqual(places.toSorted((a, b) => a - b));
      const second = data();
      await compactImage(newGraph(), file('disk.vmdk'), { dropZeroes: true });
      expect(Buffer.compare(await read(file('disk.vmdk')), filled)).toBe(0);
      expect(data()).toBeLessThan(second);
      await withDisk(file('disk.vmdk'), (disk) => {
        expect(disk.facet('identity')!.id.join()).toBe(cid);
        expect(disk.facet('diskDatabase')!.entries().get('note')).toBe('kept');
      });
      expect(readdirSync(place).filter((name) => name.includes('.vdisk-'))).toEqual([]);
    });

    it('keeps zeroes that hide its parent', async () => {
      await make(file('base.vmdk'));
      const steps: Step[] = [{ kind: 'zero', offset: 5 << 20, length: grain }, { kind: 'write', seed: 9, offset: 3 << 20, length: grain }, { kind: 'zero', offset: 4 << 20, length: grain }];
      await make(file('child.vmdk'), { subformat, backing_file: 'base.vmdk', backing_fmt: 'vmdk' }, steps);
      const expected = new DiskModel(filled.slice()).apply(steps).bytes;
      expect(Buffer.compare(await read(file('child.vmdk')), expected)).toBe(0);
      await compactImage(newGraph(), file('child.vmdk'), { dropZeroes: true });
      expect(Buffer.compare(await read(file('child.vmdk')), expected)).toBe(0);
      expectJudged(file('child.vmdk'), expected);
      await expect(grow(file('child.vmdk'), size * 2)).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
    });
  });

  it('is left as it was when rewriting is cancelled', async () => {
    await make(file('disk.vmdk'));
    const before = readFileSync(file('disk.vmdk'));
    const control = new AbortController();
    await expect(compactImage(newGraph(), file('disk.vmdk'), { dropZeroes: true, signal: control.signal, progress: () => control.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(readFileSync(file('disk.vmdk')).equals(before)).toBe(true);
    expect(readdirSync(place)).toEqual(['disk.vmdk']);
  });

  it('is left as it was when growing is cancelled, before it has all the files', async () => {
    await make(file('disk.vmdk'), { subformat: 'twoGbMaxExtentSparse' });
    const before = readFileSync(file('disk.vmdk'));
    const control = new AbortController();
    const isNew = (filename: string): boolean => /-s00[2-9]\.vmdk$/.test(filename);
    const made: string[] = [];
    const drivers = new DriverRegistry([...createRegistry()].map((driver) => (driver.name !== 'file' ? driver : {
      ...driver, createFile: (filename, options) => {
        if (isNew(filename) && made.push(filename) === 2) control.abort();
        return driver.createFile!(filename, options);
      },
    })));
    const disk = await newGraph(drivers).openBackend(file('disk.vmdk'), { driver: 'vmdk' });
    await expect(resizeImage(disk, { size: 10 * 2 ** 30, preallocation: 'off', shrink: false, signal: control.signal })).rejects.toMatchObject({ code: 'CANCELLED' });
    await disk.close();
    expect(made.length).toBe(2);
    expect(readFileSync(file('disk.vmdk')).equals(before)).toBe(true);
    expect(readdirSync(place).sort()).toEqual(['disk-s001.vmdk', 'disk.vmdk']);
  });

  it('keeps its database in the hands of others', async () => {
    await make(file('disk.vmdk'), { subformat: 'twoGbMaxExtentFlat', identity: true, ddb: 'uuid=60 00 C2 90 00 00 00 00-00 00 00 00 00 00 00 01;deletable=true' });
    const long = 'x'.repeat(600);
    await withDisk(file('disk.vmdk'), async (disk) => {
      const database = disk.facet('diskDatabase')!;
      await database.set('toolsVersion', '12345');
      await database.set('my.key-1', `"quoted" | ${long}`);
      await database.set('deletable', '');
      await expect(database.set('bad key', '')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    });
    peer('qemu-io', '-f', 'vmdk', '-c', 'write -q 0 512', file('disk.vmdk'));
    await withDisk(file('disk.vmdk'), async (disk) => {
      const database = disk.facet('diskDatabase')!;
      expect(Object.fromEntries(database.entries())).toMatchObject({
        uuid: '60 00 C2 90 00 00 00 00-00 00 00 00 00 00 00 01', toolsVersion: '12345', 'my.key-1': `"quoted" | ${long}`, deletable: '',
      });
      await expect(database.set('other', '1')).rejects.toMatchObject({ code: 'PERMISSION' });
    }, { readOnly: true });
    await make(file('full.vmdk'));
    await withDisk(file('full.vmdk'), async (disk) => {
      await expect(disk.facet('diskDatabase')!.set('long', 'x'.repeat(20 * 512))).rejects.toMatchObject({ code: 'NO_SPACE' });
    });
  });

  it('follows the long content ID with the CID', async () => {
    await make(file('disk.vmdk'), { identity: true });
    const text = readFileSync(file('disk.vmdk')).subarray(512, 2048).toString('latin1');
    const cid = /CID=([0-9a-f]{8})/.exec(text)![1]!;
    expect(text).toMatch(new RegExp(`ddb\\.longContentID = "[0-9a-f]{24}${cid}"`));
    expect(text).toMatch(/ddb\.uuid = "60 00 C2 9[0-9a-f]( [0-9a-f]{2}){4}-[0-9a-f]{2}( [0-9a-f]{2}){7}"/);
  });

  it('stands on another one when it is attached, which must stay as it is', async () => {
    await make(file('base.vmdk'));
    await make(file('old.vmdk'), {}, []);
    const steps: Step[] = [{ kind: 'write', seed: 6, offset: 1 << 20, length: 512 }];
    await make(file('child.vmdk'), { backing_file: 'old.vmdk', backing_fmt: 'vmdk' }, steps);
    await withDisk(file('base.vmdk'), (base) => withDisk(file('child.vmdk'), (child) => attachImage(base.node, child.node, 'base.vmdk'), { noBacking: true }), { readOnly: true });
    const expected = new DiskModel(filled.slice()).apply(steps).bytes;
    expectJudged(file('child.vmdk'), expected);
    await withDisk(file('child.vmdk'), (child) => { child.facet('backing')!.verify!(); }, { readOnly: true });
    await withDisk(file('base.vmdk'), (disk) => applySteps(disk, steps));
    await withDisk(file('child.vmdk'), (child) => {
      expect(() => { child.facet('backing')!.verify!(); }).toThrow(expect.objectContaining({ context: expect.objectContaining({ fault: 'parent-changed' }) as unknown }));
    }, { readOnly: true });
    await createImageFile(newGraph(), { filename: file('short.vmdk'), format: 'vmdk', size: 1 << 20 });
    await withDisk(file('short.vmdk'), (base) => withDisk(file('child.vmdk'), async (child) => {
      await expect(attachImage(base.node, child.node, 'short.vmdk')).rejects.toMatchObject({ context: { fault: 'size-mismatch' } });
      await expect(attachImage(child.node, child.node, 'child.vmdk')).rejects.toMatchObject({ context: { fault: 'parent-refused' } });
    }, { noBacking: true }), { readOnly: true });
    rmSync(file('base.vmdk'));
    await expect(read(file('child.vmdk'))).rejects.toMatchObject({ code: 'NOT_FOUND', context: { fault: 'parent-missing' } });
  });

  it.each(['C:\\VMs\\some folder\\base.vmdk', '\\\\server\\share\\base.vmdk', '..\\base.vmdk', '/vmfs/volumes/nowhere/base.vmdk'])(
    'finds a parent that was named elsewhere: %s', async (hint) => {
      await make(file('base.vmdk'));
      await make(file('child.vmdk'), { backing_file: 'base.vmdk', backing_fmt: 'vmdk' }, []);
      await withDisk(file('child.vmdk'), (child) => child.facet('backing')!.change(hint, 'vmdk'), { noBacking: true });
      expect(Buffer.compare(await read(file('child.vmdk')), filled)).toBe(0);
      await withDisk(file('child.vmdk'), (child) => { expect(child.facet('backing')!.filename).toBe(hint); }, { readOnly: true });
      mkdirSync(file('moved'));
      await renameImage(newGraph(), file('child.vmdk'), file('moved/child.vmdk'));
      rmSync(file('base.vmdk'));
      await expect(read(file('moved/child.vmdk'))).rejects.toMatchObject({ context: { fault: 'parent-missing' } });
    });

  it('moves to another folder without losing its parent', async () => {
    await make(file('base.vmdk'));
    await make(file('child.vmdk'), { backing_file: 'base.vmdk', backing_fmt: 'vmdk', subformat: 'twoGbMaxExtentSparse' }, []);
    mkdirSync(file('moved'));
    await renameImage(newGraph(), file('child.vmdk'), file('moved/child.vmdk'));
    expectJudged(file('moved/child.vmdk'), filled);
  });

  describe.each(['monolithicSparse', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'])('%s cut off at any step', (subformat) => {
    const operations: Record<string, (graph: BlockGraph) => Promise<unknown>> = {
      grow: (graph) => grow(file('disk.vmdk'), 3 * 2 ** 30, graph),
      rename: (graph) => renameImage(graph, file('disk.vmdk'), file('new.vmdk')),
      compact: (graph) => compactImage(graph, file('disk.vmdk'), { dropZeroes: true }),
      remove: (graph) => removeImage(graph, file('disk.vmdk')),
    };
    it.each(Object.keys(operations))('%s: the old disk or the new one is there, and nothing else when it is cleaned up', async (operation) => {
      for (let step = 0, cut = true; cut; step++) {
        for (const name of readdirSync(place)) rmSync(file(name));
        await make(file('disk.vmdk'), { subformat });
        const countBefore = readdirSync(place).length;
        const power = { left: step };
        const graph = newGraph(mortal(power));
        await operations[operation]!(graph).catch(() => undefined);
        await graph.close().catch(() => undefined);
        cut = power.left < 0;
        const found = await leftovers(newGraph(), place);
        if (!cut) expect(found).toEqual([]);
        const { remaining } = await removeLeftovers(newGraph(), place);
        expect(remaining).toEqual([]);
        expect(await leftovers(newGraph(), place)).toEqual([]);
        const disks = ['disk.vmdk', 'new.vmdk'].filter((name) => existsSync(file(name)));
        const where = `${operation} cut off at step ${step}: ${readdirSync(place).join(' ')}`;
        if (operation === 'remove') expect(disks.length === 0 ? readdirSync(place).length : countBefore, where).toBe(disks.length === 0 ? 0 : countBefore);
        else expect(disks, where).toHaveLength(1);
        for (const name of disks) {
          const shown = await withDisk(file(name), async (disk) => {
            const bytes = new Uint8Array(size);
            await disk.read(0, bytes);
            return { bytes, size: disk.size, files: [...disk.node.children.values()].length };
          }, { readOnly: true });
          expect(Buffer.compare(shown.bytes, filled), where).toBe(0);
          if (operation !== 'grow') expect(shown.size, where).toBe(size);
          else if (!subformat.startsWith('two')) expect([size, 3 * 2 ** 30], where).toContain(shown.size);
          expect(readdirSync(place).length, where).toBe(subformat === 'monolithicSparse' ? 1 : shown.files);
        }
      }
    });
  });
});

/** Drivers that stop working for good after a number of operations on files by their names. */
function mortal(power: { left: number }): DriverRegistry {
  const live = <T extends unknown[], R>(operation: (...parameters: T) => Promise<R>) => async (...parameters: T): Promise<R> => {
    if (power.left-- <= 0) {
      power.left = -1;
      throw new Error('the power is off');
    }
    return operation(...parameters);
  };
  const drivers = createRegistry();
  const usual = drivers.get('file')!;
  const folders = usual.folders!;
  const mortalFolders: FolderOperations = {
    exists: folders.exists, list: folders.list, link: live(folders.link),
    // what was made in the other file stays there
    replace: (filename, write) => live(folders.replace)(filename, async (temporary) => {
      await write(temporary);
      if (power.left-- <= 0) {
        power.left = -1;
        writeFileSync(`${temporary.replace('.vdisk-tmp', '.vdisk-tmp-cut')}`, '');
        throw new Error('the power is off');
      }
    }),
  };
  const file: BlockDriver = { ...usual, createFile: live(usual.createFile!), deleteFile: live(usual.deleteFile!), folders: mortalFolders };
  return new DriverRegistry([...drivers].map((driver) => (driver.name === 'file' ? file : driver)));
}
