/** A disk of 64 TiB takes no more memory than a process may have. */
import { existsSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { afterAll, describe, expect, it } from 'vitest';
import { ToolFolder, type Running } from '../support/our-tools.js';

const folder = new ToolFolder();
afterAll(() => folder.remove());

/** Most memory that the process ever had, in MiB; 0 where it has ended. */
function peak({ child }: Running): number {
  const status = `/proc/${child.pid}/status`;
  return Number(/VmHWM:\s+(\d+)/.exec(existsSync(status) ? readFileSync(status, 'latin1') : '')?.[1] ?? 0) / 1024;
}

describe('a sparse image of 64 TiB', () => {
  it('is opened, mapped and written at random within 100 MiB', async () => {
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'qcow2', 'huge', '64T']);
    // unsafe: every write makes a table, and each of them would be waited for
    const disk = folder.start(folder.tool('qemu-io'), ['-t', 'unsafe', '-f', 'qcow2', 'huge']);
    let written = 0;
    const lines = createInterface(disk.child.stdout!);
    const all = new Promise<void>((resolve) => lines.on('line', (line) => {
      if (line.includes('wrote 4096/4096') && ++written === 9000) resolve();
    }));
    for (let seed = 1, count = 0; count < 9000; count++) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      disk.child.stdin!.write(`write ${Math.floor(seed * 2 ** 14 / 4096) * 4096} 4k\n`);
    }
    await all;
    expect(peak(disk)).toBeGreaterThan(10);
    expect(peak(disk)).toBeLessThan(100);
    disk.child.stdin!.end();
    expect((await disk.ended).status).toBe(0);

    const map = folder.start(folder.tool('qemu-img'), ['map', '-f', 'qcow2', '--output=json', 'huge']);
    let most = 0;
    map.child.stdout!.on('data', () => { most = Math.max(most, peak(map)); });
    expect((await map.ended).status).toBe(0);
    expect(most).toBeGreaterThan(10);
    expect(most).toBeLessThan(100);
  }, 600_000);
});
