import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { coerceOption } from '../../block/options.js';
import { createRegistry } from '../../drivers.js';
import { createOptions } from './create-options.js';
import { measureQcow2 } from './measure.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-measure-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function theirs(...args: string[]): unknown {
  const done = spawnSync(qemuImg, ['measure', '-O', 'qcow2', '--output=json', ...args], { encoding: 'utf8' });
  return done.status === 0 ? JSON.parse(done.stdout) : done.stderr.trim().replace(/^qemu-img: /, '');
}

const parse = (text: string): Record<string, ReturnType<typeof coerceOption>> => Object.fromEntries(text.split(',').filter((part) => part !== '').map((part) => {
  const [key, value] = part.split('=') as [string, string];
  return [key, coerceOption(key, createOptions[key]!, value)];
}));

async function ours(...[source, options]: Parameters<typeof measureQcow2>): Promise<unknown> {
  try {
    const { required, fullyAllocated, bitmaps } = await measureQcow2(source, options);
    return { required, 'fully-allocated': fullyAllocated, ...(bitmaps !== undefined && { bitmaps }) };
  } catch (error) {
    return error instanceof Error ? error.message : error;
  }
}

const G = 2 ** 30;

describe('measure agrees with qemu-img', () => {
  it.each<[number, string]>([
    [0, ''], [1025, ''], [G, ''], [1024 * G, ''], [G, 'cluster_size=512'], [100 * G, 'cluster_size=512'], [200 * G, 'cluster_size=512'],
    [10 * 1024 * G, 'cluster_size=2M'], [G, 'refcount_bits=1'], [10 * G, 'refcount_bits=64'], [10 * G, 'extended_l2=on'], [10 * G, 'compat=0.10'],
    [10 * G, 'preallocation=full'], [10 * G, 'preallocation=metadata'], [10 * G, 'preallocation=foo'], [G, 'compat=foo'], [G, 'refcount_bits=7'],
    [G, 'cluster_size=1000'], [G, 'compat=0.10,refcount_bits=8'], [G, 'extended_l2=on,cluster_size=4k'], [G, 'encrypt.format=luks'],
  ])('on %d bytes with %s', async (size, text) => {
    expect(await ours(undefined, { ...parse(text), size })).toEqual(theirs('--size', String(size), ...(text === '' ? [] : ['-o', text])));
  });

  it('on what an image and its backing file hold', async () => {
    const [base, top] = [join(folder, 'base'), join(folder, 'top')];
    spawnSync(qemuImg, ['create', '-q', '-f', 'qcow2', base, '100M']);
    spawnSync(qemuIo, ['-c', 'write 1M 1M', '-c', 'write -z 5M 1M', '-c', 'write 20000k 3k', base]);
    for (const [name, granularity] of [['coarse', '64k'], ['fine', '512']]) spawnSync(qemuImg, ['bitmap', '--add', '-g', granularity!, base, name!]);
    spawnSync(qemuImg, ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top, '110M']);
    spawnSync(qemuIo, ['-c', 'write 31M 1M', '-c', 'write -z 1M 512k', top]);
    const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    const old = join(folder, 'old');
    spawnSync(qemuImg, ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', old, '10M']);
    for (const file of [base, top, old]) {
      const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } }, { readOnly: true });
      for (const text of ['', 'cluster_size=512', 'cluster_size=2M', 'compat=0.10', 'backing_file=x,backing_fmt=raw']) {
        expect(await ours(backend, parse(text))).toEqual(theirs('-f', 'qcow2', ...(text === '' ? [] : ['-o', text]), file));
      }
      await backend.close();
    }
  });
});
