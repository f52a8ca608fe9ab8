import { afterAll, describe, expect, it } from 'vitest';
import { ImageFolder } from '../../../test/support/image-folder.js';

const folder = new ImageFolder();
afterAll(() => folder.remove());
const mib = 1 << 20;

/** 256 KiB at 0, 128 KiB at 50 MiB: clusters 5 to 8, 13 and 14 of the file; the L2 table lies at cluster 9. */
async function filled(): Promise<string> {
  const image = await folder.create('qed', 100 * mib);
  await folder.use('qed', image, async (disk) => {
    await disk.write(0, new Uint8Array(256 * 1024).fill(1));
    await disk.write(50 * mib, new Uint8Array(128 * 1024).fill(2));
  });
  return image;
}
const table = 9 * 65_536;
const check = (image: string, repair: 'none' | 'all' = 'none'): Promise<object | undefined> =>
  folder.use('qed', image, async (disk) => disk.node.facet('check')!.check({ repair }), { check: true, readOnly: repair === 'none' });

describe('a QED header', () => {
  it.each([
    [[0, 0], 'Image not in QED format'],
    [[4, 0, 0, 0, 0], 'QED cluster size is invalid'],
    [[4, 0, 2, 0, 0], 'QED cluster size is invalid'],
    [[8, 3], 'QED table size is invalid'],
    [[8, 32], 'QED table size is invalid'],
    [[12, 2], 'QED table offset is invalid'],
    [[16, 8], 'Unsupported QED features: 8'],
    [[40, 1], 'QED table offset is invalid'],
    [[48, 1], 'QED image size is invalid'],
    [[48, 0, 0, 0, 0, 0, 0x41], 'QED image size is invalid'],
    [[16, 1, 0, 0, 0, 0, 0, 0, 0], undefined],
    [[24, 1], undefined],
  ] as const)('with %j is answered by %s', async (change, message) => {
    const image = await folder.create('qed', 10 * mib);
    folder.patch(image, change);
    const opening = folder.use('qed', image, (disk) => disk.size, { readOnly: true });
    if (message === undefined) expect(await opening).toBe(10 * mib);
    else await expect(opening).rejects.toThrow(message);
  });

  it('whose backing file has its name outside is refused', async () => {
    const image = await folder.create('qed', 10 * mib);
    folder.patch(image, [16, 1], [56, 0, 0, 1, 0, 5]);
    await expect(folder.open('qed', image, { readOnly: true })).rejects.toThrow('QED backing filename offset is invalid');
  });

  it('loses unknown autoclear features when it is written to', async () => {
    const image = await folder.create('qed', 10 * mib);
    folder.patch(image, [32, 1]);
    await folder.content('qed', image);
    expect(folder.bytes(image)[32]).toBe(1);
    await folder.use('qed', image, () => undefined);
    expect(folder.bytes(image)[32]).toBe(0);
  });
});

describe('checking QED', () => {
  // counts as QEMU 10.0.2 finds them
  it.each([
    ['nothing', [], { corruptions: 0, leaks: 0, totalClusters: 1600, allocatedClusters: 6, fragmentedClusters: 1 }],
    ['a missing table', [[0x10000, 0, 0, 0]], { corruptions: 0, leaks: 10, allocatedClusters: 0 }],
    ['a shared cluster', [[table, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5, 0]], { corruptions: 1, leaks: 1, allocatedClusters: 6, fragmentedClusters: 3 }],
    ['an unaligned cluster', [[table, 0, 1, 5, 0]], { corruptions: 1, leaks: 1, allocatedClusters: 6, fragmentedClusters: 2 }],
    ['a cluster outside', [[table, 0, 0, 0, 0x40]], { corruptions: 1, leaks: 1, allocatedClusters: 6, fragmentedClusters: 2 }],
    ['a cluster in a table', [[table, 0, 0, 9, 0]], { corruptions: 1, leaks: 1, allocatedClusters: 6 }],
    ['a zero cluster', [[table, 1, 0, 0, 0]], { corruptions: 0, leaks: 1, allocatedClusters: 5 }],
    ['a table outside', [[0x10000, 0, 0, 0x40, 0]], { corruptions: 1, leaks: 10, allocatedClusters: 0 }],
    ['a shared table', [[0x10000, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0]], { corruptions: 4, leaks: 0, allocatedClusters: 6 }],
  ] as const)('finds %s', async (_name, changes, expected) => {
    const image = await filled();
    folder.patch(image, ...changes);
    expect(await check(image)).toMatchObject(expected);
  });

  it('takes entries out that name nothing', async () => {
    const image = await filled();
    folder.patch(image, [table, 0, 1, 5, 0]);
    expect(await check(image, 'all')).toMatchObject({ corruptionsFixed: 1 });
    expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 1 });
    const content = await folder.content('qed', image);
    expect(content[0]).toBe(0);
    expect(content[65_536]).toBe(1);
  });

  it('gives two clusters in one place a place each', async () => {
    const image = await filled();
    folder.patch(image, [table, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5, 0]);
    expect(await check(image, 'all')).toMatchObject({ corruptionsFixed: 1 });
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    await folder.use('qed', image, (disk) => disk.write(0, new Uint8Array(65_536).fill(7)));
    const content = await folder.content('qed', image);
    expect([content[0], content[65_536], content[131_072]]).toEqual([7, 1, 1]);
  });

  it('is done by the first writer where the last one was cut off', async () => {
    const image = await filled();
    folder.patch(image, [16, 2], [table, 0, 0, 0, 0x40]);
    await folder.use('qed', image, () => undefined, { readOnly: true });
    expect(folder.bytes(image)[16]).toBe(2);
    await folder.use('qed', image, () => undefined);
    expect(folder.bytes(image)[16]).toBe(0);
    expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 1 });
  });
});

