/** Our command line, built from the sources as they are, for tests that start it as users do. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inject } from 'vitest';

export type ToolName = 'vdisk' | 'qemu-img' | 'qemu-io' | 'qemu-nbd' | 'vmware-vdiskmanager' | 'vmware-mount' | 'vixdisklib-sample';

export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A process whose output is kept. */
export interface Running {
  readonly child: ChildProcess;
  /** What it said so far. */
  readonly output: { stdout: string; stderr: string };
  readonly ended: Promise<Ended>;
}

/** A folder for a test's files that holds our tools, too. */
export class ToolFolder {
  readonly path: string;
  readonly #children = new Set<ChildProcess>();

  constructor(parent = tmpdir()) {
    this.path = mkdtempSync(join(parent, 'vdisk-test-'));
    cpSync(inject('tools'), this.file('.tools'), { recursive: true });
  }

  file(name: string): string {
    return join(this.path, name);
  }

  tool(name: ToolName): string {
    return this.file(`.tools/bin/${name}`);
  }

  /** Runs a program (ours by their names) to its end, in the folder. */
  run(program: string, parameters: readonly string[], options: { readonly input?: string } = {}): Ended {
    return spawnSync(program, parameters, { cwd: this.path, encoding: 'utf8', timeout: 120_000, maxBuffer: 1 << 26, ...options });
  }

  /** Runs a program that must succeed. Returns what it printed. */
  succeed(program: string, parameters: readonly string[]): string {
    const { status, signal, stdout, stderr } = this.run(program, parameters);
    if (status !== 0) throw new Error(`${program} ${parameters.join(' ')} ended with ${status ?? signal}: ${stdout}${stderr}`);
    return stdout;
  }

  /** Starts a program; it is killed with the folder at the latest. */
  start(program: string, parameters: readonly string[]): Running {
    const child = spawn(program, parameters, { cwd: this.path, stdio: ['pipe', 'pipe', 'pipe'] });
    this.#children.add(child);
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (text: string) => { output[name] += text; });
    child.stdin.on('error', () => undefined);
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, signal) => {
        this.#children.delete(child);
        resolve({ status, signal, ...output });
      });
    });
    return { child, output, ended };
  }

  async remove(): Promise<void> {
    await Promise.all([...this.#children].map((child) => new Promise((resolve) => {
      child.once('close', resolve);
      child.kill('SIGKILL');
    })));
    rmSync(this.path, { recursive: true });
  }
}

/** Resolves when `condition` holds. @throws Error after `limitMs` */
export async function until(condition: () => boolean | Promise<boolean>, what: string, limitMs = 30_000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Waited in vain: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
}
