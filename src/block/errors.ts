/**
 * The engine's one error class. `code` is stable and meant for programs; `message` follows the wording QEMU users know.
 */
export type BlockErrorCode =
  | 'IO_ERROR'             // the device or host failed a request; context.errno says how
  | 'NO_SPACE'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'ACCESS_DENIED'        // the host's permissions
  | 'GATE_DENIED'          // the policy for implicit opens
  | 'PERMISSION'           // the edge does not hold the block permission, or the node is read-only
  | 'PERMISSION_CONFLICT'  // another user of the node or file holds what is asked
  | 'OUT_OF_RANGE'
  | 'INVALID_ARGUMENT'
  | 'NOT_SUPPORTED'
  | 'NOT_THIS_FORMAT'
  | 'UNSUPPORTED_FEATURE'
  | 'CORRUPT_IMAGE'
  | 'IN_USE'
  | 'CLOSED'
  | 'CANCELLED'
  | 'TIMED_OUT'
  | 'CONNECTION_LOST';

/** What failed, where the code alone does not tell programs enough. */
export type BlockFault =
  | 'parent-missing'   // the backing file that an image names is not there
  | 'parent-changed'   // it is not as it was when the overlay was made
  | 'parent-refused'   // the one cannot stand on the other
  | 'size-mismatch'    // an overlay and its parent differ in size
  | 'needs-repair'     // the image cannot be used before a check repaired it
  | 'out-of-order';    // the image is written from its start to its end, once

export interface BlockErrorContext {
  readonly fault?: BlockFault;
  readonly node?: string;
  readonly driver?: string;
  readonly op?: string;
  readonly filename?: string;
  readonly offset?: number;
  readonly length?: number;
  /** Linux errno number (positive), where one is known or was injected. */
  readonly errno?: number;
  /** A second line for people, shown after the message. */
  readonly hint?: string;
  /** Who holds what was refused, where that can be known: 'process 4711 (qemu-system-x86)'. */
  readonly holder?: string;
}

export class BlockError extends Error {
  override readonly name = 'BlockError';
  readonly code: BlockErrorCode;
  readonly context: BlockErrorContext;

  constructor(code: BlockErrorCode, message: string, context: BlockErrorContext = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.context = context;
  }

  /** Linux errno that stands for this error: the one recorded, else the customary one for the code. */
  get errno(): number {
    return this.context.errno ?? errnoOfCode[this.code];
  }
}

/** Linux errno numbers, as NBD, QMP's blkdebug and the peers' texts use them. */
export const Errno = {
  EPERM: 1, ENOENT: 2, EINTR: 4, EIO: 5, ENXIO: 6, EBADF: 9, EAGAIN: 11, ENOMEM: 12, EACCES: 13, EBUSY: 16, EEXIST: 17,
  ENODEV: 19, ENOTDIR: 20, EISDIR: 21, EINVAL: 22, EMFILE: 24, EFBIG: 27, ENOSPC: 28, ESPIPE: 29, EROFS: 30, EPIPE: 32, ERANGE: 34,
  ENAMETOOLONG: 36, ELOOP: 40, ENOMEDIUM: 123, EOVERFLOW: 75, EOPNOTSUPP: 95, ENOTSUP: 95, EADDRINUSE: 98, ECONNRESET: 104, ESHUTDOWN: 108,
  ETIMEDOUT: 110, ECONNREFUSED: 111, ECANCELED: 125,
} as const;

const errnoOfCode: Readonly<Record<BlockErrorCode, number>> = {
  IO_ERROR: Errno.EIO, NO_SPACE: Errno.ENOSPC, NOT_FOUND: Errno.ENOENT, ALREADY_EXISTS: Errno.EEXIST, ACCESS_DENIED: Errno.EACCES,
  GATE_DENIED: Errno.EPERM, PERMISSION: Errno.EPERM, PERMISSION_CONFLICT: Errno.EPERM, OUT_OF_RANGE: Errno.EINVAL,
  INVALID_ARGUMENT: Errno.EINVAL, NOT_SUPPORTED: Errno.ENOTSUP, NOT_THIS_FORMAT: Errno.EINVAL, UNSUPPORTED_FEATURE: Errno.ENOTSUP,
  CORRUPT_IMAGE: Errno.EIO, IN_USE: Errno.EBUSY, CLOSED: Errno.EBADF, CANCELLED: Errno.ECANCELED, TIMED_OUT: Errno.ETIMEDOUT,
  CONNECTION_LOST: Errno.EIO,
};