describe('the mark "needs check"', () => {
  it('is there from the first allocation until the image is closed', async () => {
    const image = await folder.create('qed', 10 * mib);
    await folder.use('qed', image, async (disk) => {
      expect(folder.bytes(image)[16]).toBe(0);
      await disk.write(0, new Uint8Array(10));
      expect(folder.bytes(image)[16]).toBe(2);
      await disk.flush();
      expect(folder.bytes(image)[16]).toBe(2);
    });
    expect(folder.bytes(image)[16]).toBe(0);
  });

  it('is not set in overlays', async () => {
    const image = await folder.create('qed', 10 * mib, { backing_file: await folder.create('qed', 10 * mib) });
    await folder.use('qed', image, async (disk) => {
      await disk.write(0, new Uint8Array(10));
      expect(folder.bytes(image)[16]).toBe(1);
    });
  });
});

describe('a QED image', () => {
  it('remembers whether its backing file is raw', async () => {
    const base = await folder.create('raw', 10 * mib);
    const image = await folder.create('qed', 10 * mib, { backing_file: base, backing_fmt: 'raw' });
    await folder.use('qed', image, async (disk) => {
      const facet = disk.node.facet('backing')!;
      expect([facet.filename, facet.format]).toEqual([base, 'raw']);
      await facet.change('other', 'qcow2');
      expect([facet.filename, facet.format]).toEqual(['other', undefined]);
      await facet.change(undefined, undefined);
      expect(facet.filename).toBeUndefined();
    });
    expect(folder.bytes(image)[16]).toBe(0);
  });

  it('grows, up to what its tables cover', async () => {
    const image = await folder.create('qed', mib, { cluster_size: 4096, table_size: 1 });
    await folder.use('qed', image, async (disk) => {
      await disk.resize(1 << 30);
      await disk.write((1 << 30) - 512, new Uint8Array(512).fill(3));
      await expect(disk.resize((1 << 30) + 512)).rejects.toThrow('Invalid image size specified');
      await expect(disk.resize(mib)).rejects.toThrow('Shrinking images is currently not supported');
    });
    expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 1 });
  });

  it('shows zeroes where it grows over a longer backing file', async () => {
    const base = await folder.create('raw', 2 * mib);
    await folder.use('raw', base, (disk) => disk.write(0, new Uint8Array(2 * mib).fill(9)));
    const image = await folder.create('qed', 10_240, { backing_file: base, backing_fmt: 'raw', cluster_size: 4096 });
    await folder.use('qed', image, (disk) => disk.resize(2 * mib));
    const content = await folder.content('qed', image);
    expect(content.lastIndexOf(9)).toBe(10_239);
  });

  it.each([
    [{ cluster_size: 1024 }, 'QED cluster size must be within range [4096, 67108864] and power of 2'],
    [{ table_size: 3 }, 'QED table size must be within range [1, 16] and power of 2'],
    [{ cluster_size: 4096, table_size: 1 }, 'QED image size must be a non-zero multiple of cluster size and less than 1073741824 bytes'],
  ])('is not made with %j', async (options, message) => {
    await expect(folder.create('qed', 2 * 1024 * mib, options)).rejects.toThrow(message);
  });
});
