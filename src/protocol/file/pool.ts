/** Moving bytes to and from a descriptor on Node's thread pool. */
import { read, write } from 'node:fs';
import { Errno, systemError } from '../../block/errors.js';
import { errnoOf } from './errno.js';

/** Most bytes one system call moves. */
export const longest = 0x7ffff000;

/** Reads all of the target after its first `done` bytes. A count that is no multiple of `alignment` (O_DIRECT) ends at the file's end. */
export function readLater(fd: number, offset: number, target: Uint8Array, done: number, alignment = 1): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (): void => {
      read(fd, target, done, Math.min(target.length - done, longest), offset + done, (error, count) => {
        if (error) return reject(systemError(errnoOf(error), { op: 'read', offset, length: target.length }, undefined, error));
        done += count;
        if (done < target.length && count > 0 && count % alignment === 0) return step();
        target.fill(0, done);
        resolve();
      });
    };
    step();
  });
}

/** Writes all of the source after its first `done` bytes. */
export function writeLater(fd: number, offset: number, source: Uint8Array, done: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (): void => {
      write(fd, source, done, Math.min(source.length - done, longest), offset + done, (error, count) => {
        if (error) return reject(systemError(errnoOf(error), { op: 'write', offset, length: source.length }, undefined, error));
        done += count;
        if (done === source.length) resolve();
        else if (count === 0) reject(systemError(Errno.ENOSPC, { op: 'write', offset, length: source.length }));
        else step();
      });
    };
    step();
  });
}
