import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createImageFile } from '../../block/create.js';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { coerceOption } from '../../block/options.js';
import { createOptions } from './create-options.js';
import { share } from '../../../test/support/cases.js';
import { scratchFolder } from '../../../test/support/scratch.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const K = 1024;
const M = K * K;
let folder: string;
// In memory where there is such a place: qemu-img waits for the disk after each refcount block.
beforeAll(() => { folder = mkdtempSync(join(scratchFolder, 'qcow2-create-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

async function both(size: number, text: string): Promise<{ theirs: string; ours: string; theirError: string; ourError: string }> {
  const theirs = join(folder, 'theirs');
  const ours = join(folder, 'ours');
  for (const file of [theirs, ours, `${theirs}.data`, `${ours}.data`]) rmSync(file, { force: true });
  const withData = (file: string): string => text.replace('DATA', `${file}.data`);
  const done = spawnSync(qemuImg, ['create', '-q', '-u', '-f', 'qcow2', ...(text === '' ? [] : ['-o', withData(theirs)]), theirs, String(size)], { encoding: 'utf8' });
  const options = Object.fromEntries(withData(ours).split(',').filter((part) => part !== '').map((part) => {
    const [key, value] = part.split('=') as [string, string];
    return [key, coerceOption(key, createOptions[key]!, value)];
  }));
  let ourError = '';
  try {
    await createImageFile(new BlockGraph({ drivers: createRegistry(), gate: () => true }), { filename: ours, format: 'qcow2', size, options });
  } catch (error) {
    ourError = error instanceof Error ? error.message : String(error);
  }
  return { theirs, ours, theirError: done.stderr.trim().replace(`qemu-img: ${theirs}: `, ''), ourError };
}

/** First difference of two files, outside names that differ. */
function difference(theirs: string, ours: string): string | undefined {
  const a = readFileSync(theirs);
  const b = Buffer.from(readFileSync(ours));
  const name = Buffer.from(`${ours}.data`);
  const at = b.indexOf(name);
  if (at >= 0) a.copy(b, at - 8, at - 8, Math.max(at + name.length, 2048));
  if (a.equals(b)) return undefined;
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    if (a[index] !== b[index]) return `at 0x${index.toString(16)}: theirs ${a.subarray(index, index + 8).toString('hex')}, ours ${b.subarray(index, index + 8).toString('hex')}; lengths 0x${a.length.toString(16)} 0x${b.length.toString(16)}`;
  }
  return undefined;
}

describe('create makes the bytes qemu-img makes', () => {
  const sizes = [0, 512, M, 1000 * K, 5 * M + 512, 64 * M, 1024 * M];
  it.each(sizes)('at default options for %d bytes', async (size) => {
    const { theirs, ours, theirError, ourError } = await both(size, '');
    expect(ourError).toBe(theirError);
    expect(difference(theirs, ours)).toBeUndefined();
  });

  it.each([
    'compat=0.10', 'compat=v2', 'compat=v3', 'compat=1.1', 'lazy_refcounts=on', 'cluster_size=512', 'cluster_size=4k', 'cluster_size=2M',
    'refcount_bits=1', 'refcount_bits=2', 'refcount_bits=8', 'refcount_bits=64', 'extended_l2=on', 'extended_l2=on,cluster_size=16k',
    'compression_type=zstd', 'compression_type=zlib,compat=0.10', 'backing_file=base.img,backing_fmt=raw', 'backing_file=base.img,backing_fmt=qcow2,compat=0.10',
    'backing_file=base.img,backing_fmt=raw,cluster_size=512', 'data_file=DATA', 'data_file=DATA,data_file_raw=on', 'data_file=DATA,extended_l2=on',
    'preallocation=off', 'preallocation=metadata', 'preallocation=falloc', 'preallocation=full', 'preallocation=metadata,compat=0.10',
    'preallocation=metadata,cluster_size=4k', 'preallocation=full,cluster_size=4k', 'preallocation=metadata,cluster_size=512',
    'preallocation=full,cluster_size=512', 'preallocation=falloc,cluster_size=512,refcount_bits=64', 'preallocation=metadata,extended_l2=on',
    'preallocation=falloc,extended_l2=on', 'preallocation=metadata,lazy_refcounts=on', 'preallocation=metadata,data_file=DATA',
    'preallocation=full,data_file=DATA', 'preallocation=falloc,data_file=DATA,data_file_raw=on', 'preallocation=metadata,refcount_bits=1',
    'preallocation=metadata,cluster_size=512,refcount_bits=64', 'preallocation=metadata,extended_l2=on,backing_file=base.img,backing_fmt=raw',
    'preallocation=metadata,cluster_size=2M', 'cluster_size=512,refcount_bits=64',
  ])('with %s', async (text) => {
    const { theirs, ours, theirError, ourError } = await both(9 * M + 3 * K, text);
    expect(ourError).toBe(theirError);
    expect(difference(theirs, ours)).toBeUndefined();
    if (existsSync(`${theirs}.data`)) expect(statSync(`${ours}.data`).size).toBe(statSync(`${theirs}.data`).size);
    expect(Math.abs(statSync(ours).blocks - statSync(theirs).blocks)).toBeLessThan(text.includes('2M') ? 4096 : 300);
  });

  it('where the L1 table alone needs many refcount blocks', async () => {
    for (const text of share(['cluster_size=512,refcount_bits=64', 'cluster_size=512'], 2)) {
      const { theirs, ours } = await both(40 * 1024 * M, text);
      expect(difference(theirs, ours)).toBeUndefined();
    }
  });

  it.each(share([125, 127, 130], 3))('where refcount tables grow in the middle of preallocating %d MiB', async (size) => {
    const { theirs, ours } = await both(size * M, 'cluster_size=512,refcount_bits=64,preallocation=metadata');
    expect(difference(theirs, ours)).toBeUndefined();
  });

  it.each([
    'cluster_size=1000', 'cluster_size=256', 'cluster_size=4M', 'cluster_size=0', 'compat=0.42', 'refcount_bits=3', 'refcount_bits=0',
    'refcount_bits=128', 'refcount_bits=8,compat=0.10', 'lazy_refcounts=on,compat=0.10', 'extended_l2=on,compat=0.10',
    'extended_l2=on,cluster_size=4k', 'preallocation=foo', 'preallocation=full,backing_file=a,backing_fmt=raw', 'data_file=DATA,compat=0.10',
    'data_file_raw=on', 'data_file_raw=on,data_file=DATA,backing_file=a,backing_fmt=raw', 'compression_type=zstd,compat=0.10',
    'compression_type=foo', 'encryption=on', 'encrypt.format=luks', 'encrypt.format=foo', 'encrypt.key-secret=x', 'encryption=on,encrypt.format=aes',
  ])('refuses %s in the same words', async (text) => {
    const { theirError, ourError, ours } = await both(M, text);
    expect(theirError).not.toBe('');
    expect(ourError).toBe(theirError);
    expect(existsSync(ours)).toBe(false);
  });

  it('refuses sizes that the cluster size cannot hold', async () => {
    const { theirError, ourError } = await both(129 * 1024 * M, 'cluster_size=512');
    expect(ourError).toBe(theirError);
  });
});
