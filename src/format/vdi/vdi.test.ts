import { afterAll, describe, expect, it } from 'vitest';
import { writeFileSync } from 'node:fs';
import { ImageFolder } from '../../../test/support/image-folder.js';

const folder = new ImageFolder();
afterAll(() => folder.remove());
const mib = 1 << 20;
const table = 512;
const ones = [0xff, 0xff, 0xff, 0xff] as const;

/** 64 KiB at 5 MiB, 1 MiB at 2 MiB: blocks 0 and 1 of the file. */
async function filled(options = {}): Promise<string> {
  const image = await folder.create('vdi', 10 * mib, options);
  await folder.use('vdi', image, async (disk) => {
    await disk.write(5 * mib, new Uint8Array(65_536).fill(3));
    await disk.write(2 * mib, new Uint8Array(mib).fill(4));
  });
  return image;
}

async function check(image: string, repair: 'none' | 'all' = 'none'): Promise<{ lines: string[]; corruptions: number; fixed: number }> {
  const lines: string[] = [];
  const { corruptions, corruptionsFixed } = await folder.use('vdi', image,
    async (disk) => disk.node.facet('check')!.check({ repair, report: (line) => lines.push(line) }), { check: true, readOnly: repair === 'none' });
  return { lines, corruptions, fixed: corruptionsFixed };
}

describe('a VDI header', () => {
  it.each([
    [[64, 0], 'Image not in VDI format (bad signature beda1000)'],
    [[68, 2], 'unsupported VDI image (version 1.2)'],
    [[68, 1, 0, 0, 0], 'unsupported VDI image (version 0.1)'],
    [[340, 5], 'unsupported VDI image (unaligned block map offset 0x205)'],
    [[360, 0, 4], 'unsupported VDI image (sector size 1024 is not 512)'],
    [[376, 1], 'unsupported VDI image (block size 1048577 is not 1048576)'],
    [[384, 5], 'unsupported VDI image (disk size 10485760, image bitmap has room for 5242880)'],
    [[384, 0xff, 0xff, 0xff, 0xff], 'unsupported VDI image (too many blocks 4294967295, max is 536870784)'],
    [[368, 1], 'unsupported VDI image (disk size 10486272, image bitmap has room for 10485760)'],
    [[424, 1], 'unsupported VDI image (non-NULL link UUID)'],
    [[440, 1], 'unsupported VDI image (non-NULL parent UUID)'],
    [[340, 0, 0], 'The block map overlaps the header or the data'],
    [[384, 0, 0, 1], 'The block map overlaps the header or the data'],
    [[388, 0x20], undefined],
  ] as const)('with %j is answered by %s', async (change, message) => {
    const image = await folder.create('vdi', 10 * mib);
    folder.patch(image, change);
    const opening = folder.use('vdi', image, (disk) => disk.size, { readOnly: true });
    if (message === undefined) expect(await opening).toBe(10 * mib);
    else await expect(opening).rejects.toThrow(message);
  });

  it('may put data anywhere, as xmount does', async () => {
    const image = await filled();
    const bytes = folder.bytes(image);
    const moved = Buffer.concat([bytes.subarray(0, 1024), Buffer.alloc(0x21), bytes.subarray(1024)]);
    writeFileSync(image, moved);
    folder.patch(image, [344, 0x21, 4]);
    const content = await folder.content('vdi', image);
    expect([content[5 * mib], content[5 * mib + 65_536], content[3 * mib - 1]]).toEqual([3, 0, 4]);
  });

  it('may have smaller blocks', async () => {
    const image = await folder.create('vdi', 10 * mib);
    folder.patch(image, [368, 0, 0, 10, 0], [376, 0, 0, 1, 0]);
    await folder.use('vdi', image, (disk) => disk.write(100_000, new Uint8Array(200_000).fill(6)));
    expect(folder.bytes(image).length).toBe(1024 + 4 * 65_536);
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    const content = await folder.content('vdi', image);
    expect([content.indexOf(6), content.lastIndexOf(6)]).toEqual([100_000, 299_999]);
  });
});

