/**
 * A real guest on our NBD server: qcow2 behind bin/qemu-nbd, booted twice by qemu-system; the second boot verifies what the first
 * wrote; then the image and the file system are checked by their own tools.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listens } from '../support/nbd-servers.js';
import { until } from '../support/our-tools.js';

const tool = (name: string): string => fileURLToPath(new URL(`../../bin/${name}`, import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'vdisk-guest-'));

function run(program: string, ...args: string[]): string {
  const result = spawnSync(program, args, { encoding: 'utf8', timeout: 300_000, maxBuffer: 1 << 26 });
  expect(result.status, `${program} ${args.join(' ')}: ${result.stdout}${result.stderr}`).toBe(0);
  return result.stdout;
}

function boot(socket: string): string {
  return run('qemu-system-x86_64', '-accel', 'tcg', '-m', '256', '-display', 'none', '-no-reboot', '-serial', 'stdio',
    '-kernel', join(dir, 'vmlinuz'), '-initrd', join(dir, 'initrd'), '-append', 'console=ttyS0 quiet panic=-1',
    '-drive', `file=nbd+unix:///?socket=${socket},format=raw,if=virtio,discard=unmap,detect-zeroes=unmap`);
}

beforeAll(() => {
  run('bash', fileURLToPath(new URL('make-guest.sh', import.meta.url)), dir);
}, 300_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('a guest booted from our NBD server', () => {
  for (const options of ['cluster_size=65536', 'cluster_size=65536,lazy_refcounts=on', 'cluster_size=2M,extended_l2=on', 'cluster_size=4k,refcount_bits=1']) {
    it(`keeps its data on qcow2 with ${options}`, async () => {
      const image = join(dir, 'disk.qcow2');
      const socket = join(dir, 'nbd.sock');
      run(tool('qemu-img'), 'convert', '-f', 'raw', '-O', 'qcow2', '-o', options, join(dir, 'root.ext4'), image);
      for (const expected of [/GUEST-WROTE 38/, /GUEST-VERIFIED[^]*GUEST-WROTE 38/]) {
        const server = spawn(tool('qemu-nbd'), ['-t', '-f', 'qcow2', '--discard=unmap', '-k', socket, image], { stdio: 'inherit' });
        const stopped = new Promise((resolve) => server.once('exit', resolve));
        try {
          await until(() => listens(socket), 'qemu-nbd');
          const console = boot(socket);
          expect(console).toMatch(expected);
          expect(console).not.toMatch(/GUEST-FAILED/);
        } finally {
          server.kill('SIGTERM');
          await stopped;
          rmSync(socket, { force: true });
        }
      }
      run('qemu-img', 'check', image);
      run('qemu-img', 'convert', '-O', 'raw', image, join(dir, 'after.raw'));
      run('e2fsck', '-fn', join(dir, 'after.raw'));
    }, 600_000);
  }
});
