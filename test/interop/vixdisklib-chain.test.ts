/** VixDiskLib on chains: twenty redo logs, parents that are missing, changed or elsewhere, chains that are joined. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdapterType, DiskLib, DiskType, isVixError, OpenFlags, SECTOR_SIZE, type Connection, type VixErrorSymbol } from '../../src/face/vixdisklib/index.js';
import { havePeers } from '../support/peers.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-chain-'));
const capacity = 8192;
const grain = 128;
const links = 20;
const warnings: string[] = [];
let lib: DiskLib;
let host: Connection;
let counter = 0;

beforeAll(async () => {
  lib = await DiskLib.init({ warn: (message) => warnings.push(message) });
  host = await lib.connect();
});
afterAll(async () => {
  await lib.close();
  rmSync(folder, { recursive: true });
});

async function failure(work: Promise<unknown>): Promise<VixErrorSymbol | 'no error' | 'no VixError'> {
  return work.then(() => 'no error' as const, (error: unknown) => (isVixError(error) ? error.symbol : 'no VixError'));
}

const path = (): string => join(folder, `${counter++}.vmdk`);
const pattern = (seed: number): Uint8Array => new Uint8Array(grain * SECTOR_SIZE).map((_, at) => seed * 31 + at % 251 & 0xff);

async function use<T>(file: string, flags: number, work: (disk: Awaited<ReturnType<Connection['open']>>) => Promise<T>): Promise<T> {
  await using disk = await host.open(file, { flags });
  return await work(disk);
}
const write = (file: string, at: number, bytes: Uint8Array): Promise<void> => use(file, 0, async (disk) => disk.write(at, bytes));
const content = (file: string): Promise<Buffer> => use(file, OpenFlags.READ_ONLY, async (disk) => Buffer.from(await disk.read(0, disk.capacity)));

async function base(): Promise<string> {
  const file = path();
  await host.create(file, { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: AdapterType.SCSI_LSILOGIC, capacity });
  return file;
}

async function child(parent: string, diskType: DiskType = DiskType.MONOLITHIC_SPARSE): Promise<string> {
  const file = path();
  await use(parent, OpenFlags.READ_ONLY, (disk) => disk.createChild(file, { diskType }));
  return file;
}

describe('a chain of twenty redo logs', () => {
  const files: string[] = [];
  const expected = Buffer.alloc(capacity * SECTOR_SIZE);
  const top = (): string => files.at(-1)!;
  const put = async (file: string, number: number, seed: number): Promise<void> => {
    await write(file, number * grain, pattern(seed));
    expected.set(pattern(seed), number * grain * SECTOR_SIZE);
  };

  beforeAll(async () => {
    files.push(await base());
    await put(files[0]!, 0, 1);
    await put(files[0]!, 60, 2);
    for (let link = 1; link <= links; link++) {
      files.push(await child(top(), link % 3 === 0 ? DiskType.SPLIT_SPARSE : DiskType.MONOLITHIC_SPARSE));
      await put(top(), link, link + 10);
      await put(top(), 40, link + 100);
    }
  });

  it('is read', async () => {
    expect((await content(top())).equals(expected)).toBe(true);
    await use(top(), OpenFlags.READ_ONLY, async (disk) => {
      expect(await disk.info()).toMatchObject({ numLinks: links + 1, capacity, adapterType: AdapterType.SCSI_LSILOGIC });
      expect((await disk.info()).parentFileNameHint).toMatch(/^\d+\.vmdk$/);
      expect(await disk.queryAllocatedBlocks()).toEqual([{ offset: 0, length: 21 * grain }, { offset: 40 * grain, length: grain }, { offset: 60 * grain, length: grain }]);
    });
    await use(top(), OpenFlags.READ_ONLY | OpenFlags.SINGLE_LINK, async (disk) => {
      expect((await disk.info()).numLinks).toBe(1);
      expect(await disk.queryAllocatedBlocks()).toEqual([20, 40].map((number) => ({ offset: number * grain, length: grain })));
    });
  });

  it.skipIf(!havePeers('qemu-img'))('is read by qemu-img', () => {
    const raw = join(folder, 'chain.raw');
    const { status, stderr } = spawnSync('qemu-img', ['convert', '-O', 'raw', top(), raw], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
    expect(readFileSync(raw).equals(expected)).toBe(true);
  });

  it('looks keys up from below', async () => {
    await use(files[0]!, OpenFlags.READ_ONLY, async (disk) => expect(await failure(disk.metadata.get('note'))).toBe('VIX_E_DISK_KEY_NOTFOUND'));
    await use(top(), 0, async (disk) => disk.metadata.set('note', 'top'));
    await use(top(), OpenFlags.READ_ONLY, async (disk) => {
      expect(await disk.metadata.get('note')).toBe('top');
      expect(await disk.metadata.get('adapterType')).toBe('lsilogic');
    });
  });

  it('is cloned, flat', async () => {
    for (const diskType of [DiskType.MONOLITHIC_SPARSE, DiskType.STREAM_OPTIMIZED, DiskType.SPLIT_FLAT]) {
      const target = path();
      await host.clone(target, host, top(), { createParams: { diskType } });
      expect((await content(target)).equals(expected)).toBe(true);
      await use(target, OpenFlags.READ_ONLY, async (disk) => expect(await disk.info()).toMatchObject({ numLinks: 1, parentFileNameHint: null, diskType }));
    }
  });

  it('is shrunk and defragmented', async () => {
    await use(top(), 0, async (disk) => {
      // zeroes that hide what the parents hold stay
      await disk.write(0, new Uint8Array(grain * SECTOR_SIZE));
      expected.fill(0, 0, grain * SECTOR_SIZE);
      await disk.shrink();
      await disk.defragment();
      expect((await disk.info()).numLinks).toBe(links + 1);
    });
    expect((await content(top())).equals(expected)).toBe(true);
  });

  it('is joined in its middle to a copy of what is below', async () => {
    const [copy, middle] = [path(), files[11]!];
    const before = readFileSync(middle);
    await host.clone(copy, host, files[10]!);
    const single = await host.open(middle, { flags: OpenFlags.SINGLE_LINK });
    await using lower = await host.open(copy, { flags: OpenFlags.READ_ONLY });
    await lower.attach(single);
    expect((await single.info()).numLinks).toBe(2);
    await single.close();
    await use(top(), OpenFlags.READ_ONLY, async (disk) => expect((await disk.info()).numLinks).toBe(links - 11 + 2));
    expect((await content(top())).equals(expected)).toBe(true);
    if (havePeers('qemu-img')) expect(spawnSync('qemu-img', ['info', '--backing-chain', top()], { encoding: 'utf8' }).status).toBe(0);
    writeFileSync(middle, before);
    await use(top(), OpenFlags.READ_ONLY, async (disk) => expect((await disk.info()).numLinks).toBe(links + 1));
  });

  it('notices that a parent has changed', async () => {
    const lost = files[10]!;
    const before = readFileSync(lost);
    await write(lost, 0, pattern(77));
    expect(await failure(host.open(top(), { flags: OpenFlags.READ_ONLY }))).toBe('VIX_E_DISK_CID_MISMATCH');
    await use(top(), OpenFlags.READ_ONLY | OpenFlags.SINGLE_LINK, async () => undefined);
    writeFileSync(lost, before);
    await use(top(), OpenFlags.READ_ONLY, async () => undefined);
  });

  it('locks its parents', async () => {
    await using disk = await host.open(top());
    expect(await failure(host.open(files[3]!))).toBe('VIX_E_FILE_ALREADY_LOCKED');
    await using reader = await host.open(files[3]!, { flags: OpenFlags.READ_ONLY });
    expect([disk.isOpen, reader.isOpen]).toEqual([true, true]);
  });

  it('loses a link', async () => {
    const [lost, orphan] = [files[8]!, files[9]!];
    warnings.length = 0;
    expect(await host.unlink(lost)).toEqual({ orphans: [orphan] });
    expect(warnings).toEqual([`${orphan} has lost its parent ${lost}`]);
    expect(await failure(host.open(top(), { flags: OpenFlags.READ_ONLY }))).toBe('VIX_E_DISK_OPENPARENT');
    await use(orphan, OpenFlags.READ_ONLY | OpenFlags.SINGLE_LINK, async (disk) => {
      expect(Buffer.from(await disk.read(9 * grain, grain)).equals(pattern(19))).toBe(true);
    });
    expect((await content(files[7]!)).subarray(0, grain * SECTOR_SIZE).equals(pattern(1))).toBe(true);
  });
});

describe('Attach', () => {
  it('joins chains', async () => {
    const parent = await base();
    await write(parent, 0, pattern(1));
    const top = await child(await child(parent));
    // a copy of the same disk takes the place of the parent's parent
    const other = path();
    await host.clone(other, host, parent);
    const single = await host.open(top, { flags: OpenFlags.SINGLE_LINK });
    const lower = await host.open(other, { flags: OpenFlags.READ_ONLY });
    await lower.isAttachPossible(single);
    await lower.attach(single);
    expect(lower.isOpen).toBe(false);
    expect(await single.info()).toMatchObject({ numLinks: 2, parentFileNameHint: other.slice(folder.length + 1) });
    expect(Buffer.from(await single.read(0, grain)).equals(pattern(1))).toBe(true);
    await single.write(grain, pattern(2));
    await single.close();
    if (havePeers('qemu-img')) expect(spawnSync('qemu-img', ['info', '--backing-chain', top], { encoding: 'utf8' }).status).toBe(0);
  });

  it('is refused', async () => {
    const [parent, small] = [await base(), path()];
    await host.create(small, { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: AdapterType.IDE, capacity: 1024 });
    await using lower = await host.open(parent, { flags: OpenFlags.READ_ONLY });
    await using root = await host.open(small);
    expect(await failure(lower.isAttachPossible(root))).toBe('VIX_E_DISK_ATTACH_ROOTLINK');
    expect(await failure(lower.attach(root))).toBe('VIX_E_DISK_ATTACH_ROOTLINK');
    const [smallChild, own] = [await child(small).catch(() => ''), await child(parent)];
    expect(smallChild).toBe('');
    await root.close();
    await using mismatched = await host.open(await child(small), { flags: OpenFlags.SINGLE_LINK });
    expect(await failure(lower.isAttachPossible(mismatched))).toBe('VIX_E_DISK_CAPACITY_MISMATCH');
    await using reader = await host.open(own, { flags: OpenFlags.SINGLE_LINK | OpenFlags.READ_ONLY });
    expect(await failure(lower.attach(reader))).toBe('VIX_E_FILE_READ_ONLY');
    expect([lower.isOpen, reader.isOpen]).toEqual([true, true]);
    expect(await failure(lower.isAttachPossible(lower))).toMatch(/ROOTLINK|NOTALLOWED/);
  });
});

describe('CreateChild', () => {
  it('is refused', async () => {
    const parent = await base();
    await using disk = await host.open(parent, { flags: OpenFlags.READ_ONLY });
    expect(await failure(disk.createChild(path(), { diskType: DiskType.MONOLITHIC_FLAT }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(disk.createChild(parent))).toBe('VIX_E_FILE_ALREADY_EXISTS');
    expect(await failure(disk.createChild('child.vmdk'))).toBe('VIX_E_INVALID_ARG');
  });

  // as VDDK's sample program opens it
  it('stands on a disk that is open for writing, and knows when that was written to again', async () => {
    const parent = await base();
    const file = path();
    await use(parent, 0, async (disk) => {
      await disk.write(0, pattern(1));
      expect(await failure(disk.createChild(parent))).toBe('VIX_E_FILE_ALREADY_EXISTS');
      await disk.createChild(file);
      expect([disk.isOpen, disk.readOnly]).toEqual([true, false]);
      expect(await use(file, OpenFlags.READ_ONLY, (above) => above.read(0, grain))).toEqual(pattern(1));
      await disk.write(grain, pattern(2));
    });
    expect(await failure(host.open(file))).toBe('VIX_E_DISK_CID_MISMATCH');
  });
});

describe('parents elsewhere', () => {
  it('are found by who knows, and else refused', async () => {
    const place = join(folder, 'templates');
    mkdirSync(place);
    const [parent, moved] = [await base(), join(place, 'golden.vmdk')];
    await write(parent, 0, pattern(5));
    const above = await child(parent);
    renameSync(parent, moved);
    expect(await failure(host.open(above))).toBe('VIX_E_DISK_OPENPARENT');
    await using knowing = await DiskLib.init({ resolveParent: ({ child: asking, hint }) => (asking === above && hint === parent.slice(folder.length + 1) ? moved : undefined) });
    await using disk = await (await knowing.connect()).open(above);
    expect(Buffer.from(await disk.read(0, grain)).equals(pattern(5))).toBe(true);
    expect((await disk.info()).numLinks).toBe(2);
    await disk.close();

    mkdirSync(join(folder, 'vm'));
    const linked = join(folder, 'vm/linked.vmdk');
    await use(moved, OpenFlags.READ_ONLY, (lower) => lower.createChild(linked));
    expect(await failure(host.open(linked))).toBe('VIX_E_DISK_PARENT_NOTALLOWED');
    await using trusting = await DiskLib.init({ parentFolders: [place] });
    await using open = await (await trusting.connect()).open(linked, { flags: OpenFlags.READ_ONLY });
    expect(Buffer.from(await open.read(0, grain)).equals(pattern(5))).toBe(true);
  });
});
