/** Images that are damaged, hostile, or refer to what they must not: each ends in QEMU's own words, soon, and opens nothing else. */
import { linkSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/block/create.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { runHere } from '../support/in-process.js';
import { oracleTool } from '../support/peers.js';
import { ToolFolder } from '../support/our-tools.js';

/** New content at an offset. */
type Patch = readonly [offset: number, bytes: Uint8Array];
const u32 = (offset: number, value: number): Patch => [offset, Buffer.from(value.toString(16).padStart(8, '0'), 'hex')];
const u64 = (offset: number, value: bigint): Patch => [offset, Buffer.from(value.toString(16).padStart(16, '0'), 'hex')];

const qemuImg = oracleTool('qemu-img');
let folder: ToolFolder;
let graph: BlockGraph;
let sound: Uint8Array;
beforeAll(async () => {
  folder = new ToolFolder();
  graph = new BlockGraph({ drivers: createRegistry() });
  const filename = folder.file('sound.qcow2');
  await createImageFile(graph, { filename, format: 'qcow2', size: 4 << 20 });
  const disk = await graph.openBackend(filename, { driver: 'qcow2' });
  await disk.write(0, new Uint8Array(1 << 20).fill(5));
  await disk.close();
  sound = new Uint8Array(readFileSync(filename));
});
afterAll(async () => {
  await graph.close();
  await folder.remove();
});

/** The sound image with a part overwritten, and cut off where `length` says so. */
function damaged(patches: readonly Patch[], length = sound.length): string {
  const bytes = sound.slice(0, length);
  for (const [offset, content] of patches) bytes.set(content, offset);
  const image = folder.file('damaged.qcow2');
  writeFileSync(image, bytes, { flush: true });
  return image;
}

const openMessage = async (image: string): Promise<string | undefined> =>
  (await runHere('qemu-img', ['info', '-f', 'qcow2', image])).message?.replace(`Could not open '${image}': `, '');

const headerEnd = 112;
const featureTable = (bit: number, name: string): Patch =>
  [headerEnd, Buffer.concat([Buffer.from([0x68, 3, 0xf8, 0x57, 0, 0, 0, 48, 0, bit]), Buffer.from(name.padEnd(46, '\0')), Buffer.alloc(8)])];

describe('refused when opened', () => {
  it.each<[string, readonly Patch[], string, length?: number]>([
    ['an L1 table at an odd place', [u64(40, 0x30001n)], 'Active L1 table offset invalid'],
    ['an L1 table at the end of all numbers', [u64(40, 1n << 63n)], 'Active L1 table offset invalid'],
    ['an L1 table larger than memory', [u32(36, 0xffff_ffff)], 'Active L1 table too large'],
    ['an L1 table too small for the disk', [u32(36, 0)], 'L1 table is too small'],
    ['a refcount table larger than memory', [u32(56, 0xffff_ffff)], 'Reference count table too large'],
    ['no refcount table', [u32(56, 0)], 'Image does not contain a reference count table'],
    ['more snapshots than there can be', [u32(60, 0xffff_ffff)], 'Snapshot table too large'],
    ['a header extension of 4 GiB', [u32(headerEnd, 0x1122_3344), u32(headerEnd + 4, 0xffff_ffff)], 'Header extension too large'],
    ['a backing format of 4 GiB', [u32(headerEnd, 0xe279_2aca), u32(headerEnd + 4, 0xffff_fff0)], 'Header extension too large'],
    ['clusters of 2^63 bytes', [u32(20, 63)], 'Unsupported cluster size: 2^63'],
    ['clusters of 256 bytes', [u32(20, 8)], 'Unsupported cluster size: 2^8'],
    ['a disk of 2^63 bytes', [u64(24, 1n << 63n)], 'Image is too big'],
    ['a disk of 2^62 bytes', [u64(24, 1n << 62n)], 'Image is too big'],
    ['a disk of 2^56 bytes', [u64(24, 1n << 56n)], 'L1 table is too small'],
    ['a backing file name beyond the header', [u64(8, 1n << 40n), u32(16, 50)], 'Invalid backing file offset'],
    ['a backing file name of 5000 bytes', [u64(8, 0x200n), u32(16, 5000)], 'Backing file name too long'],
    ['a header longer than a cluster', [u32(100, 0xffff_ffff)], 'qcow2 header exceeds cluster size'],
    ['a header of no length', [u32(100, 0)], 'qcow2 header too short'],
    ['refcounts of 2^99 bits', [u32(96, 99)], 'Reference count entry width too large; may not exceed 64 bits'],
    ['an unknown version', [u32(4, 9)], 'Unsupported qcow2 version 9'],
    ['an unknown encryption', [u32(32, 9)], 'Unsupported encryption method 9'],
    ['the last of all encryptions', [u32(32, 0xffff_ffff)], 'Unsupported encryption method -1'],
    ['an unknown compression', [[104, Uint8Array.of(226)]], 'qcow2: unknown compression type: 226'],
    ['an unknown feature', [u64(72, 1n << 40n)], 'Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000'],
    ['a feature known by its name only', [u64(72, 1n << 42n), featureTable(42, 'time travel')], 'Unsupported qcow2 feature(s): time travel'],
    ['the first 100 bytes of an image', [], 'qcow2 header too short', 100],
    ['the first byte of an image', [], 'Image is not in qcow2 format', 1],
  ])('%s', async (_name, patches, message, length) => {
    const image = damaged(patches, length);
    expect(await openMessage(image)).toBe(message);
    if (qemuImg !== undefined) expect(folder.run(qemuImg, ['info', '-f', 'qcow2', image]).stderr).toBe(`qemu-img: Could not open '${image}': ${message}\n`);
    for (const verb of [['map'], ['convert', '-O', 'raw'], ['resize']]) {
      const target = { map: [], convert: [folder.file('out.raw')], resize: ['8M'] }[verb[0]!] ?? [];
      expect(await runHere('qemu-img', [...verb, '-f', 'qcow2', image, ...target])).toMatchObject({ status: 1, message: expect.stringContaining(message) as string });
    }
  });
});

it('an image that says its data file is raw, and has none, is described only', async () => {
  const image = damaged([u64(88, 2n)]);
  const refusal = `qemu-img: Could not open '${image}': data-file-raw requires a data file\n`;
  for (const program of [folder.tool('qemu-img'), ...(qemuImg === undefined ? [] : [qemuImg])]) {
    expect(folder.run(program, ['check', '-f', 'qcow2', image])).toMatchObject({ status: 1, stderr: refusal });
    expect(folder.run(program, ['info', '-f', 'qcow2', image])).toMatchObject({ status: 0, stderr: '' });
  }
});

describe('what a header says in vain', () => {
  it.each<[string, readonly Patch[]]>([
    ['a backing file without a name', [u64(8, 0x200n), u32(16, 0)]],
    ['a part of a sector behind the last one', [u64(24, 0x3f_fe20n)]],
    ['refcounts that are none', [u64(48, 0n)]],
  ])('%s', async (_name, patches) => {
    const image = damaged(patches);
    const read = async (): Promise<unknown> => {
      const { status, stdout } = await runHere('qemu-img', ['info', '-f', 'qcow2', image]);
      const out = folder.file('read.raw');
      expect((await runHere('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, out])).status).toBe(0);
      return { status, stdout, content: readFileSync(out).subarray(0, 1 << 20).every((byte) => byte === 5), size: statSync(out).size };
    };
    const ours = await read();
    expect(ours).toMatchObject({ status: 0, content: true });
    if (qemuImg === undefined) return;
    folder.succeed(qemuImg, ['convert', '-f', 'qcow2', '-O', 'raw', image, 'theirs.raw']);
    expect(ours).toMatchObject({ stdout: folder.succeed(qemuImg, ['info', '-f', 'qcow2', image]), size: statSync(folder.file('theirs.raw')).size });
    expect(folder.run(qemuImg, ['compare', '-f', 'raw', '-F', 'raw', 'read.raw', 'theirs.raw'])).toMatchObject({ status: 0 });
  });
});

describe('opened, and told by check', () => {
  it.each<[string, readonly Patch[], length?: number]>([
    ['an L1 table beyond the file', [u64(40, 1n << 40n)]],
    ['a refcount table beyond the file', [u64(48, 1n << 50n)]],
    ['snapshots beyond the file', [u32(60, 1000), u64(64, 1n << 40n)]],
    ['an L1 table amid the data', [u64(40, 0x5_0000n), u32(36, 8)]],
    ['an L1 entry that leads to the table itself', [u64(0x30000, 0x8000_0000_0003_0000n)]],
    ['L2 entries that lead beyond the file', [u64(0x40000, 0x80ff_ffff_ffff_0000n), u64(0x40008, 0x4f0f_ffff_ffff_ff00n)]],
    ['an image cut off behind the header', [], 70_000],
    ['an image cut off in an L2 table', [], 0x40000 + 10],
    ['an image cut off in its data', [], 0x50000 + 512],
  ])('%s', async (_name, patches, length) => {
    const image = damaged(patches, length);
    const ours = folder.run(folder.tool('qemu-img'), ['check', '-f', 'qcow2', image]);
    expect([1, 2]).toContain(ours.status);
    if (qemuImg !== undefined) {
      const { status, stdout, stderr } = folder.run(qemuImg, ['check', '-f', 'qcow2', image]);
      expect(ours).toMatchObject({ status, stdout, stderr });
    }
    const before = statSync(image).size;
    await runHere('qemu-img', ['map', '-f', 'qcow2', image]);
    folder.run(folder.tool('qemu-img'), ['check', '-r', 'all', '-f', 'qcow2', image]);
    expect(statSync(image).size, 'bytes after a repair').toBeLessThan(before + (4 << 20));
  });
});

describe('a backing chain that bites its tail', () => {
  const overlay = async (name: string, backing: string): Promise<void> => {
    const { status } = await runHere('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', backing, '-F', 'qcow2', folder.file(name), '4M']);
    expect(status).toBe(0);
  };
  const expectLoop = async (name: string, message: RegExp): Promise<void> => {
    const image = folder.file(name);
    for (const parameters of [['info', '--backing-chain', image], ['map', image], ['check', image], ['convert', '-O', 'raw', image, folder.file('out.raw')]]) {
      expect(await runHere('qemu-img', parameters), parameters[0]).toMatchObject({ status: 1, message: expect.stringMatching(message) as string });
    }
    expect(() => statSync(folder.file('out.raw'))).toThrow('ENOENT');
  };

  it('of two images', async () => {
    await overlay('tail.qcow2', 'head.qcow2');
    await overlay('head.qcow2', 'tail.qcow2');
    await expectLoop('head.qcow2', /Backing file '.*head.qcow2' creates an infinite loop/);
  });

  it('through a symbolic link', async () => {
    symlinkSync('linked.qcow2', folder.file('link.qcow2'));
    await overlay('linked.qcow2', 'link.qcow2');
    await expectLoop('linked.qcow2', /creates an infinite loop/);
  });

  it('through another name of the file', async () => {
    await overlay('named.qcow2', 'other-name.qcow2');
    linkSync(folder.file('named.qcow2'), folder.file('other-name.qcow2'));
    await expectLoop('named.qcow2', /creates an infinite loop/);
  });

  it('through a link to its own folder, by a longer name each time', async () => {
    symlinkSync('.', folder.file('here'));
    await overlay('deeper.qcow2', 'here/deeper.qcow2');
    await expectLoop('deeper.qcow2', /infinite loop|Too many levels of symbolic links|File name too long|Backing chain is longer/);
  });
});

describe('what an image may not open by itself', () => {
  const refers = (backing: string, format: string | undefined): string => {
    const extension = format === undefined ? [] : [0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, format.length, ...Buffer.from(format.padEnd(8, '\0'))];
    return damaged([u64(8, 0x400n), u32(16, backing.length), [0x400, Buffer.from(backing)], [headerEnd, Uint8Array.from([...extension, ...new Uint8Array(8)])]]);
  };

  it.each([
    ['a file', 'base.raw', 'raw'],
    ['a device', '/dev/zero', 'raw'],
    ['a device it would probe', 'host_device:/dev/vda', undefined],
    ['a web address', 'https://127.0.0.1:1/disk', 'raw'],
    ['an NBD server', 'nbd://127.0.0.1:1/', 'raw'],
    ['an NBD server on a socket', 'nbd+unix:///?socket=/nowhere', undefined],
    ['what options describe', 'json:{"driver":"nbd","server":{"type":"inet","host":"127.0.0.1","port":"1"}}', 'raw'],
  ])('%s as backing file: the library refuses by default', async (_name, backing, format) => {
    const image = refers(backing, format);
    await expect(graph.openBackend(image, { driver: 'qcow2' })).rejects.toMatchObject({
      code: 'GATE_DENIED', message: expect.stringMatching(/^Could not open backing file: Opening backing file '.*', which '.*damaged\.qcow2' refers to, is not allowed$/) as string,
    });
    await expect(graph.openBackend(image, { driver: 'qcow2', noBacking: true }).then((disk) => disk.close())).resolves.toBeUndefined();
  });

  it('a backing file without a format: the library that lets it be opened is still asked before it is probed', async () => {
    writeFileSync(folder.file('base.raw'), new Uint8Array(1 << 20));
    const asked: string[] = [];
    const image = refers('base.raw', undefined);
    await expect(graph.openBackend(image, {
      driver: 'qcow2',
      gate: ({ kind, filename }) => {
        asked.push(`${kind} ${filename}`);
        return kind === 'backing';
      },
    })).rejects.toMatchObject({ code: 'GATE_DENIED', message: expect.stringContaining('Guessing the format of') as string });
    expect(asked).toEqual([`backing ${folder.file('base.raw')}`, `probe ${folder.file('base.raw')}`]);
  });

  it('the format of a file itself: the library refuses to guess', async () => {
    await expect(graph.openBackend(folder.file('sound.qcow2'))).rejects.toMatchObject({ code: 'GATE_DENIED' });
  });

  it('an external data file elsewhere', async () => {
    const { status } = await runHere('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `data_file=${folder.file('secret')},data_file_raw=on`, folder.file('data.qcow2'), '1M']);
    expect(status).toBe(0);
    await expect(graph.openBackend(folder.file('data.qcow2'), { driver: 'qcow2' })).rejects.toMatchObject({
      code: 'GATE_DENIED', message: expect.stringContaining(`Opening data-file '${folder.file('secret')}'`) as string,
    });
  });
});

describe('sizes that overflow', () => {
  it.each([
    ['qcow2', '8E', 'Invalid image size specified. Must be between 0 and 9223372036854775807.'],
    ['raw', '8E', 'Invalid image size specified. Must be between 0 and 9223372036854775807.'],
    ['qcow2', '7E', "The image size is too large for file format 'qcow2' (try using a larger cluster size)"],
    ['raw', '7E', "The image size is too large for file format 'raw'"],
    ['qcow2', '18446744073709551616', 'Invalid image size specified. Must be between 0 and 9223372036854775807.'],
    ['raw', '-1', 'Invalid image size specified. Must be between 0 and 9223372036854775807.'],
  ])('create -f %s x %s', async (format, size, message) => {
    const image = folder.file('huge');
    rmSync(image, { force: true });
    const { status, message: said } = await runHere('qemu-img', ['create', '-q', '-f', format, image, '--', size]);
    expect([status, said?.replace(`${image}: `, '')]).toEqual([1, message]);
    expect(() => statSync(image)).toThrow('ENOENT');
  });

  it.each([
    ['qcow2', '+8E', 'New image size must be positive'],
    ['qcow2', '+9223372036854775807', 'New image size must be positive'],
    ['qcow2', '+7E', 'File too large'],
    ['raw', '+7E', 'File too large'],
    ['raw', '+9007199254740992', 'File too large'],
    ['raw', '-2M', 'New image size must be positive'],
  ])('resize -f %s x %s', async (format, size, message) => {
    const image = folder.file(`small.${format}`);
    await runHere('qemu-img', ['create', '-q', '-f', format, image, '1M']);
    const before = readFileSync(image);
    const { status, message: said } = await runHere('qemu-img', ['resize', '-f', format, image, size]);
    expect(status).toBe(1);
    expect(said).toContain(message);
    expect(readFileSync(image).equals(before), 'unchanged').toBe(true);
  });

  it('requests past the end of numbers', async () => {
    const image = folder.file('end.raw');
    writeFileSync(image, '');
    truncateSync(image, 1 << 20);
    const disk = await graph.openBackend(image, { driver: 'raw' });
    try {
      for (const offset of [2 ** 63, 2 ** 53, Number.MAX_SAFE_INTEGER, 1 << 20, -512, Number.NaN, Infinity]) {
        await expect((async () => disk.read(offset, new Uint8Array(512)))(), `read ${offset}`).rejects.toMatchObject({ name: 'BlockError' });
        await expect((async () => disk.write(offset, new Uint8Array(512)))(), `write ${offset}`).rejects.toMatchObject({ name: 'BlockError' });
        await expect((async () => disk.writeZeroes(offset, 512))(), `zero ${offset}`).rejects.toMatchObject({ name: 'BlockError' });
        await expect((async () => disk.discard(offset, 512))(), `discard ${offset}`).rejects.toMatchObject({ name: 'BlockError' });
      }
      expect(statSync(image).size).toBe(1 << 20);
    } finally {
      await disk.close();
    }
  });
});
