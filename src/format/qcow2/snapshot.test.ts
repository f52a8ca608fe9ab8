import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../block/child.js';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-snapshot-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function tool(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

async function using<T>(file: string, action: (backend: BlockBackend) => Promise<T>, readOnly = false): Promise<T> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { readOnly });
  try {
    return await action(backend);
  } finally {
    await backend.close();
  }
}

const snapshots = (backend: BlockBackend): NonNullable<ReturnType<typeof backend.facet<'snapshots'>>> => backend.facet('snapshots')!;

/** Bytes of an image without the dates of its snapshots. */
function undated(file: string): Buffer {
  const bytes = readFileSync(file);
  let at = Number(bytes.readBigUInt64BE(64));
  for (let left = bytes.readUInt32BE(60); left > 0; left--) {
    bytes.fill(0, at + 16, at + 24);
    at += Math.ceil((40 + bytes.readUInt32BE(at + 36) + bytes.readUInt16BE(at + 12) + bytes.readUInt16BE(at + 14)) / 8) * 8;
  }
  return bytes;
}

/** Where two images differ: offset, ours, theirs. */
function difference(ours: Buffer, theirs: Buffer): string[] {
  if (ours.equals(theirs)) return [];
  const found = [`lengths ${ours.length} ${theirs.length}`];
  for (let at = 0; at < Math.max(ours.length, theirs.length) && found.length < 12; at += 8) {
    const [a, b] = [ours, theirs].map((bytes) => bytes.subarray(at, at + 8).toString('hex'));
    if (a !== b) found.push(`${at.toString(16)}: ${a} ${b}`);
  }
  return found;
}

type Step = ['create' | 'apply' | 'delete', string] | ['io', ...string[]] | ['resize', string];

async function perform(ours: string, theirs: string, steps: readonly Step[]): Promise<void> {
  for (const [kind, ...rest] of steps) {
    if (kind === 'io') {
      for (const file of [ours, theirs]) tool(qemuIo, ...rest.flatMap((command) => ['-c', command]), file);
    } else if (kind === 'resize') {
      for (const file of [ours, theirs]) tool(qemuImg, 'resize', '-q', file, rest[0]!);
    } else {
      tool(qemuImg, 'snapshot', { create: '-c', apply: '-a', delete: '-d' }[kind], rest[0]!, theirs);
      await using(ours, async (backend) => {
        const facet = snapshots(backend);
        if (kind === 'create') await facet.create({ name: rest[0]! });
        else await facet[kind](facet.list().find(({ name }) => name === rest[0])!.id);
      });
    }
    expect(tool(qemuImg, 'check', ours)).toContain('No errors were found');
    expect({ after: kind, difference: difference(undated(ours), undated(theirs)) }).toEqual({ after: kind, difference: [] });
  }
}

describe('internal snapshots', () => {
  it.each([
    ['cluster_size=64k'], ['cluster_size=4k'], ['compat=0.10'], ['extended_l2=on'], ['refcount_bits=8'], ['lazy_refcounts=on'],
  ])('leave the bytes that qemu-img leaves (%s)', async (options) => {
    const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')];
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', options, theirs, '5M');
    copyFileSync(theirs, ours);
    await perform(ours, theirs, [
      ['io', 'write -P 1 0 300k', `write -c -P 2 1M ${options.startsWith('cluster_size=4k') ? '4k' : '64k'}`, 'write -P 3 4M 4k'],
      ['create', 'first'],
      ['io', 'write -P 4 64k 100k', 'write -P 5 2M 64k'],
      ['create', 'second'],
      ['io', 'write -P 6 0 64k'],
      ['apply', 'first'],
      ['io', 'write -P 7 0 64k'],
      ['delete', 'first'],
      ['apply', 'second'],
      ['delete', 'second'],
    ]);
    tool(qemuIo, '-c', 'read -P 1 0 64k', '-c', 'read -P 4 64k 100k', '-c', 'read -P 5 2M 64k', ours);
  });

  it('bring back the size of the disk', async () => {
    const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')];
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', theirs, '2M');
    copyFileSync(theirs, ours);
    await perform(ours, theirs, [['io', 'write 0 1M'], ['create', 'small'], ['resize', '8M'], ['io', 'write 6M 1M'], ['create', 'large'], ['apply', 'small'], ['apply', 'large']]);
  });

  it('are listed, loaded and refused as they should be', async () => {
    const file = join(folder, 'ours');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '1M');
    tool(qemuIo, '-c', 'write -P 1 0 64k', file);
    await using(file, async (backend) => {
      expect(await snapshots(backend).create({ name: 'a', vmClockNs: 5n, icount: 7n, date: new Date(1_600_000_000_123) }))
        .toEqual({ id: '1', name: 'a', vmStateSize: 0, diskSize: 1 << 20, dateSec: 1_600_000_000, dateNsec: 123_000_000, vmClockNs: 5n, icount: 7n });
      await backend.write(0, new Uint8Array(65536).fill(2));
      await expect(snapshots(backend).create({ name: 'b', id: '1' })).rejects.toMatchObject({ errno: 17 });
      await expect(snapshots(backend).apply('9')).rejects.toThrow("Can't find snapshot");
      await expect(snapshots(backend).load('1')).rejects.toThrow('Device is not readonly');
    });
    await using(file, async (backend) => {
      const bytes = new Uint8Array(65536);
      await backend.read(0, bytes);
      expect(bytes[5]).toBe(2);
      await snapshots(backend).load('1');
      await backend.read(0, bytes);
      expect(bytes[5]).toBe(1);
    }, true);
  });

  it('are refused where clusters cannot be shared, without harm', async () => {
    const file = join(folder, 'narrow');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=1', file, '1M');
    tool(qemuIo, '-c', 'write -P 1 0 512', file);
    await using(file, async (backend) => {
      await expect(snapshots(backend).create({ name: 'a' })).rejects.toMatchObject({ errno: 22 });
    });
    tool(qemuIo, '-c', 'read -P 1 0 512', file);
  });
});
