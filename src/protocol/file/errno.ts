import { Errno } from '../../block/errors.js';

/** The errno of an error that Node threw. */
export function errnoOf(error: unknown): number {
  const { errno } = error as NodeJS.ErrnoException;
  return typeof errno === 'number' ? Math.abs(errno) : Errno.EIO;
}
