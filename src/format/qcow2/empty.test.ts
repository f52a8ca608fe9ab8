import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
let folder: string;
beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'qcow2-empty-')); });
afterAll(() => { rmSync(folder, { recursive: true }); });

function tool(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  return `${done.stdout}${done.stderr}`;
}

describe('an emptied image', () => {
  it.each(['cluster_size=64k', 'cluster_size=512', 'extended_l2=on', 'compat=0.10', 'lazy_refcounts=on', 'refcount_bits=1'])('can be written to further on, with %s', async (options) => {
    const file = join(folder, 'image');
    tool(qemuImg, 'create', '-q', '-f', 'qcow2', '-o', options, file, '4M');
    tool(qemuIo, '-c', 'write -P 7 0 3M', file);
    const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
    const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename: file } });
    // what is in use is in the caches
    await backend.write(3 << 20, new Uint8Array(65536).fill(8));
    await backend.facet('makeEmpty')!.makeEmpty();
    const content = new Uint8Array(65536).fill(1);
    await backend.read(0, content);
    expect(content.every((byte) => byte === 0)).toBe(true);
    await backend.write(1 << 20, new Uint8Array(300_000).fill(5));
    await backend.flush();
    await backend.write(2 << 20, new Uint8Array(300_000).fill(6));
    await backend.close();
    expect(tool(qemuImg, 'check', file)).toContain('No errors were found');
    const shown = tool(qemuIo, '-c', 'read -P 0 0 1M', '-c', 'read -P 5 1M 300000', '-c', 'read -P 6 2M 300000', '-c', 'read -P 0 3M 1M', file);
    expect(shown).not.toContain('failed');
  });
});
