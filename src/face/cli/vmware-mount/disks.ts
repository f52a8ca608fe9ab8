/** Disks in use: opening, using, closing, and noticing what ended without us. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { clockMs } from '../../../platform/clock.js';
import { startInBackground } from '../background.js';
import { CliError, ExitError } from '../output.js';
import { diskFolder, forget, innerView, isRunning, records, remember, socketOf, type OpenDisk, type Use } from './state.js';
import { isMounted, showFlat, unmount } from './system.js';

/** The disks in use now. What is left of those that ended by themselves is removed. */
export async function disksInUse(): Promise<OpenDisk[]> {
  const living: OpenDisk[] = [];
  for (const record of records()) {
    const disk = { ...record, uses: record.uses.filter(({ folder }) => isMounted(folder)) };
    if (!isRunning(disk.server)) abandon(disk);
    else if (disk.uses.length === 0 && !disk.addressOnly) await close(disk);
    else living.push(disk);
  }
  return living;
}

export async function findDisk(disk: string): Promise<OpenDisk | undefined> {
  return (await disksInUse()).find((other) => other.disk === disk);
}

/** The disk, held open in the background. @throws CliError where it is open in another way already */
export async function hold(disk: string, readOnly: boolean): Promise<OpenDisk> {
  const found = await findDisk(disk);
  if (found !== undefined) {
    if (found.readOnly && !readOnly) throw new CliError(`${disk} is in use read-only; add -r, or unmount it first`);
    return found;
  }
  forget(disk);
  mkdirSync(diskFolder(disk), { mode: 0o700 });
  const exitCode = await startInBackground(false);
  const opened = exitCode === 0 ? records().find((other) => other.disk === disk) : undefined;
  if (opened !== undefined) return opened;
  forget(disk);
  throw new ExitError(exitCode === 0 ? 1 : exitCode);
}

/** Shows the disk as a file for the sake of its partitions. Returns the file. */
export async function showInside({ disk, readOnly }: OpenDisk): Promise<string> {
  const folder = innerView(disk);
  if (!isMounted(folder)) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    await showIn(folder, disk, readOnly);
  }
  return join(folder, 'flat');
}

/** Shows the disk as DIRECTORY/flat. */
export function showIn(folder: string, disk: string, readOnly: boolean, options?: string): Promise<void> {
  return showFlat(socketOf(disk), folder, join(diskFolder(disk), 'nbdfuse.log'), { readOnly, options });
}

export function addUse(disk: OpenDisk, use: Use): void { remember({ ...disk, uses: [...disk.uses, use] }); }

/** Ends one use, and closes the disk with the last one. */
export async function endUse(disk: OpenDisk, use: Use): Promise<void> {
  unmount(use.folder);
  const left = { ...disk, uses: disk.uses.filter((other) => other !== use) };
  remember(left);
  if (left.uses.length === 0) await close(left);
}

/** Ends all uses and closes the disk. Partitions go before the file they lie in. */
export async function endAll(disk: OpenDisk, force: boolean): Promise<void> {
  let left = disk;
  for (const use of disk.uses.toSorted((a, b) => Number(a.partition === 'flat') - Number(b.partition === 'flat'))) {
    unmount(use.folder, force);
    left = { ...left, uses: left.uses.filter((other) => other !== use) };
    remember(left);
  }
  await close(left, force);
}

/** Closes a disk that nobody uses any more: when this returns, everything is written. */
async function close({ disk, server, addressOnly }: OpenDisk, force = false): Promise<void> {
  await hide(disk, force);
  const patience = clockMs() + (addressOnly || force ? 0 : 10_000);
  const end = clockMs() + 60_000;
  for (let asked = false; isRunning(server); await sleep(10)) {
    if (clockMs() > end) throw new CliError(`The server of ${disk} (process ${server.pid}) does not end`);
    if (!asked && clockMs() >= patience) {
      process.kill(server.pid, 'SIGTERM');
      asked = true;
    }
  }
  forget(disk);
}

/** Undoes showInside(). The loop device of a partition may let go of the file a moment after it was unmounted. */
async function hide(disk: string, force: boolean): Promise<void> {
  for (const end = clockMs() + 2000; isMounted(innerView(disk)); await sleep(20)) {
    try {
      unmount(innerView(disk), force);
    } catch (error) {
      if (clockMs() > end) throw error;
    }
  }
}

/** Removes what a server that was killed left behind. */
function abandon({ disk, uses }: OpenDisk): void {
  for (const folder of [...uses.map((use) => use.folder), innerView(disk)]) if (isMounted(folder)) unmount(folder, true);
  forget(disk);
}
