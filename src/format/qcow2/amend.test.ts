import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { amendImage } from '../../image/amend.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-amend-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function tool(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  return done.status === 0 ? done.stdout : done.stderr;
}

async function amend(file: string, options: string): Promise<string> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } });
  let message = '';
  try {
    await amendImage(backend, options, {});
  } catch (error) {
    message = error instanceof Error ? error.message : String(error);
  }
  await backend.close();
  return message;
}

const specific = (file: string): unknown => (JSON.parse(tool(qemuImg, 'info', '--output=json', file)) as { 'format-specific': unknown })['format-specific'];

describe('amend', () => {
  it.each([
    ['compat=1.1', 'compat=0.10', 'ok'], ['compat=0.10', 'compat=1.1', 'ok'], ['compat=0.10', 'compat=v3,lazy_refcounts=on,size=128M', 'ok'],
    ['lazy_refcounts=on', 'lazy_refcounts=off', 'ok'], ['lazy_refcounts=on', 'compat=0.10', 'ok'], ['compat=1.1', 'refcount_bits=1', 'refused'],
    ['compat=1.1', 'refcount_bits=2', 'ok'], ['compat=1.1', 'refcount_bits=64', 'ok'], ['refcount_bits=64', 'compat=0.10,refcount_bits=16', 'ok'],
    ['refcount_bits=64', 'compat=0.10', 'refused'], ['compat=0.10', 'lazy_refcounts=on', 'refused'], ['compat=1.1', 'compat=0.42', 'refused'],
    ['compat=1.1', 'backing_file=x,backing_fmt=raw', 'refused'], ['compat=1.1', 'data_file=x', 'refused'], ['extended_l2=on', 'compat=0.10', 'refused'],
    ['compat=1.1', 'refcount_bits=7', 'refused'], ['compat=0.10', 'refcount_bits=32', 'refused'], ['cluster_size=512', 'refcount_bits=64', 'ok'],
    ['compat=1.1', 'size=0', 'ok'], ['compat=1.1', 'size=0,lazy_refcounts=on', 'ok'], ['compat=1.1', 'backing_fmt=raw', 'refused'],
  ])('from %s to %s is %s, as with qemu-img', async (from, to, outcome) => {
    const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')];
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', from, ours, '64M');
    const zero = from.includes('0.10') ? 'read 0 1' : 'write -z 1M 300k';
    tool(qemuIo, '-c', 'write -P 1 0 200k', '-c', zero, '-c', 'write -P 2 3M 64k', ours);
    tool(qemuImg, 'snapshot', '-c', 'one', ours);
    tool(qemuIo, '-c', 'write -P 3 0 64k', ours);
    copyFileSync(ours, theirs);
    if (to.includes('size=') && from.includes('0.10')) for (const file of [ours, theirs]) tool(qemuImg, 'snapshot', '-d', 'one', file);
    const theirMessage = tool(qemuImg, 'amend', '-o', to, theirs).trim().split('\n')[0]!.replace('qemu-img: ', '');
    expect(await amend(ours, to)).toBe(theirMessage);
    expect(theirMessage === '').toBe(outcome === 'ok');
    expect(specific(ours)).toEqual(specific(theirs));
    expect(tool(qemuImg, 'check', ours)).toContain('No errors were found');
    expect(tool(qemuImg, 'compare', ours, theirs)).toContain('Images are identical');
    tool(qemuImg, 'snapshot', '-a', 'one', ours);
    tool(qemuImg, 'snapshot', '-a', 'one', theirs);
    expect(tool(qemuImg, 'check', ours)).toContain('No errors were found');
    expect(tool(qemuImg, 'compare', ours, theirs)).toContain('Images are identical');
  });

  it('tells clusters of zeroes shared with a snapshot from its data when it goes back to version 2', async () => {
    const file = join(folder, 'shared');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', file, '1M');
    tool(qemuIo, '-c', 'write -P 5 0 64k', file);
    tool(qemuImg, 'snapshot', '-c', 'one', file);
    tool(qemuIo, '-c', 'write -z 0 64k', file);
    expect(await amend(file, 'compat=0.10')).toBe('');
    expect(tool(qemuImg, 'check', file)).toContain('No errors were found');
    expect(tool(qemuIo, '-c', 'read -P 0 0 64k', file)).not.toContain('failed');
    tool(qemuImg, 'snapshot', '-a', 'one', file);
    expect(tool(qemuIo, '-c', 'read -P 5 0 64k', file)).not.toContain('failed');
  });
});
