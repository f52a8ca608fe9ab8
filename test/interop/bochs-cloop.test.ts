/** Bochs disks by bximage and cloop files by create_compressed_fs read as qemu-img reads them; damaged headers are refused in its words. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { content } from '../support/disk-model.js';
import { havePeers, oracleTool } from '../support/peers.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-readonly-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => join(folder, name);

function succeed(program: string, parameters: readonly string[]): void {
  const { status, stdout, stderr, error } = spawnSync(program, parameters, { cwd: folder, encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  if (status !== 0) throw new Error(`${program} ${parameters.join(' ')}: ${String(error)} ${stdout}${stderr}`);
}

async function readByUs(name: string, format: string): Promise<Buffer> {
  const graph = new BlockGraph({ drivers: createRegistry() });
  try {
    const disk = await graph.openBackend(file(name), { driver: format, readOnly: true });
    const bytes = Buffer.alloc(disk.size);
    for (let at = 0; at < disk.size; at += 99_999) await disk.read(at, bytes.subarray(at, Math.min(disk.size, at + 99_999)));
    return bytes;
  } finally {
    await graph.close();
  }
}

/** A disk of 3 MiB and a bit with content here and there. */
function disk(): Buffer {
  const bytes = Buffer.alloc((3 << 20) + 512 * 96);
  for (const [offset, length, seed] of [[0, 5000, 1], [100_000, 30_000, 2], [(1 << 20) + 512, 900_000, 3], [bytes.length - 512, 512, 4]] as const) bytes.set(content(seed, length), offset);
  return bytes;
}

/** Opens copies of an image with some bytes changed, with us and with qemu-io 10, which must say the same. */
async function refuseAlike(format: string, image: Buffer, changes: readonly (readonly [number, readonly number[]])[]): Promise<void> {
  const qemuIo = oracleTool('qemu-io');
  if (qemuIo === undefined) return;
  for (const [offset, bytes] of changes) {
    const damaged = Buffer.from(image);
    damaged.set(bytes, offset);
    writeFileSync(file('damaged'), damaged);
    const { stderr } = spawnSync(qemuIo, ['-r', '-f', format, '-c', 'read -q 0 512', 'damaged'], { cwd: folder, encoding: 'utf8' });
    const ours = await readByUs('damaged', format).then(() => '', (error: Error) => `qemu-io: can't open device damaged: ${error.message}\n`);
    expect({ offset, bytes, said: ours }).toEqual({ offset, bytes, said: stderr });
  }
}

const word = (value: number): number[] => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24];

describe.skipIf(!havePeers('bximage', 'qemu-img'))('bochs', () => {
  it('growing disks made by bximage read as what they hold', async () => {
    writeFileSync(file('disk.raw'), disk());
    succeed('bximage', ['-q', '-func=convert', '-imgmode=growing', 'disk.raw', 'disk.bochs']);
    const seen = await readByUs('disk.bochs', 'bochs');
    expect(seen.subarray(0, disk().length).equals(disk())).toBe(true);
    for (const qemuImg of ['qemu-img', oracleTool('qemu-img')]) {
      if (qemuImg === undefined) continue;
      succeed(qemuImg, ['convert', '-f', 'bochs', '-O', 'raw', 'disk.bochs', 'theirs.raw']);
      expect(readFileSync(file('theirs.raw')).equals(seen)).toBe(true);
    }
  });

  it('holes are known to be zero', async () => {
    const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    const opened = await graph.openBackend(file('disk.bochs'), { readOnly: true });
    expect(opened.node.driver.name).toBe('bochs');
    expect(await opened.status(200_000, 500_000)).toMatchObject({ zero: true, data: false });
    await opened.close();
    await graph.close();
  });

  it('damaged headers are refused in the words of qemu-io 10', async () => {
    await refuseAlike('bochs', readFileSync(file('disk.bochs')), [
      [0, [0x58]], [32, [0x58]], [72, word(0xffff_ffff)], [72, word(0x10_0001)], [72, word(1)], [80, word(0)], [80, word(513)], [80, word(0x8000_0000)],
      [88, [0, 0xc0, 0x0f, 0, 0, 0, 0, 0x7f]],
    ]);
  });

  it('other kinds and versions are refused by name', async () => {
    for (const [offset, text, message] of [[48, 'Undoable', /type 'Undoable' are not supported/], [48, 'Volatile', /type 'Volatile'/], [64, '\0\0\x03\0', /version 0x30000 is not/]] as const) {
      const image = readFileSync(file('disk.bochs'));
      image.write(text, offset, 'latin1');
      writeFileSync(file('other.bochs'), image);
      await expect(readByUs('other.bochs', 'bochs')).rejects.toThrow(message);
    }
  });
});

describe.skipIf(!havePeers('create_compressed_fs', 'extract_compressed_fs', 'qemu-img'))('cloop', () => {
  for (const blockSize of [65_536, 1024]) {
    it(`files made by create_compressed_fs with blocks of ${blockSize} bytes read as what they hold`, async () => {
      writeFileSync(file('disk.raw'), disk());
      succeed('create_compressed_fs', ['-B', String(blockSize), 'disk.raw', 'disk.cloop']);
      const seen = await readByUs('disk.cloop', 'cloop');
      expect(seen.subarray(0, disk().length).equals(disk())).toBe(true);
      expect(seen.length).toBe(Math.ceil(disk().length / blockSize) * blockSize);
      for (const qemuImg of ['qemu-img', oracleTool('qemu-img')]) {
        if (qemuImg === undefined) continue;
        succeed(qemuImg, ['convert', '-f', 'cloop', '-O', 'raw', 'disk.cloop', 'theirs.raw']);
        expect(readFileSync(file('theirs.raw')).equals(seen)).toBe(true);
      }
    });
  }

  it('damaged headers are refused in the words of qemu-io 10', async () => {
    await refuseAlike('cloop', readFileSync(file('disk.cloop')), [
      [128, [0, 0, 2, 1]], [128, [0, 0, 0, 0]], [128, [0xff, 0xff, 0xfe, 0]], [132, [0xff, 0xff, 0xff, 0xff]], [132, [4, 0, 0, 1]],
      [136, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]], [144, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ]);
  });

  it('other versions are refused by name', async () => {
    const image = readFileSync(file('disk.cloop'));
    image.write('#V3.0 Format', 10, 'latin1');
    writeFileSync(file('other.cloop'), image);
    await expect(readByUs('other.cloop', 'cloop')).rejects.toThrow(/cloop version 3.0 is not supported/);
  });
});
