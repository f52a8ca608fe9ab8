/** The one table between Linux errno numbers and those NBD knows. */
import { NbdErrno } from './constants.js';

const wireErrno: Readonly<Record<number, number>> = {
  1: NbdErrno.EPERM, 13: NbdErrno.EPERM, 30: NbdErrno.EPERM, 5: NbdErrno.EIO, 12: NbdErrno.ENOMEM, 28: NbdErrno.ENOSPC, 27: NbdErrno.ENOSPC,
  122: NbdErrno.ENOSPC, 75: NbdErrno.EOVERFLOW, 95: NbdErrno.ENOTSUP, 108: NbdErrno.ESHUTDOWN,
};
const known: ReadonlySet<number> = new Set(Object.values(NbdErrno));

/** NBD's number for a (positive) Linux errno; EINVAL where NBD has none. */
export function nbdErrnoOf(errno: number): number {
  return wireErrno[errno] ?? NbdErrno.EINVAL;
}

/** Linux errno for a number received; unknown ones become EINVAL, as the protocol asks. */
export function errnoOfNbd(error: number): number {
  return known.has(error) ? error : NbdErrno.EINVAL;
}
