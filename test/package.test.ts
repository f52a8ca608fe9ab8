/** The package as its users meet it: the export map, and the examples. Needs a build. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const built = existsSync(join(root, 'dist/index.js'));
if (!built) {
  if (process.env['CI'] === 'true') throw new Error('dist/ is missing: build first');
  console.warn('!!! dist/ is missing: the package as a whole is NOT tested. Run npm run build first.');
}

function node(...parameters: readonly string[]): string {
  return execFileSync(process.execPath, parameters, { cwd: root, encoding: 'utf8' });
}

const vdisk = (...parameters: readonly string[]): string => node('bin/vdisk', ...parameters);

describe.skipIf(!built)('the package', () => {
  test.each(['vdisk', 'vdisk/driver', 'vdisk/testing', 'vdisk/vixdisklib', 'vdisk/format/raw', 'vdisk/format/qcow2', 'vdisk/protocol/file', 'vdisk/protocol/nbd'])('%s can be imported', (name) => {
    expect(node('--input-type=module', '-e', `console.log(Object.keys(await import('${name}')).length > 0)`)).toBe('true\n');
  });

  test('a command that waits for nothing any more has failed', () => {
    const { status, stderr } = spawnSync(process.execPath, ['-e', `
      const { run, stopped } = require('./bin/start.cjs').load('dist/cli');
      process.once('beforeExit', stopped);
      Promise.prototype.then = () => new Promise(() => {}); // nothing that is waited for comes
      run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', 'package.json', '/dev/null/nowhere']);
    `], { cwd: root, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 1, stderr: 'qemu-img: stopped before it was done: an internal error\n' });
  });

  test('examples/read-sector.mjs', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-example-'));
    try {
      const image = join(folder, 'disk.raw');
      writeFileSync(image, Buffer.concat([Buffer.alloc(512), Buffer.alloc(512, 0xab)]));
      const text = node('examples/read-sector.mjs', image, '1');
      expect(text.split('\n').slice(0, 2)).toEqual(['sector 1 of 2:', 'ab'.repeat(32)]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('examples/serve-converted.mjs', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-example-'));
    const content = Buffer.concat([Buffer.alloc(1 << 20, 3), Buffer.alloc(5 << 20), Buffer.alloc(1 << 20, 4)]);
    writeFileSync(join(folder, 'disk.raw'), content);
    const server = spawn(process.execPath, ['examples/serve-converted.mjs', join(folder, 'disk.raw'), 'qcow2', '0'], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      const [line] = (await once(server.stdout, 'data')) as [Buffer];
      const answer = await fetch(line.toString().trim());
      const image = Buffer.from(await answer.arrayBuffer());
      expect(Number(answer.headers.get('content-length'))).toBe(image.length);
      writeFileSync(join(folder, 'copy.qcow2'), image);
      const back = spawnSync(process.execPath, ['bin/vdisk', 'compare', '-f', 'raw', '-F', 'qcow2', join(folder, 'disk.raw'), join(folder, 'copy.qcow2')], { cwd: root, encoding: 'utf8' });
      expect(back.stdout).toBe('Images are identical.\n');
    } finally {
      server.kill('SIGINT');
      await once(server, 'exit');
      rmSync(folder, { recursive: true });
    }
  });

  test('examples/full-backup.mjs', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-example-'));
    const file = (name: string): string => join(folder, name);
    try {
      writeFileSync(file('disk.raw'), Buffer.concat([Buffer.alloc(1 << 20, 3), Buffer.alloc(5 << 20), Buffer.alloc(1 << 20, 4)]));
      vdisk('convert', '-f', 'raw', '-O', 'vmdk', file('disk.raw'), file('disk.vmdk'));
      expect(node('examples/full-backup.mjs', 'backup', file('disk.vmdk'), file('backup'))).toBe('4096 of 14336 sectors kept\n');
      expect(node('examples/full-backup.mjs', 'restore', file('backup'), file('copy.vmdk'))).toBe('14336 sectors restored\n');
      expect(vdisk('compare', '-f', 'raw', '-F', 'vmdk', file('disk.raw'), file('copy.vmdk'))).toBe('Images are identical.\n');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('examples/incremental-backup.mjs', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-example-'));
    const file = (name: string): string => join(folder, name);
    const backup = (): string => node('examples/incremental-backup.mjs', 'backup', file('disk.qcow2'), file('backup'));
    try {
      vdisk('create', '-q', '-f', 'qcow2', file('disk.qcow2'), '8M');
      const states = [['write -P 1 0 2M'], ['write -P 2 1M 64k', 'write -z 512k 128k', 'discard 256k 64k'], ['write -P 3 7M 512']].map((commands, number) => {
        execFileSync(process.execPath, ['bin/vdisk', 'qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file('disk.qcow2')], { cwd: root });
        const said = backup();
        vdisk('convert', '-f', 'qcow2', '-O', 'raw', file('disk.qcow2'), file(`${number}.raw`));
        return said;
      });
      expect(states).toEqual(['backup 0: 4096 sectors\n', 'backup 1: 128 sectors\n', 'backup 2: 128 sectors\n']);
      for (const number of states.keys()) {
        node('examples/incremental-backup.mjs', 'restore', file('backup'), file(`${number}.vmdk`), String(number));
        expect(vdisk('compare', '-f', 'raw', '-F', 'vmdk', file(`${number}.raw`), file(`${number}.vmdk`))).toBe('Images are identical.\n');
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
