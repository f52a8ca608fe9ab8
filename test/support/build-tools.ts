/** The command line for tests that start it as users do: built once for a run, from the sources as they are. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** Folder with `bin` and what that needs. */
    tools: string;
  }
}

const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'vdisk-tools-'));

export function setup(run: TestProject): void {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/bundle.mjs', '--outdir', join(folder, 'dist/cli')], { cwd: root, encoding: 'utf8' });
  if (status !== 0) throw new Error(`The command line can't be built: ${stderr}`);
  cpSync(join(root, 'bin'), join(folder, 'bin'), { recursive: true, dereference: true });
  copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  run.provide('tools', folder);
}

export function teardown(): void {
  rmSync(folder, { recursive: true });
}
