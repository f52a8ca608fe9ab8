import { afterAll, describe, expect, it } from 'vitest';
import { ImageFolder } from '../../../test/support/image-folder.js';
import { Req } from '../../block/driver.js';

const folder = new ImageFolder(new Map([
  ['key', { type: 'secret', id: 'key', properties: { data: 'correct horse' } }],
  ['wrong', { type: 'secret', id: 'wrong', properties: { data: 'battery staple' } }],
]));
afterAll(() => folder.remove());
const mib = 1 << 20;
const locked = { 'encrypt.format': 'aes', 'encrypt.key-secret': 'key' };
const unlocked = (id = 'key') => ({ with: { encrypt: { format: 'aes', 'key-secret': id } } });

function text(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => 97 + ((at * at) >> 7) % 17);
}

/** Deep equality of long arrays takes the test runner minutes. */
function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

type Checked = { readonly corruptions: number; readonly leaks: number; readonly corruptionsFixed: number };
const check = (image: string, repair: 'none' | 'all' = 'none', lines: string[] = []): Promise<Checked> => folder.use('qcow', image,
  async (disk) => disk.node.facet('check')!.check({ repair, report: (line) => lines.push(line) }), { check: true, readOnly: repair === 'none' });

describe('a qcow header', () => {
  it.each([
    [[0, 0], 'Image not in qcow format'],
    [[7, 2], 'qcow (v1) does not support qcow version 2'],
    [[32, 8], 'Cluster size must be between 512 and 64k'],
    [[32, 17], 'Cluster size must be between 512 and 64k'],
    [[33, 5], 'L2 table size must be between 512 and 64k'],
    [[33, 14], 'L2 table size must be between 512 and 64k'],
    [[39, 2], 'invalid encryption method in qcow header'],
    [[24, 0, 0, 0, 0, 0, 0, 0, 0], 'Image size is too small (must be at least 2 bytes)'],
    [[24, 0xff], 'Image too large'],
    [[24, 0, 0x10], 'Image too large'],
    [[40, 0xff], 'Input/output error'],
    [[8, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0, 4, 0], 'Backing file name too long'],
  ] as const)('with %j is answered by %s', async (change, message) => {
    const image = await folder.create('qcow', 10 * mib);
    folder.patch(image, change);
    await expect(folder.open('qcow', image, { readOnly: true })).rejects.toThrow(message);
  });
});

describe('compressed clusters', () => {
  it('are read as they were written, by themselves and across others', async () => {
    const image = await folder.create('qcow', 256 * 1024 + 512);
    const content = text(256 * 1024 + 512);
    await folder.use('qcow', image, async (disk) => {
      await disk.write(0, content, Req.COMPRESSED);
      const part = new Uint8Array(10_000);
      await disk.read(5_000, part);
      expect(same(part, content.subarray(5_000, 15_000))).toBe(true);
    });
    expect(same(await folder.content('qcow', image), content)).toBe(true);
    expect(folder.bytes(image).length).toBeLessThan(200_000);
    expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 65 });
  });

  it('become plain when they are written to', async () => {
    const image = await folder.create('qcow', mib);
    const content = text(mib);
    await folder.use('qcow', image, async (disk) => {
      await disk.write(0, content, Req.COMPRESSED);
      await disk.write(6_000, new Uint8Array(100).fill(1));
    });
    content.fill(1, 6_000, 6_100);
    expect(same(await folder.content('qcow', image), content)).toBe(true);
    expect(await check(image)).toMatchObject({ corruptions: 0, compressedClusters: 255 });
  });

  it('are kept plain where they do not shrink', async () => {
    const image = await folder.create('qcow', 8192);
    const noise = crypto.getRandomValues(new Uint8Array(8192));
    await folder.use('qcow', image, (disk) => disk.write(0, noise, Req.COMPRESSED));
    expect(same(await folder.content('qcow', image), noise)).toBe(true);
    expect(await check(image)).toMatchObject({ compressedClusters: 0, allocatedClusters: 2 });
  });

  it('are written whole or not at all', async () => {
    const image = await folder.create('qcow', mib);
    await folder.use('qcow', image, async (disk) => {
      await expect((async () => disk.write(512, new Uint8Array(4096), Req.COMPRESSED))()).rejects.toThrow('Invalid argument');
    });
  });
});

