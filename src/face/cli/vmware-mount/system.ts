/** The system's own tools that mount, and what they left. */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, closeSync, constants, openSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../output.js';

export const isRoot = (): boolean => process.getuid?.() === 0;

/** Why a disk cannot be shown as a file here; undefined where it can. */
export function whyNoFuse(): string | undefined {
  if (!may('/dev/fuse', constants.R_OK | constants.W_OK)) return 'there is no /dev/fuse for you';
  if (find('nbdfuse') === undefined) return "nbdfuse is not installed (Debian's libnbd-bin)";
  if (!isRoot() && unmounter() === undefined) return "fusermount is not installed (Debian's fuse3)";
  return undefined;
}

/** Shows the disk behind an NBD socket as the file `flat` in a directory. Returns when it is there; complaints go to `log` for good. */
export async function showFlat(socket: string, folder: string, log: string, { readOnly, options }: { readOnly: boolean; options?: string | undefined }): Promise<void> {
  const words = [...(readOnly ? ['-r'] : []), ...(options === undefined ? [] : ['-o', options]), join(folder, 'flat'), '--unix', socket];
  const complaints = openSync(log, 'w', 0o600);
  const child = spawn('nbdfuse', words, { detached: true, stdio: ['ignore', 'ignore', complaints], cwd: '/' });
  closeSync(complaints);
  let ended = false;
  child.once('error', () => { ended = true; });
  child.once('close', () => { ended = true; });
  for (let wait = 5; !isMounted(folder); wait = Math.min(wait * 2, 100)) {
    if (ended) throw new CliError(`The disk cannot be shown in ${folder}`, { hint: readFileSync(log, 'utf8').trim() });
    await sleep(wait);
  }
  child.unref();
}

/** Mounts a range of a file. @throws CliError with what mount says */
export function mountRange(file: string, folder: string, { start, size, readOnly, options }: { start: number; size: number; readOnly: boolean; options?: string | undefined }): void {
  const all = ['loop', `offset=${start}`, `sizelimit=${size}`, ...(readOnly ? ['ro'] : []), ...(options === undefined ? [] : [options])].join(',');
  run('mount', ['-o', all, file, folder], `Cannot mount on ${folder}`);
}

/** Undoes either kind of mount. By force it is gone for all who come later, while those inside stay. */
export function unmount(folder: string, force = false): void {
  if (isRoot()) run('umount', [...(force ? ['-l'] : []), folder], `Cannot unmount ${folder}`);
  else run(unmounter() ?? 'fusermount3', ['-u', ...(force ? ['-z'] : []), folder], `Cannot unmount ${folder}`);
}

/** Whether something is mounted on exactly this directory. */
export function isMounted(folder: string): boolean { return mountPoints().has(folder); }

function mountPoints(): ReadonlySet<string> {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return new Set(lines.map((line) => (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))));
}

function unmounter(): string | undefined { return find('fusermount3') ?? find('fusermount'); }

function run(command: string, words: readonly string[], failure: string): void {
  const { status, stderr, error } = spawnSync(command, words, { encoding: 'utf8', cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  if (status !== 0) throw new CliError(failure, { hint: error?.message ?? stderr.trim() });
}

function find(command: string): string | undefined {
  return (process.env['PATH'] ?? '').split(delimiter).map((folder) => join(folder, command)).find((path) => may(path, constants.X_OK));
}

function may(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
