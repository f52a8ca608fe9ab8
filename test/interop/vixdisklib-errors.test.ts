/** VixDiskLib's documented errors, one by one, where no scenario of its own leads to them. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Errno, systemError } from '../../src/block/errors.js';
import { createRegistry } from '../../src/drivers.js';
import * as vix from '../../src/face/vixdisklib/index.js';
import { AdapterType, DiskLib, DiskType, OpenFlags, type Connection, type Disk } from '../../src/face/vixdisklib/index.js';
import { havePeers } from '../support/peers.js';
import { failure } from '../support/vix-failure.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-vix-errors-'));
const capacity = 8192;
let counter = 0;
const path = (suffix = 'vmdk'): string => join(folder, `${counter++}.${suffix}`);
let lib: DiskLib;
let host: Connection;

beforeAll(async () => {
  chmodSync(folder, 0o755);
  lib = await DiskLib.init();
  host = await lib.connect();
});
afterAll(async () => {
  await lib.close();
  rmSync(folder, { recursive: true });
});

async function make(diskType: DiskType = DiskType.MONOLITHIC_SPARSE, size = capacity): Promise<string> {
  const file = path();
  await host.create(file, { diskType, adapterType: AdapterType.SCSI_LSILOGIC, capacity: size });
  return file;
}

async function using<T>(file: string, flags: number, work: (disk: Disk) => T | Promise<T>): Promise<T> {
  await using disk = await host.open(file, { flags });
  return await work(disk);
}

function raw(): string {
  const file = path('raw');
  writeFileSync(file, new Uint8Array(capacity * 512));
  return file;
}

async function stream(): Promise<string> {
  const [source, file] = [await make(), path()];
  await using(source, 0, (disk) => disk.write(256, new Uint8Array(65536).map((_, at) => at * 7 + (at >> 8))));
  await host.clone(file, host, source, { createParams: { diskType: DiskType.STREAM_OPTIMIZED } });
  return file;
}

describe('the library', () => {
  it('wants a version it knows, and to be there', async () => {
    expect(await failure(() => vix.VixDiskLib_Exit())).toBe('VIX_E_DISK_NOINIT');
    expect(await failure(() => vix.VixDiskLib_ListTransportModes())).toBe('VIX_E_DISK_NOINIT');
    for (const [major, minor] of [[0, 0], [9, 0], [7, -1], [7.5, 0]] as const) {
      expect(await failure(() => vix.VixDiskLib_InitEx(major, minor, null, null, null)), `${major}.${minor}`).toBe('VIX_E_INVALID_ARG');
    }
    expect(await failure(() => vix.VixDiskLib_InitEx(7, 0, null, null, null, null, join(folder, 'nowhere')))).toBe('VIX_E_FILE_NOT_FOUND');
    await vix.VixDiskLib_Init(7, 0, null, null, null);
    await vix.VixDiskLib_Exit();
    const closed = await DiskLib.init();
    const [connection] = [await closed.connect()];
    await closed.close();
    expect(await failure(() => closed.connect())).toBe('VIX_E_DISK_NOINIT');
    expect(await failure(() => connection.open(path()))).toBe('VIX_E_DISK_INVALID_CONNECTION');
    expect(await failure(() => lib.connect(null, { snapshotRef: 'snapshot-1' }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(() => lib.prepareForAccess({}, ''))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(() => lib.endAccess({}, 'x'.repeat(51)))).toBe('VIX_E_INVALID_ARG');
  });
});

describe('Open', () => {
  it('needs permission', async () => {
    const file = await make();
    chmodSync(file, 0o400);
    const asOther = async <T>(work: () => Promise<T>): Promise<T> => {
      const me = process.geteuid!();
      if (me === 0) process.seteuid!(65534);
      try {
        return await work();
      } finally {
        process.seteuid!(me);
      }
    };
    expect(await asOther(() => failure(() => host.open(file)))).toBe('VIX_E_FILE_ACCESS_ERROR');
    chmodSync(file, 0o000);
    expect(await asOther(() => failure(() => host.open(file, { flags: OpenFlags.READ_ONLY })))).toBe('VIX_E_FILE_ACCESS_ERROR');
    const closed = join(folder, 'closed');
    mkdirSync(closed, { mode: 0o500 });
    expect(await asOther(() => failure(() => host.create(join(closed, 'new.vmdk'), { diskType: 1, adapterType: 3, capacity })))).toBe('VIX_E_FILE_ACCESS_ERROR');
  });

  it('for writing, by a connection for reading', async () => {
    await using reading = await lib.connect(null, { readOnly: true });
    const file = await make();
    expect(await failure(() => reading.open(file))).toBe('VIX_E_FILE_READ_ONLY');
    await (await reading.open(file, { flags: OpenFlags.READ_ONLY })).close();
    expect(await reading.checkRepair(file, false)).toMatchObject({ corruptions: 0 });
    for (const change of [() => reading.grow(file, 9000), () => reading.rename(file, path()), () => reading.unlink(file), () => reading.checkRepair(file, true), () => reading.clone(path(), host, file)]) {
      expect(await failure(change)).toBe('VIX_E_FILE_READ_ONLY');
    }
  });

  it('what a file is not, or not any more', async () => {
    expect(await failure(() => host.open(raw(), { format: 'qcow2' }))).toBe('VIX_E_INCORRECT_FILE_TYPE');
    expect(await failure(() => host.open(raw(), { signal: AbortSignal.abort() }))).toBe('VIX_E_CANCELLED');
    const newer = await make();
    const bytes = readFileSync(newer);
    bytes.writeUInt32LE(9, 4);
    writeFileSync(newer, bytes);
    expect(await failure(() => host.open(newer))).toBe('VIX_E_DISK_NOTSUPPORTED');
    const cut = await stream();
    writeFileSync(cut, readFileSync(cut).subarray(0, -1536));
    expect(await failure(() => host.open(cut))).toBe('VIX_E_DISK_NEEDSREPAIR');
    expect((await host.checkRepair(cut, true)).repaired).toBeGreaterThan(0);
    await using(cut, OpenFlags.READ_ONLY, async (disk) => expect((await disk.read(257, 1))[3]).toBe((515 * 7 + 2) & 0xff));
  });

  it('a chain that ends where it began', async () => {
    const base = await make();
    const child = path();
    await using(base, OpenFlags.READ_ONLY, (disk) => disk.createChild(child));
    const name = (file: string): string => file.slice(folder.length + 1);
    const text = readFileSync(child, 'latin1').replace(`parentFileNameHint="${name(base)}"`, `parentFileNameHint="${name(child)}"`);
    writeFileSync(child, text, 'latin1');
    expect(await failure(() => host.open(child))).toBe('VIX_E_DISK_INVALIDCHAIN');
  });

  it('past the page cache', async () => {
    const file = await make(DiskType.MONOLITHIC_FLAT);
    await using(file, OpenFlags.UNBUFFERED, async (disk) => {
      await disk.write(3, new Uint8Array(1024).fill(5));
      expect(await disk.read(2, 4)).toEqual(Uint8Array.from({ length: 2048 }, (_, at) => (at >= 512 && at < 1536 ? 5 : 0)));
    });
  });
});

describe('making', () => {
  it('names and sizes that cannot be', async () => {
    const params = { diskType: DiskType.MONOLITHIC_SPARSE, adapterType: AdapterType.IDE, capacity };
    expect(await failure(() => host.create(join(folder, `${'n'.repeat(260)}.vmdk`), params))).toBe('VIX_E_FILE_NAME_INVALID');
    expect(await failure(() => host.create(join(folder, 'a\0b.vmdk'), params))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(() => host.create(path(), { ...params, diskType: DiskType.VMFS_SPARSE, capacity: 2 ** 32 }))).toBe('VIX_E_FILE_TOO_BIG');
    expect(await failure(() => host.create(path(), { ...params, capacity: 2 ** 53 }))).toBe('VIX_E_INVALID_ARG');
    const disk = await make();
    await using(disk, OpenFlags.READ_ONLY, async (open) => expect(await failure(() => open.spaceNeededForClone(99 as DiskType))).toBe('VIX_E_INVALID_ARG'));
  });

  it('children and parents of another kind', async () => {
    const file = raw();
    await using(file, OpenFlags.READ_ONLY, async (disk) => expect(await failure(() => disk.createChild(path()))).toBe('VIX_E_DISK_PARENT_NOTALLOWED'));
    const [base, child] = [await make(), path()];
    await using(base, OpenFlags.READ_ONLY, (disk) => disk.createChild(child));
    await using(file, OpenFlags.READ_ONLY, (parent) => using(child, OpenFlags.SINGLE_LINK, async (open) => {
      expect(await failure(() => parent.isAttachPossible(open))).toBe('VIX_E_DISK_PARENT_NOTALLOWED');
      expect(await failure(() => parent.attach(open))).toBe('VIX_E_DISK_PARENT_NOTALLOWED');
      expect([parent.isOpen, open.isOpen]).toEqual([true, true]);
    }));
  });

  it('a compressed stream stays as it is', async () => {
    const file = await stream();
    expect(await failure(() => host.grow(file, 2 * capacity))).toBe('VIX_E_DISK_NOTSUPPORTED');
    await using(file, 0, async (disk) => {
      expect(await failure(() => disk.shrink())).toBe('VIX_E_DISK_NOTSUPPORTED');
      expect(await failure(() => disk.defragment())).toBe('VIX_E_DISK_NOTSUPPORTED');
      expect((await disk.read(257, 1))[3]).toBe((515 * 7 + 2) & 0xff);
    });
  });

  it('what cannot be repaired', async () => {
    const file = await stream();
    const bytes = readFileSync(file);
    // the one grain there is, behind header, descriptor and padding: it says that it belongs elsewhere
    expect(bytes.readUInt32LE(128 * 512)).toBe(256);
    bytes.writeUInt32LE(384, 128 * 512);
    writeFileSync(file, bytes);
    expect((await host.checkRepair(file, false)).corruptions).toBeGreaterThan(0);
    expect(await failure(() => host.checkRepair(file, true))).toBe('VIX_E_DISK_CANTREPAIR');
  });
});

describe('requests', () => {
  it('fail as the files of other drivers do', async () => {
    const file = await make();
    let broken = false;
    const drivers = createRegistry((driver) => (driver.name !== 'file' ? driver : {
      ...driver,
      open: async (context) => {
        const ops = await driver.open(context);
        const read = ops.read.bind(ops);
        ops.read = (...request) => {
          if (broken) throw systemError(Errno.EIO, { op: 'read' });
          return read(...request);
        };
        return ops;
      },
    }));
    await using failing = await DiskLib.init({ drivers });
    await using disk = await (await failing.connect()).open(file);
    await disk.write(0, new Uint8Array(512).fill(1));
    expect((await disk.read(0, 1))[0]).toBe(1);
    broken = true;
    expect(await failure(() => disk.read(0, 1))).toBe('VIX_E_FILE_ERROR');
  });

  it('streams end where the disk does', async () => {
    const file = await make();
    await using(file, 0, async (disk) => {
      const write = (start: number): Promise<void> => new Blob([new Uint8Array(1024)]).stream().pipeTo(disk.createWriteStream({ start }));
      await write(capacity * 512 - 1024);
      expect(await failure(() => write(capacity * 512 - 512))).toBe('VIX_E_DISK_OUTOFRANGE');
      for (const [start, end] of [[512, 0], [-1, 512], [0, 0.5]] as const) expect(await failure(() => disk.createReadStream({ start, end }))).toBe('VIX_E_INVALID_ARG');
      expect(await failure(() => disk.createWriteStream({ start: -1n }))).toBe('VIX_E_INVALID_ARG');
      expect(await failure(() => new Response(disk.createReadStream({ start: 0n, end: BigInt(capacity) * 512n + 1n }) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer())).toBe('VIX_E_DISK_OUTOFRANGE');
    });
    await using(file, OpenFlags.READ_ONLY, async (disk) => {
      expect(await failure(() => new Blob(['x'.repeat(512)]).stream().pipeTo(disk.createWriteStream()))).toBe('VIX_E_FILE_READ_ONLY');
    });
  });

  it('metadata is a map', async () => {
    await using(await make(), 0, async ({ metadata }) => {
      await metadata.set('one', '1');
      expect([await metadata.has('one'), await metadata.has('two')]).toEqual([true, false]);
      expect([...await metadata.entries()]).toContainEqual(['one', '1']);
      expect(await metadata.keys()).toEqual([...(await metadata.entries()).keys()]);
    });
  });

  it('what is told of a disk can be cloned', async () => {
    await using(await make(), 0, async (disk) => expect(structuredClone(await disk.info())).toEqual(await disk.info()));
  });
});

describe.skipIf(!havePeers('qemu-img', 'qemu-io'))('a disk of qemu-img', () => {
  const tool = (command: string, ...parameters: readonly string[]): string => {
    const { status, stdout, stderr } = spawnSync(command, parameters, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${command} ${parameters.join(' ')}: ${stdout}${stderr}`);
    return stdout;
  };

  it.each([['monolithicSparse', 1], ['monolithicFlat', 2], ['twoGbMaxExtentSparse', 3], ['twoGbMaxExtentFlat', 4], ['streamOptimized', 6]] as const)('%s: each function in turn', async (subformat, diskType) => {
    const [source, file, renamed] = [path('raw'), path(), path()];
    const flat = diskType === DiskType.MONOLITHIC_FLAT || diskType === DiskType.SPLIT_FLAT;
    const expected = Buffer.alloc(capacity * 512);
    expected.fill(3, 100_000, 900_000);
    writeFileSync(source, expected);
    tool('qemu-img', 'convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat},adapter_type=lsilogic`, source, file);
    await using(file, OpenFlags.READ_ONLY, async (disk) => {
      expect(await disk.info()).toMatchObject({ capacity, diskType, adapterType: AdapterType.SCSI_LSILOGIC, numLinks: 1, parentFileNameHint: null, uuid: '' });
      expect(Buffer.from(await disk.read(0, capacity)).equals(expected)).toBe(true);
      const blocks = await disk.queryAllocatedBlocks();
      expect(blocks.every(({ offset, length }) => offset + length <= 1792 && length > 0)).toBe(true);
      expect(await disk.metadata.get('adapterType')).toBe('lsilogic');
      expect(await disk.spaceNeededForClone()).toBeGreaterThan(0);
      if (!flat) await disk.createChild(path());
      expect(await failure(() => disk.write(0, new Uint8Array(512)))).toBe('VIX_E_FILE_READ_ONLY');
    });
    if (diskType !== DiskType.STREAM_OPTIMIZED) {
      await using(file, 0, async (disk) => {
        await disk.write(4096, new Uint8Array(65536).fill(8));
        await disk.write(256, new Uint8Array(65536));
        expected.fill(8, 4096 * 512, 4096 * 512 + 65536);
        expected.fill(0, 256 * 512, 256 * 512 + 65536);
        await disk.metadata.set('note', 'kept');
        expect(await failure(() => disk.shrink())).toBe(flat ? 'VIX_E_DISK_CANTSHRINK' : 'no error');
        await disk.defragment();
        expect(await failure(() => host.open(file))).toBe('VIX_E_FILE_ALREADY_LOCKED');
      });
      await host.grow(file, 2 * capacity);
    }
    await host.rename(file, renamed);
    expect(await host.checkRepair(renamed, true)).toMatchObject({ corruptions: 0 });
    const size = diskType === DiskType.STREAM_OPTIMIZED ? capacity : 2 * capacity;
    writeFileSync(source, Buffer.concat([expected, Buffer.alloc((size - capacity) * 512)]));
    expect(tool('qemu-img', 'compare', '-f', 'vmdk', '-F', 'raw', renamed, source)).toBe('Images are identical.\n');
    const copy = path();
    await host.clone(copy, host, renamed);
    expect(tool('qemu-img', 'compare', '-f', 'vmdk', '-F', 'raw', copy, source)).toBe('Images are identical.\n');
    await using(renamed, OpenFlags.READ_ONLY, async (disk) => {
      expect(disk.capacity).toBe(size);
      if (diskType !== DiskType.STREAM_OPTIMIZED) expect(await disk.metadata.get('note')).toBe('kept');
    });
    await host.unlink(renamed);
    expect(await failure(() => host.open(renamed))).toBe('VIX_E_FILE_NOT_FOUND');
  });

  it('a chain: what changes below is noticed', async () => {
    const [base, child] = [path(), path()];
    tool('qemu-img', 'create', '-q', '-f', 'vmdk', base, '4M');
    tool('qemu-io', '-f', 'vmdk', '-c', 'write -q -P 6 0 64k', base);
    tool('qemu-img', 'create', '-q', '-f', 'vmdk', '-b', base, '-F', 'vmdk', child);
    await using(child, 0, async (disk) => {
      expect(await disk.info()).toMatchObject({ numLinks: 2, parentFileNameHint: base });
      expect((await disk.read(0, 1))[0]).toBe(6);
      await disk.write(200, new Uint8Array(512).fill(2));
    });
    expect(await failure(() => host.grow(child, 2 * capacity))).toBe('VIX_E_DISK_NOTNORMAL');
    expect(tool('qemu-io', '-f', 'vmdk', '-r', '-c', 'read -P 2 100k 512', '-c', 'read -P 6 0 64k', child)).not.toContain('failed');
    tool('qemu-io', '-f', 'vmdk', '-c', 'write -q -P 7 0 64k', base);
    expect(await failure(() => host.open(child))).toBe('VIX_E_DISK_CID_MISMATCH');
    expect(await host.unlink(base)).toEqual({ orphans: [child] });
    expect(await failure(() => host.open(child))).toBe('VIX_E_DISK_OPENPARENT');
  });
});