describe('encryption', () => {
  it('hides everything but what is not there', async () => {
    const image = await folder.create('qcow', 10 * mib, locked);
    await folder.use('qcow', image, async (disk) => {
      await disk.write(100_001, new Uint8Array(100_000).fill(5));
      await disk.writeZeroes(120_000, 5_000);
      expect((await disk.status(102_400, 512)).host).toBeUndefined();
    }, unlocked());
    const content = await folder.content('qcow', image, unlocked());
    expect([content.indexOf(5), content.lastIndexOf(5), content[123_000], content[5 * mib]]).toEqual([100_001, 200_000, 0, 0]);
    expect(folder.bytes(image).includes(Buffer.alloc(64, 5))).toBe(false);
    expect(same(await folder.content('qcow', image, unlocked('wrong')), content)).toBe(false);
  });

  it('wants its secret', async () => {
    const image = await folder.create('qcow', mib, locked);
    await expect(folder.open('qcow', image)).rejects.toThrow("Parameter 'encrypt.key-secret' is required for cipher");
    await folder.use('qcow', image, (disk) => expect(disk.node.facet('formatInfo')?.encrypted).toBe(true), { noIo: true, readOnly: true });
  });

  it('compresses nothing', async () => {
    const image = await folder.create('qcow', mib, locked);
    await folder.use('qcow', image, (disk) => {
      expect(() => disk.write(0, new Uint8Array(4096), Req.COMPRESSED)).toThrow('Operation not supported');
    }, unlocked());
  });

  it.each([
    [{ 'encrypt.format': 'aes' }, "Parameter 'encrypt.key-secret' is required for cipher"],
    [{ 'encrypt.format': 'luks' }, 'Unsupported encryption format'],
    [{ encryption: true }, "Parameter 'encrypt.key-secret' is required for cipher"],
    [{ 'encrypt.key-secret': 'key' }, "Parameter 'encrypt.format' is missing"],
    [{ 'encrypt.format': 'aes', 'encrypt.key-secret': 'none' }, "No secret with id 'none'"],
  ])('is not made with %j', async (options, message) => {
    await expect(folder.create('qcow', mib, options)).rejects.toThrow(message);
  });
});

describe('a qcow image', () => {
  it('grows, with a longer L1 table elsewhere', async () => {
    const image = await folder.create('qcow', 2 * mib);
    await folder.use('qcow', image, async (disk) => {
      await disk.write(0, text(mib));
      await disk.resize(4096 * mib);
      await disk.write(4095 * mib, text(mib));
    });
    expect(await check(image)).toMatchObject({ corruptions: 0, allocatedClusters: 512 });
    await folder.use('qcow', image, async (disk) => {
      for (const offset of [0, 4095 * mib]) {
        const found = new Uint8Array(mib);
        await disk.read(offset, found);
        expect(same(found, text(mib))).toBe(true);
      }
    }, { readOnly: true });
  });

  it('shows its backing file again when it is emptied', async () => {
    const base = await folder.create('qcow', mib);
    await folder.use('qcow', base, (disk) => disk.write(0, new Uint8Array(mib).fill(1)));
    const image = await folder.create('qcow', mib, { backing_file: base });
    const empty = folder.bytes(image).length;
    await folder.use('qcow', image, async (disk) => {
      await disk.write(0, text(300_000));
      await disk.node.facet('makeEmpty')!.makeEmpty();
      await disk.write(512, new Uint8Array(512).fill(2));
    });
    const content = await folder.content('qcow', image);
    expect([content[0], content[512], content[1024]]).toEqual([1, 2, 1]);
    expect(folder.bytes(image).length).toBeLessThan(empty + 40_000);
  });

  it('is checked and repaired', async () => {
    const image = await folder.create('qcow', 10 * mib);
    await folder.use('qcow', image, (disk) => disk.write(0, text(4 * 4096)));
    expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 4 });
    // the L2 table, then clusters 2 to 5 of the file: entry 0 outside, entries 2 and 3 in one place
    const table = Number(folder.bytes(image).readBigUInt64BE(48));
    folder.patch(image, [table, 0, 0, 0, 1, 0, 0, 0, 0], [table + 16, ...folder.bytes(image).subarray(table + 24, table + 32)]);
    const lines: string[] = [];
    expect(await check(image, 'all', lines)).toMatchObject({ corruptions: 2, corruptionsFixed: 2 });
    expect(lines).toEqual(['ERROR Cluster at offset 0x100000000 is not in the file', 'ERROR Cluster at offset 0x5000 is used twice']);
    expect(await check(image)).toMatchObject({ corruptions: 0, allocatedClusters: 3 });
    await folder.use('qcow', image, (disk) => disk.write(2 * 4096, new Uint8Array(4096).fill(7)));
    const content = await folder.content('qcow', image);
    expect([content[0], content[4096], content[8192], content[12_288]]).toEqual([0, text(4097)[4096], 7, text(12_289)[12_288]]);
  });
});
