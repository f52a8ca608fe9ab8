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

describe.skipIf(!built)('the package', () => {
  test.each(['vdisk', 'vdisk/driver', 'vdisk/testing', 'vdisk/format/raw', 'vdisk/format/qcow2', 'vdisk/protocol/file', 'vdisk/protocol/nbd'])('%s can be imported', (name) => {
    expect(node('--input-type=module', '-e', `console.log(Object.keys(await import('${name}')).length > 0)`)).toBe('true\n');
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
});