describe('a differencing VDI', () => {
  /** A child that changes the sector at 5 MiB and hides the block at 2 MiB. */
  async function child(parent: string, type = 4): Promise<string> {
    const image = await folder.create('vdi', 10 * mib);
    await folder.use('vdi', image, (disk) => disk.write(0, new Uint8Array(512).fill(8)));
    folder.patch(image, [76, type], [table + 8, 0xfe, 0xff, 0xff, 0xff], [424, ...folder.bytes(parent).subarray(392, 424)]);
    return image;
  }
  const through = (parent: string) => ({ with: { backing: { driver: 'vdi', file: { driver: 'file', filename: parent } } } });

  it.each([3, 4])('of type %i shows its parent', async (type) => {
    const parent = await filled();
    const content = await folder.content('vdi', await child(parent, type), through(parent));
    expect([content[0], content[5 * mib], content[2 * mib]]).toEqual([8, 3, 0]);
  });

  it('is not opened without its parent, and says which that is', async () => {
    const parent = await filled();
    const image = await child(parent);
    const hex = folder.bytes(parent).subarray(400, 408).toString('hex');
    await expect(folder.open('vdi', image, { readOnly: true })).rejects.toMatchObject({
      message: 'unsupported VDI image (non-NULL link UUID)', context: { hint: expect.stringContaining(`${hex.slice(0, 4)}-${hex.slice(4)}`) as string },
    });
    await folder.use('vdi', image, ({ size }) => expect(size).toBe(10 * mib), { readOnly: true, noIo: true });
  });

  it('is not opened on another image', async () => {
    const image = await child(await filled());
    await expect(folder.open('vdi', image, { readOnly: true, ...through(await filled()) })).rejects.toThrow('is not the parent of this image');
  });

  it('takes writes, and zeroes that hide the parent', async () => {
    const parent = await filled();
    const image = await child(parent);
    await folder.use('vdi', image, async (disk) => {
      await disk.write(5 * mib + 512, new Uint8Array(512).fill(9));
      await disk.writeZeroes(2 * mib, mib);
    }, through(parent));
    const content = await folder.content('vdi', image, through(parent));
    expect([content[5 * mib], content[5 * mib + 512], content[5 * mib + 1024], content[2 * mib]]).toEqual([3, 9, 3, 0]);
    expect((await folder.content('vdi', parent))[5 * mib + 512]).toBe(3);
  });
});

describe('checking VDI', () => {
  it('finds what QEMU finds', async () => {
    const image = await filled();
    expect(await check(image)).toEqual({ lines: [], corruptions: 0, fixed: 0 });
    folder.patch(image, [table, 1, 0, 0, 0]);
    expect((await check(image)).lines).toEqual(['ERROR: block index 1 also used by 1', 'ERROR: allocated blocks mismatch, is 3, should be 2']);
    folder.patch(image, [table, 0x15, 0, 0, 0, ...ones]);
    expect((await check(image)).lines).toEqual(['ERROR: block index 0 too large, is 21']);
    folder.patch(image, [table, ...ones], [388, 5]);
    expect((await check(image)).lines).toEqual(['ERROR: allocated blocks mismatch, is 2, should be 5']);
  });

  it('finds what is not in the file, and such an image is not written to', async () => {
    const image = await filled();
    folder.patch(image, [table, 5, 0, 0, 0], [388, 6]);
    expect((await check(image)).lines).toEqual(['ERROR: block index 0 behind the end of the file, is 5', 'ERROR: allocated blocks mismatch, is 2, should be 6']);
    await expect(folder.open('vdi', image)).rejects.toThrow('Block 0 lies behind the end of the file');
    expect(await check(image, 'all')).toMatchObject({ fixed: 2 });
    await folder.use('vdi', image, (disk) => disk.write(0, new Uint8Array(512)));
    expect(folder.bytes(image).length).toBe(1024 + 3 * mib);
  });

  it('finds a block whose end the file has lost, and gives it zeroes', async () => {
    const image = await filled();
    writeFileSync(image, folder.bytes(image).subarray(0, 1024 + 1.5 * mib));
    const { lines } = await check(image);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^ERROR: block index \d ends behind the end of the file, is 1$/);
    expect(await check(image, 'all')).toMatchObject({ fixed: 1 });
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    expect(folder.bytes(image).length).toBe(1024 + 2 * mib);
  });

  it('mends all of it', async () => {
    const image = await filled();
    folder.patch(image, [table, 0x15, 0, 0, 0, 1, 0, 0, 0], [388, 7]);
    expect(await check(image, 'all')).toMatchObject({ corruptions: 3, fixed: 3 });
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    expect(folder.bytes(image).length).toBe(1024 + 3 * mib);
    await folder.use('vdi', image, (disk) => disk.write(2 * mib, new Uint8Array(512).fill(7)));
    const content = await folder.content('vdi', image);
    expect([content[0], content[mib], content[2 * mib], content[2 * mib + 512], content[5 * mib]]).toEqual([0, 4, 7, 4, 3]);
  });

  it('moves the last block into a gap', async () => {
    const image = await filled();
    folder.patch(image, [table + 5 * 4, ...ones]);
    expect((await check(image)).lines).toEqual(['ERROR: allocated blocks mismatch, is 1, should be 2']);
    expect(await check(image, 'all')).toMatchObject({ fixed: 1 });
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    expect(folder.bytes(image).length).toBe(1024 + mib);
    expect((await folder.content('vdi', image))[2 * mib]).toBe(4);
  });
});