const codeOfErrno: Readonly<Record<number, BlockErrorCode>> = {
  [Errno.EPERM]: 'ACCESS_DENIED', [Errno.EACCES]: 'ACCESS_DENIED', [Errno.ENOENT]: 'NOT_FOUND', [Errno.EEXIST]: 'ALREADY_EXISTS',
  [Errno.ENOSPC]: 'NO_SPACE', [Errno.EINVAL]: 'INVALID_ARGUMENT', [Errno.ENOTSUP]: 'NOT_SUPPORTED', [Errno.EBUSY]: 'IN_USE',
  [Errno.ETIMEDOUT]: 'TIMED_OUT', [Errno.ECANCELED]: 'CANCELLED', [Errno.EROFS]: 'ACCESS_DENIED',
};

/** An error for a failed system call; `errno` is positive. The message is strerror's, after `prefix` if given. */
export function systemError(errno: number, context: BlockErrorContext = {}, prefix?: string, cause?: unknown): BlockError {
  const text = strerror(errno);
  return new BlockError(codeOfErrno[errno] ?? 'IO_ERROR', prefix === undefined ? text : `${prefix}: ${text}`, { ...context, errno }, cause);
}

/** Linux's text for an errno number. */
export function strerror(errno: number): string {
  return texts[errno] ?? `Unknown error ${errno}`;
}

const texts: Readonly<Record<number, string>> = {
  1: 'Operation not permitted', 2: 'No such file or directory', 3: 'No such process', 4: 'Interrupted system call', 5: 'Input/output error',
  6: 'No such device or address', 7: 'Argument list too long', 9: 'Bad file descriptor', 11: 'Resource temporarily unavailable',
  12: 'Cannot allocate memory', 13: 'Permission denied', 14: 'Bad address', 15: 'Block device required', 16: 'Device or resource busy',
  17: 'File exists', 18: 'Invalid cross-device link', 19: 'No such device', 20: 'Not a directory', 21: 'Is a directory',
  22: 'Invalid argument', 23: 'Too many open files in system', 24: 'Too many open files', 25: 'Inappropriate ioctl for device',
  26: 'Text file busy', 27: 'File too large', 28: 'No space left on device', 29: 'Illegal seek', 30: 'Read-only file system',
  31: 'Too many links', 32: 'Broken pipe', 34: 'Numerical result out of range', 36: 'File name too long', 38: 'Function not implemented',
  39: 'Directory not empty', 40: 'Too many levels of symbolic links', 61: 'No data available', 71: 'Protocol error',
  75: 'Value too large for defined data type', 84: 'Invalid or incomplete multibyte or wide character', 88: 'Socket operation on non-socket',
  90: 'Message too long', 95: 'Operation not supported', 98: 'Address already in use', 99: 'Cannot assign requested address',
  100: 'Network is down', 101: 'Network is unreachable', 103: 'Software caused connection abort', 104: 'Connection reset by peer',
  105: 'No buffer space available', 106: 'Transport endpoint is already connected', 107: 'Transport endpoint is not connected',
  108: 'Cannot send after transport endpoint shutdown', 110: 'Connection timed out', 111: 'Connection refused', 112: 'Host is down',
  113: 'No route to host', 115: 'Operation now in progress', 123: 'No medium found', 125: 'Operation canceled',
};

/** Why a protocol whose images cannot be made, only be there, does not take one as a target. */
export function notTaken(protocol: string, error: unknown): unknown {
  if (!(error instanceof BlockError)) return error;
  return new BlockError(error.code, `Protocol driver '${protocol}' does not support creating new images, so an existing image must be selected as the target; `
    + `however, opening the given target as an existing image failed: ${error.message}`, error.context, error);
}
