import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { keepsBitmaps } from '../../block/dirty-bitmap.js';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { addBitmap, clearBitmap, enableBitmap, mergeBitmap, removeBitmap } from '../../image/bitmap.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-bitmap-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function tool(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

async function using<T>(file: string, action: (backend: BlockBackend, graph: BlockGraph) => Promise<T>, readOnly = false): Promise<T> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { readOnly, discard: 'unmap' });
  try {
    return await action(backend, graph);
  } finally {
    await backend.close();
  }
}

const stored = (file: string): unknown => (JSON.parse(tool(qemuImg, 'info', '-U', '--output=json', file)) as {
  'format-specific': { data: { bitmaps?: unknown } };
})['format-specific'].data.bitmaps;

type Step = readonly [verb: 'add' | 'remove' | 'clear' | 'enable' | 'disable', name: string, granularity?: number] | readonly ['merge', string, string] | readonly ['write', number, number];

async function ours(file: string, [verb, ...rest]: Step): Promise<void> {
  await using(file, async ({ node, ...backend }) => {
    const name = rest[0] as string;
    if (verb === 'add') await addBitmap(node, name, rest[1] as number | undefined);
    else if (verb === 'remove') await removeBitmap(node, name);
    else if (verb === 'clear') clearBitmap(node, name);
    else if (verb === 'merge') mergeBitmap(node, name, node, rest[1] as string);
    else if (verb !== 'write') enableBitmap(node, name, verb === 'enable');
    void backend;
  });
}

function theirs(file: string, [verb, ...rest]: Step): void {
  if (verb === 'merge') tool(qemuImg, 'bitmap', '--merge', rest[1] as string, file, rest[0] as string);
  else tool(qemuImg, 'bitmap', `--${verb}`, ...(rest[1] === undefined ? [] : ['-g', String(rest[1])]), file, rest[0] as string);
}

/** Clusters that a bitmap marks, as the peer sees them through NBD. */
function marked(file: string, bitmap: string): string {
  return tool('bash', '-c', 'sock=$(mktemp -u); "$0" -r -f qcow2 -B "$2" -k "$sock" -t --fork "$1" --pid-file "$sock.pid" && nbdinfo --map="qemu:dirty-bitmap:$2" "nbd+unix:///?socket=$sock"; kill $(cat "$sock.pid")',
    process.env['QEMU_NBD_PROG'] ?? 'qemu-nbd', file, bitmap);
}

