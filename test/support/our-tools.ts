/** Our command line, built from the sources as they are, for tests that start it as users do. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, constants, cpSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inject } from 'vitest';
import { runProgram } from './peers.js';

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
    return runProgram(program, parameters, { cwd: this.path, ...options });
  }

  /** Runs a program that must succeed. Returns what it printed. */
  succeed(program: string, parameters: readonly string[]): string {
    const { status, signal, stdout, stderr } = this.run(program, parameters);
    if (status !== 0) throw new Error(`${program} ${parameters.join(' ')} ended with ${status ?? signal}: ${stdout}${stderr}`);
    return stdout;
  }

  /** Starts a program; it is killed with the folder at the latest. */
  start(program: string, parameters: readonly string[]): Running {
    return this.#watch(spawn(program, parameters, { cwd: this.path, stdio: ['pipe', 'pipe', 'pipe'] }));
  }

  #watch(child: ChildProcess): Running {
    this.#children.add(child);
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) child[name]?.setEncoding('utf8').on('data', (text: string) => { output[name] += text; });
    child.stdin?.on('error', () => undefined);
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, signal) => {
        this.#children.delete(child);
        resolve({ status, signal, ...output });
      });
    });
    return { child, output, ended };
  }

  /**
   * Starts a program that is held where it has printed `room` bytes, in whole pieces: it waits for room in a pipe that is full.
   * `release` lets it go on and resolves to how it ended.
   */
  startHeld(program: string, parameters: readonly string[], room: number): { readonly child: ChildProcess; readonly release: () => Promise<Ended> } {
    const pipe = this.file('.pipe');
    execFileSync('mkfifo', [pipe]);
    const capacity = capacityOf(pipe);
    const fd = openSync(pipe, 'r+');
    rmSync(pipe);
    writeSync(fd, new Uint8Array(capacity - room));
    const child = spawn(program, parameters, { cwd: this.path, stdio: ['ignore', fd, 'pipe'] });
    const { ended } = this.#watch(child);
    const take = (): string => {
      const buffer = Buffer.alloc(capacity);
      return buffer.toString('utf8', 0, readSync(fd, buffer)).replaceAll('\0', '');
    };
    const release = async (): Promise<Ended> => {
      const held = take();
      const { status, signal, stderr } = await ended;
      writeSync(fd, '\0');
      const stdout = held + take();
      closeSync(fd);
      return { status, signal, stdout, stderr };
    };
    return { child, release };
  }

  async remove(): Promise<void> {
    await Promise.all([...this.#children].map((child) => new Promise((resolve) => {
      child.once('close', resolve);
      child.kill('SIGKILL');
    })));
    rmSync(this.path, { recursive: true });
  }
}

/** Writes a file to its disk: some file systems tell only then what room it takes. */
export function settle(path: string): void {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  closeSync(fd);
}

/** What a named pipe holds that is filled a page at a time, in bytes: it differs with the size of pages, and with what a user has in pipes. */
function capacityOf(pipe: string): number {
  const fd = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  const page = new Uint8Array(4096);
  let capacity = 0;
  try {
    for (;;) capacity += writeSync(fd, page);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    return capacity;
  } finally {
    closeSync(fd); // with which the pipe is empty
  }
}

/** Resolves when `condition` holds. @throws Error after `limitMs` */
export async function until(condition: () => boolean | Promise<boolean>, what: string, limitMs = 120_000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Waited in vain: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
}