describe('a VDI image', () => {
  it('whose writer was cut off does not use a block twice', async () => {
    const image = await filled();
    folder.patch(image, [388, 0]);
    await folder.use('vdi', image, (disk) => disk.write(0, new Uint8Array(512).fill(5)));
    const content = await folder.content('vdi', image);
    expect([content[0], content[2 * mib], content[5 * mib]]).toEqual([5, 4, 3]);
    expect(await check(image)).toMatchObject({ corruptions: 0 });
  });

  it('takes no room for zeroes', async () => {
    const image = await folder.create('vdi', 10 * mib);
    await folder.use('vdi', image, (disk) => disk.writeZeroes(mib, 5 * mib));
    expect(folder.bytes(image).length).toBe(1024);
  });

  it('has all its blocks from the start where it is fixed', async () => {
    const image = await folder.create('vdi', 3 * mib + 512, { static: true });
    const bytes = folder.bytes(image);
    expect([bytes.length, bytes[76], bytes[384], bytes[388], bytes[table + 12]]).toEqual([1024 + 4 * mib, 2, 4, 4, 3]);
  });

  it.each([[100 * mib, 'into the room in front of its data', 1024], [2 ** 39, 'with a map in place of its first blocks', 1024 + 2 * mib]])(
    'grows to %i bytes, %s', async (size, _how, dataOffset) => {
      const image = await filled();
      await folder.use('vdi', image, async (disk) => {
        await disk.resize(size);
        await disk.write(size - 512, new Uint8Array(512).fill(6));
      });
      expect(folder.bytes(image).readUInt32LE(344)).toBe(dataOffset);
      expect(await check(image)).toMatchObject({ corruptions: 0 });
      await folder.use('vdi', image, async (disk) => {
        const byteAt = async (offset: number): Promise<number> => {
          const byte = new Uint8Array(1);
          await disk.read(offset, byte);
          return byte[0]!;
        };
        expect(disk.size).toBe(size);
        expect(await Promise.all([0, 2 * mib, 5 * mib, 6 * mib, 10 * mib, size - 513, size - 1].map(byteAt))).toEqual([0, 4, 3, 0, 0, 0, 6]);
      }, { readOnly: true });
    });

  it('shrinks: blocks behind the end go, the last ones move into their places, and nothing comes back', async () => {
    const image = await folder.create('vdi', 10 * mib);
    await folder.use('vdi', image, async (disk) => {
      for (const block of [8, 1, 9, 3, 0]) await disk.write(block * mib, new Uint8Array(mib).fill(block + 1));
    });
    await folder.use('vdi', image, (disk) => disk.resize(3 * mib + 512));
    expect(folder.bytes(image).length).toBe(1024 + 3 * mib);
    expect(await check(image)).toMatchObject({ corruptions: 0 });
    await folder.use('vdi', image, (disk) => disk.resize(10 * mib));
    const content = await folder.content('vdi', image);
    expect([0, mib, 2 * mib, 3 * mib, 3 * mib + 511, 3 * mib + 512, 4 * mib - 1, 8 * mib, 9 * mib].map((at) => content[at])).toEqual([1, 2, 0, 4, 4, 0, 0, 0, 0]);
  });

  it('does not grow where it is fixed', async () => {
    const image = await folder.create('vdi', mib, { static: true });
    await folder.use('vdi', image, (disk) => expect(disk.resize(2 * mib)).rejects.toThrow('does not support resize'));
  });

  it('is not made larger than the format allows', async () => {
    await expect(folder.create('vdi', 2 ** 50)).rejects.toThrow('Unsupported VDI image size (size is 0x4000000000000, max supported is 0x1fffff8000000)');
  });
});