describe('stored bitmaps', () => {
  it.each([[65536], [4096]])('leave the bytes that qemu-img leaves (cluster size %d)', async (clusterSize) => {
    const [mine, other] = [join(folder, 'mine'), join(folder, 'other')];
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterSize}`, other, '64M');
    copyFileSync(other, mine);
    const steps: Step[] = [
      ['add', 'b0'], ['add', 'fine', 512], ['write', 0, 1 << 20], ['write', 5 << 20, 4096], ['disable', 'b0'], ['write', 9 << 20, 4096], ['enable', 'b0'],
      ['add', 'other', 1 << 20], ['merge', 'other', 'fine'], ['clear', 'fine'], ['remove', 'b0'], ['write', 2 << 20, 70000 * 512], ['remove', 'fine'], ['remove', 'other'],
    ];
    for (const step of steps) {
      if (step[0] === 'write') {
        tool(qemuIo, '-c', `write ${step[1]} ${step[2]}`, other);
        tool(qemuIo, '-c', `write ${step[1]} ${step[2]}`, mine);
      } else {
        theirs(other, step);
        await ours(mine, step);
      }
      expect({ step, check: tool(qemuImg, 'check', mine).split('\n')[0] }).toEqual({ step, check: 'No errors were found on the image.' });
      expect(stored(mine)).toEqual(stored(other));
      expect({ step, same: readFileSync(mine).equals(readFileSync(other)) }).toEqual({ step, same: true });
    }
  });

  it('record what is written through us', async () => {
    const file = join(folder, 'recorded');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    tool(qemuImg, 'bitmap', '--add', '--disable', file, 'off');
    await using(file, async (backend) => {
      await backend.write(70_000, new Uint8Array(10));
      await backend.writeZeroes(1 << 20, 1 << 17);
      await backend.discard(2 << 20, 65536);
    });
    expect(marked(file, 'b').trim().split('\n').map((line) => line.trim().split(/\s+/).slice(0, 3).map(Number))).toEqual([
      [0, 65536, 0], [65536, 65536, 1], [131072, 917504, 0], [1048576, 131072, 1], [1179648, 917504, 0], [2097152, 65536, 1], [2162688, 2031616, 0],
    ]);
    await using(file, async ({ node }) => {
      expect([...node.bitmaps.get('b')!.ranges()].map(({ offset }) => offset)).toEqual([65536, 1048576, 2097152]);
      expect(node.bitmaps.get('off')).toMatchObject({ enabled: false, persistent: true, dirtyBits: 0, readOnly: true });
    }, true);
  });

  it('are inconsistent after a crash, and can then only be removed', async () => {
    const file = join(folder, 'crashed');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    await using(file, async () => { writeFileSync(`${file}.copy`, readFileSync(file)); });
    expect(stored(`${file}.copy`)).toEqual([{ flags: ['in-use', 'auto'], name: 'b', granularity: 65536 }]);
    await using(`${file}.copy`, async ({ node }) => {
      expect(() => clearBitmap(node, 'b')).toThrow("Bitmap 'b' is inconsistent and cannot be used");
      await removeBitmap(node, 'b');
    });
    expect(stored(`${file}.copy`)).toBeUndefined();
    expect(tool(qemuImg, 'check', `${file}.copy`)).toContain('No errors');
  });

  it('keep their image from changing its size, or to a snapshot, where they could not follow', async () => {
    const file = join(folder, 'kept');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '1M');
    tool(qemuImg, 'snapshot', '-c', 's', file);
    tool(qemuImg, 'resize', '-q', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    await using(file, async (backend) => {
      await expect(backend.node.facet('snapshots')!.apply('1')).rejects.toThrow('Device has active dirty bitmaps');
      writeFileSync(`${file}.copy`, readFileSync(file));
    });
    await using(`${file}.copy`, async (backend) => {
      await expect(backend.resize(8 << 20)).rejects.toThrow("Bitmap 'b' is inconsistent and cannot be used");
      await expect(backend.resize(1 << 20)).rejects.toThrow("Bitmap 'b' is inconsistent and cannot be used");
      await expect(backend.node.facet('snapshots')!.apply('1')).rejects.toThrow('Device has active dirty bitmaps');
      await removeBitmap(backend.node, 'b');
      await backend.node.facet('snapshots')!.apply('1');
      expect(backend.size).toBe(1 << 20);
    });
    expect(tool(qemuImg, 'check', `${file}.copy`)).toContain('No errors');
    expect(tool(qemuImg, 'check', file)).toContain('No errors');
  });

  it('are not stored with a disk of no size, which would open no more', async () => {
    const file = join(folder, 'empty');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '0');
    await using(file, async ({ node }) => {
      await expect(addBitmap(node, 'b')).rejects.toThrow("Can't make bitmap 'b' persistent");
    });
    tool(qemuImg, 'check', file);
    tool(qemuImg, 'resize', '-q', file, '1M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    await expect(using(file, (backend) => backend.resize(0))).rejects.toThrow('Lost persistent bitmaps');
    expect(stored(file)).toEqual([{ flags: ['in-use', 'auto'], name: 'b', granularity: 65536 }]);
    expect(tool(qemuImg, 'check', file)).toContain('No errors');
  });

  it('are given up, once, where a program that does not know them wrote to the image', async () => {
    const file = join(folder, 'outdated');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    const bytes = readFileSync(file);
    bytes.writeBigUInt64BE(0n, 88);
    writeFileSync(file, bytes);
    const warnings: string[] = [];
    for (const readOnly of [true, false, false]) {
      const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
      graph.onWarning = (message) => { warnings.push(message.split(',')[0]!); };
      await (await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { readOnly })).close();
    }
    expect(warnings).toEqual(Array(2).fill('a program lacking bitmap support modified this file'));
  });

  it('that cannot be are found by a check', async () => {
    const file = join(folder, 'implausible');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    const bytes = readFileSync(file);
    const auto = 2, dirtyTracking = 1, granularityBits = 16, nameLength = 1;
    const entry = bytes.indexOf(Buffer.from([auto, dirtyTracking, granularityBits, 0, nameLength, 0, 0, 0, 0, 'b'.charCodeAt(0)]));
    bytes[entry + 2] = 99;
    writeFileSync(file, bytes);
    const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    const image = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { check: true, readOnly: true });
    const lines: string[] = [];
    const { corruptions } = await image.facet('check')!.check({ repair: 'none', report: (line) => lines.push(line) });
    await graph.close();
    expect({ corruptions, lines }).toEqual({ corruptions: 1, lines: ["ERROR bitmap 'b' doesn't satisfy the constraints"] });
  });

  it('follow the size of the disk', async () => {
    const file = join(folder, 'resized');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    tool(qemuImg, 'bitmap', '--add', file, 'b');
    await using(file, async (backend) => {
      await backend.resize(1 << 30);
      await backend.write((1 << 30) - 512, new Uint8Array(512));
    });
    expect(tool(qemuImg, 'check', file)).toContain('No errors');
    expect(marked(file, 'b')).toMatch(/1073676288 +65536 +1/);
  });

  it('are refused in the words of the peer', async () => {
    const file = join(folder, 'old');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', file, '4M');
    await using(file, async ({ node }) => {
      expect(keepsBitmaps(node)).toBe(false);
      await expect(addBitmap(node, 'b')).rejects.toThrow(`Can't make bitmap 'b' persistent in '${node.name}': Cannot store dirty bitmaps in qcow2 v2 files`);
    });
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    await using(file, async ({ node }) => {
      expect(keepsBitmaps(node)).toBe(true);
      await expect(addBitmap(node, 'n'.repeat(1024))).rejects.toThrow('Name length exceeds maximum (1023 characters)');
      await addBitmap(node, 'n'.repeat(1023));
    });
    expect(tool(qemuImg, 'check', file)).toContain('No errors');
  });

  it('survive going read-only and back', async () => {
    const file = join(folder, 'reopened');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '4M');
    await using(file, async (backend) => {
      await addBitmap(backend.node, 'b');
      await backend.write(0, new Uint8Array(512));
      await backend.node.ops.reopen!({ readOnly: true });
      expect(stored(file)).toEqual([{ flags: ['auto'], name: 'b', granularity: 65536 }]);
      expect(() => clearBitmap(backend.node, 'b')).toThrow("Bitmap 'b' is readonly and cannot be modified");
      await backend.node.ops.reopen!({ readOnly: false });
      await backend.write(1 << 20, new Uint8Array(512));
    });
    await using(file, async ({ node }) => {
      expect([...node.bitmaps.get('b')!.ranges()].map(({ offset }) => offset)).toEqual([0, 1 << 20]);
    }, true);
  });
});
