/** The server's error table: what a failed request is called on the wire. */
import { BlockError } from '../../block/errors.js';
import { NbdErrno } from '../../wire/nbd/constants.js';
import { nbdErrnoOf } from '../../wire/nbd/errors.js';

/** NBD errno for anything a backend may fail with. */
export function wireError(error: unknown): number {
  if (error instanceof BlockError) {
    if (error.code === 'PERMISSION' || error.code === 'ACCESS_DENIED') return NbdErrno.EPERM;
    if (error.code === 'CLOSED') return NbdErrno.ESHUTDOWN;
    return nbdErrnoOf(error.errno);
  }
  const errno = (error as { errno?: unknown } | null)?.errno;
  return typeof errno === 'number' && errno < 0 ? nbdErrnoOf(-errno) : NbdErrno.EIO;
}

export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
