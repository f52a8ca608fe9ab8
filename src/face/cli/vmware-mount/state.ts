/**
 * What is mounted: a folder per disk in a directory of this user, which holds the server's socket, its record, and the place where the
 * disk lies as a file while partitions of it are mounted. What the record says is held against the kernel's list of mounts and of
 * processes each time, so nothing that ended otherwise is believed in.
 */
import { createHash } from 'node:crypto';
import { closeSync, lstatSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { clockMs } from '../../../platform/clock.js';
import { CliError } from '../output.js';

/** One way in which a disk is used: a mounted partition, or the disk as a file in a directory. */
export interface Use { readonly partition: number | 'flat'; readonly folder: string }

export interface OpenDisk {
  /** Absolute, links followed. */
  readonly disk: string;
  readonly readOnly: boolean;
  readonly server: ProcessName;
  /** Without FUSE there is only the address. */
  readonly addressOnly: boolean;
  readonly uses: readonly Use[];
}

/** A process, not to be mistaken for a later one of the same number. */
export interface ProcessName { readonly pid: number; readonly started: string }

export function processName(pid: number): ProcessName { return { pid, started: startOf(pid) ?? '' }; }

export function isRunning({ pid, started }: ProcessName): boolean {
  return startOf(pid) === started;
}

/** When a process started, in the kernel's ticks; undefined where there is no such process, or only its remains. */
function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\) /s, '').split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** This user's directory, made if it is missing. @throws CliError where somebody else could write to it */
export function stateFolder(): string {
  const uid = process.getuid?.() ?? 0;
  const shared = process.env['XDG_RUNTIME_DIR'];
  const folder = shared ? join(shared, 'vdisk-mount') : join(tmpdir(), `vdisk-mount-${uid}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o077) !== 0) throw new CliError(`${folder} is not a directory of yours alone`);
  return folder;
}

/** Where everything of one disk is. */
export function diskFolder(disk: string): string {
  return join(stateFolder(), createHash('sha256').update(disk).digest('hex').slice(0, 12));
}

export const socketOf = (disk: string): string => join(diskFolder(disk), 'nbd');
/** Where the disk is a file for partitions' sake. */
export const innerView = (disk: string): string => join(diskFolder(disk), 'view');
const recordOf = (folder: string): string => join(folder, 'disk.json');

/** Replaces the record of a disk. */
export function remember(disk: OpenDisk): void {
  const folder = diskFolder(disk.disk);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeFileSync(`${recordOf(folder)}.new`, JSON.stringify(disk));
  renameSync(`${recordOf(folder)}.new`, recordOf(folder));
}

export function forget(disk: string): void { rmSync(diskFolder(disk), { recursive: true, force: true }); }

/** The records as they stand, whether or not they still hold. Folders without a record are what an interrupted start left: they go. */
export function records(): OpenDisk[] {
  const folder = stateFolder();
  return readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()).flatMap(({ name }) => {
    try {
      return [JSON.parse(readFileSync(recordOf(join(folder, name)), 'utf8')) as OpenDisk];
    } catch {
      return [];
    }
  });
}

/** Does some work while no other call of this user's changes mounts. */
export async function exclusively<T>(work: () => Promise<T>): Promise<T> {
  const lock = join(stateFolder(), 'lock');
  const end = clockMs() + 60_000;
  while (!tryLock(lock)) {
    if (clockMs() > end) throw new CliError(`Another call is still at work (process ${readLock(lock)?.pid ?? 'unknown'})`);
    await sleep(50);
  }
  try {
    return await work();
  } finally {
    rmSync(lock, { force: true });
  }
}

function tryLock(path: string): boolean {
  try {
    const fd = openSync(path, 'wx', 0o600);
    writeSync(fd, JSON.stringify(processName(process.pid)));
    closeSync(fd);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    const holder = readLock(path);
    if (holder !== undefined && !isRunning(holder)) rmSync(path, { force: true });
    return false;
  }
}

function readLock(path: string): ProcessName | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as ProcessName;
  } catch {
    return undefined;
  }
}
