import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Preallocation } from '../../block/driver.js';
import { BlockGraph } from '../../block/graph.js';
import { createRegistry } from '../../drivers.js';
import { resizeImage } from '../../image/resize.js';

const qemuImg = process.env['QEMU_IMG_PROG'] ?? 'qemu-img';
const qemuIo = process.env['QEMU_IO_PROG'] ?? 'qemu-io';
const K = 1024;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qcow2-resize-'));
  tool(qemuImg, 'create', '-q', '-f', 'raw', join(folder, 'base'), '1M');
  tool(qemuIo, '-f', 'raw', '-c', 'write -P 9 0 1M', join(folder, 'base'));
});
afterAll(() => { rmSync(folder, { recursive: true }); });

function tool(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  return done.status === 0 ? done.stdout : done.stderr;
}

async function resize(filename: string, size: number, preallocation: Preallocation): Promise<void> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const backend = await graph.openBackend({ driver: 'qcow2', file: { driver: 'file', filename } });
  try {
    await resizeImage(backend, { size, preallocation, shrink: false });
  } finally {
    await backend.close();
  }
}

/** An image that ends within a cluster, twice, changed by qemu-io. */
function twins(size: string, options: string[], writes: string[]): { theirs: string; ours: string } {
  const [theirs, ours] = [join(folder, 'theirs'), join(folder, 'ours')];
  tool(qemuImg, 'create', '-q', '-f', 'qcow2', ...options, theirs, size);
  for (const each of writes) {
    if (each === 'snapshot') tool(qemuImg, 'snapshot', '-c', 'one', theirs);
    else tool(qemuIo, '-c', each, theirs);
  }
  copyFileSync(theirs, ours);
  return { theirs, ours };
}

const layouts = ['extended_l2=off', 'extended_l2=on'];
const contents: Record<string, string[]> = {
  'nothing': [], 'data': ['write -P 3 0 503k'], 'some data': ['write -P 3 449k 3k'], 'shared data': ['write -P 3 449k 3k', 'snapshot'], 'zeroes': ['write -z 448k 55k'],
};

describe('growing', () => {
  const cases = layouts.flatMap((layout) => Object.keys(contents).flatMap((content) => (['off', 'metadata', 'falloc', 'full'] as const).map((preallocation) =>
    [layout, content, preallocation] as const)));

  it.each(cases)('with %s over a last cluster with %s and preallocation=%s leaves the bytes that qemu-img leaves', async (layout, content, preallocation) => {
    for (const overlay of [[], ['-b', join(folder, 'base'), '-F', 'raw']]) {
      const { theirs, ours } = twins('503k', ['-o', layout, ...overlay], contents[content]!);
      tool(qemuImg, 'resize', `--preallocation=${preallocation}`, theirs, '581k');
      await resize(ours, 581 * K, preallocation);
      if (preallocation === 'metadata' && overlay.length > 0) {
        // qemu-img fills the last cluster with what the backing file has behind the disk, and hides it
        expect(tool(qemuImg, 'map', '--output=json', ours)).toBe(tool(qemuImg, 'map', '--output=json', theirs));
        expect(tool(qemuImg, 'compare', ours, theirs)).toContain('Images are identical');
      } else {
        expect(readFileSync(ours).equals(readFileSync(theirs))).toBe(true);
        if (preallocation === 'metadata') expect(tool(qemuImg, 'map', '--output=json', ours)).toBe(tool(qemuImg, 'map', '--output=json', theirs));
      }
    }
  });

  it.each(layouts)('with %s keeps a compressed last cluster', async (layout) => {
    for (const preallocation of ['metadata', 'falloc'] as const) {
      const { theirs, ours } = twins('100k', ['-o', layout], ['write -c -P 3 64k 36k']);
      await resize(ours, 181 * K, preallocation);
      tool(qemuImg, 'resize', theirs, '181k');
      expect(tool(qemuImg, 'check', ours)).toContain('No errors were found');
      expect(tool(qemuImg, 'compare', ours, theirs)).toContain('Images are identical');
    }
  });

  it.each([2 ** 53, 2 ** 56, 2 ** 62])('to %d bytes is refused in the words of qemu-img', async (size) => {
    const { theirs, ours } = twins('64k', [], []);
    await expect(resize(ours, size, 'off')).rejects.toThrow(/^Failed to grow the L1 table: File too large$/);
    expect(tool(qemuImg, 'resize', theirs, String(size / 1024 ** 5) + 'P')).toBe('qemu-img: Failed to grow the L1 table: File too large\n');
  });

  it('leaves a longer backing file hidden', async () => {
    for (const compat of ['0.10', '1.1']) {
      const { ours } = twins('63k', ['-o', `compat=${compat}`, '-b', join(folder, 'base'), '-F', 'raw'], []);
      const done = resize(ours, 300 * K, 'off');
      if (compat === '0.10') {
        await expect(done).rejects.toThrow('Failed to zero out new clusters: Operation not supported');
      } else {
        await done;
        expect(tool(qemuIo, '-c', 'read -P 9 0 63k', '-c', 'read -P 0 63k 237k', ours)).not.toContain('failed');
      }
    }
  });
});
