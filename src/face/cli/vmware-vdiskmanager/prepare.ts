/** Zeroes the free space of a mounted file system, so that its disk can be shrunk afterwards. */
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { eventsHandled } from '../../../platform/bytes.js';
import { CliError } from '../output.js';

const piece = new Uint8Array(4 << 20);
/** File systems without large files take several. */
const fullCodes = new Set(['ENOSPC', 'EDQUOT']);

/** Fills the space with zeroes and frees it again, also where it is interrupted. @throws CliError */
export async function zeroFreeSpace(directory: string, { signal, onProgress }: { signal: AbortSignal; onProgress: (progress: { percent: number }) => void }): Promise<void> {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) throw new CliError(`${directory} is no directory`);
  let folder: string;
  try {
    folder = mkdtempSync(join(directory, '.vdisk-zeroes-'));
  } catch (error) {
    throw new CliError(`${directory} cannot be written to: ${(error as Error).message}`);
  }
  const { bavail, bsize } = statfsSync(directory);
  const total = Math.max(1, bavail * bsize);
  let done = 0;
  let percent = -1;
  try {
    for (let file = 0; ; file++) {
      const { written, full } = await fill(join(folder, String(file)), async (bytes) => {
        done += bytes;
        const now = Math.min(99, Math.floor(done / total * 100));
        if (now > percent) onProgress({ percent: percent = now });
        await eventsHandled();
        signal.throwIfAborted();
      });
      if (full || written === 0) break;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  onProgress({ percent: 100 });
}

/** Writes zeroes until the file system is full, or the file as large as it may be. */
async function fill(path: string, wrote: (bytes: number) => Promise<void>): Promise<{ written: number; full: boolean }> {
  const fd = openSync(path, 'wx', 0o600);
  let written = 0;
  try {
    for (let length = piece.length; length >= 512;) {
      try {
        const bytes = writeSync(fd, piece, 0, length);
        written += bytes;
        await wrote(bytes);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'EFBIG') return { written, full: false };
        if (code === undefined || !fullCodes.has(code)) throw error;
        length /= 2;
      }
    }
    fsyncSync(fd);
    return { written, full: true };
  } finally {
    closeSync(fd);
  }
}
