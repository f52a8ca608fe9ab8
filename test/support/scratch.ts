/** Where tests make images that they write again and again: in memory, where that has room for them. */
import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';

const memory = '/dev/shm';
const room = 2 ** 31;

export const scratchFolder = roomIn(memory) >= room ? memory : tmpdir();

function roomIn(folder: string): number {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return 0;
  }
}
