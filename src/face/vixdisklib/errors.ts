/** VixError, and what the engine's errors become. */
import { BlockError, Errno, type BlockErrorCode } from '../../block/errors.js';
import { NbdFormatError } from '../../wire/nbd/handshake.js';
import { NbdNegotiationError } from '../../wire/nbd/negotiate.js';
import { getErrorText, VixErrorCode, type VixErrorSymbol } from './error-codes.js';

/** What this library throws, unless it is an error of the caller's own functions, or a mistake in a program. */
export class VixError extends Error {
  override readonly name = 'VixError';
  /** VixDiskLib's number: 16008. */
  readonly code: number;
  /** VixDiskLib's name for it: 'VIX_E_DISK_CID_MISMATCH'. */
  readonly symbol: VixErrorSymbol;
  /** The disk or file it is about. */
  readonly path?: string;

  constructor(symbol: VixErrorSymbol, detail?: string, options: { readonly path?: string | undefined; readonly cause?: unknown } = {}) {
    const text = getErrorText(VixErrorCode[symbol]);
    super(detail === undefined ? text : `${text}: ${detail}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.symbol = symbol;
    this.code = VixErrorCode[symbol];
    if (options.path !== undefined) this.path = options.path;
  }
}

/** Whether it is an error of this library, and, if a symbol is given, that one. */
export function isVixError(error: unknown, symbol?: VixErrorSymbol): error is VixError {
  return error instanceof VixError && (symbol === undefined || error.symbol === symbol);
}

/** By errno where the system said it, whatever the engine makes of it. */
const ofErrno: Readonly<Record<number, VixErrorSymbol>> = {
  [Errno.ENOENT]: 'VIX_E_FILE_NOT_FOUND', [Errno.ENOTDIR]: 'VIX_E_FILE_NOT_FOUND', [Errno.EACCES]: 'VIX_E_FILE_ACCESS_ERROR',
  [Errno.ENOSPC]: 'VIX_E_DISK_FULL', [Errno.EROFS]: 'VIX_E_FILE_READ_ONLY', [Errno.EBUSY]: 'VIX_E_FILE_ALREADY_LOCKED',
  [Errno.EFBIG]: 'VIX_E_FILE_TOO_BIG', [Errno.ENAMETOOLONG]: 'VIX_E_FILE_NAME_INVALID', [Errno.EISDIR]: 'VIX_E_INCORRECT_FILE_TYPE',
  [Errno.EMFILE]: 'VIX_E_DISK_TOOMANYOPENFILES', [Errno.ENOMEM]: 'VIX_E_OUT_OF_MEMORY', [Errno.ELOOP]: 'VIX_E_DISK_INVALIDCHAIN',
  [Errno.EEXIST]: 'VIX_E_FILE_ALREADY_EXISTS',
};

const ofCode: Readonly<Record<BlockErrorCode, VixErrorSymbol>> = {
  IO_ERROR: 'VIX_E_FILE_ERROR', NO_SPACE: 'VIX_E_DISK_FULL', NOT_FOUND: 'VIX_E_FILE_NOT_FOUND', ALREADY_EXISTS: 'VIX_E_FILE_ALREADY_EXISTS',
  ACCESS_DENIED: 'VIX_E_FILE_ACCESS_ERROR', GATE_DENIED: 'VIX_E_FILE_ACCESS_ERROR', PERMISSION: 'VIX_E_FILE_READ_ONLY',
  PERMISSION_CONFLICT: 'VIX_E_FILE_ALREADY_LOCKED', OUT_OF_RANGE: 'VIX_E_DISK_OUTOFRANGE', INVALID_ARGUMENT: 'VIX_E_INVALID_ARG',
  NOT_SUPPORTED: 'VIX_E_DISK_NOTSUPPORTED', NOT_THIS_FORMAT: 'VIX_E_INCORRECT_FILE_TYPE', UNSUPPORTED_FEATURE: 'VIX_E_DISK_NOTSUPPORTED',
  CORRUPT_IMAGE: 'VIX_E_DISK_INVALIDDISK', IN_USE: 'VIX_E_FILE_ALREADY_LOCKED', CLOSED: 'VIX_E_INVALID_HANDLE', CANCELLED: 'VIX_E_CANCELLED',
  TIMED_OUT: 'VIX_E_FILE_ERROR', CONNECTION_LOST: 'VIX_E_HOST_TCP_CONN_LOST',
};
const codesThatMayHideAnErrno: readonly BlockErrorCode[] = ['IO_ERROR', 'ACCESS_DENIED', 'INVALID_ARGUMENT', 'NOT_FOUND', 'NO_SPACE', 'NOT_SUPPORTED'];

function symbolOf(error: BlockError): VixErrorSymbol {
  const { errno } = error.context;
  const bySystem = errno !== undefined && codesThatMayHideAnErrno.includes(error.code) ? ofErrno[errno] : undefined;
  return bySystem ?? ofCode[error.code];
}

/** The engine's error (or the system's) in this library's terms; anything else stays what it is. */
export function toVixError(error: unknown, path?: string): unknown {
  if (error instanceof BlockError) return new VixError(symbolOf(error), error.message, { path: path ?? error.context.filename, cause: error });
  if (error instanceof Error && error.name === 'AbortError') return new VixError('VIX_E_CANCELLED', undefined, { path, cause: error });
  const errno = error instanceof Error ? (error as NodeJS.ErrnoException).errno : undefined;
  if (errno === undefined) return error;
  return new VixError(ofErrno[-errno] ?? 'VIX_E_FILE_ERROR', (error as Error).message, { path, cause: error });
}

/** The number of an error, whatever it is. */
export function errorNumber(error: unknown): number {
  const known = toVixError(error);
  return known instanceof VixError ? known.code : VixErrorCode.VIX_E_FAIL;
}

/** How a server could not be reached or did not stay, by errno. */
const ofNetwork: Readonly<Record<number, VixErrorSymbol>> = {
  [Errno.ECONNREFUSED]: 'VIX_E_HOST_NETWORK_CONN_REFUSED', [Errno.ENOENT]: 'VIX_E_HOST_SERVER_NOT_FOUND',
  [Errno.ECONNRESET]: 'VIX_E_HOST_TCP_CONN_LOST', [Errno.EPIPE]: 'VIX_E_HOST_TCP_CONN_LOST', [Errno.ESHUTDOWN]: 'VIX_E_HOST_TCP_CONN_LOST',
  [Errno.EMFILE]: 'VIX_E_HOST_SOCKET_CREATION_ERROR',
};

/** The failure to open a disk that a server offers. */
export function connectFailure(error: unknown, path: string): unknown {
  if (!(error instanceof BlockError)) return toVixError(error, path);
  return new VixError(connectSymbol(error), error.message, { path, cause: error });
}

/** The server said no rather than could not be reached. */
export function isRefusal(error: unknown): boolean {
  return error instanceof BlockError && error.cause instanceof NbdNegotiationError;
}

function connectSymbol(error: BlockError): VixErrorSymbol {
  const { code, context: { errno } } = error;
  if (isRefusal(error)) return code === 'NOT_FOUND' ? 'VIX_E_FILE_NOT_FOUND' : 'VIX_E_HOST_NETBLKDEV_HANDSHAKE';
  if (error.cause instanceof NbdFormatError) return 'VIX_E_HOST_NETBLKDEV_HANDSHAKE';
  const system = errno === undefined ? undefined : ofNetwork[errno];
  switch (code) {
    case 'CANCELLED': return 'VIX_E_CANCELLED';
    case 'NOT_FOUND': return 'VIX_E_HOST_SERVER_NOT_FOUND';
    case 'TIMED_OUT': return 'VIX_E_CANNOT_CONNECT_TO_HOST';
    case 'CONNECTION_LOST': return 'VIX_E_HOST_NETBLKDEV_HANDSHAKE';
    case 'ACCESS_DENIED': return errno === Errno.EACCES ? 'VIX_E_FILE_READ_ONLY' : 'VIX_E_AUTHENTICATION_FAIL';
    case 'IO_ERROR': return system ?? 'VIX_E_CANNOT_CONNECT_TO_HOST';
    default: return system ?? 'VIX_E_HOST_NETBLKDEV_HANDSHAKE';
  }
}

/** A failure of reading or writing a disk that a server offers. */
export function transferFailure(error: unknown, path: string): unknown {
  if (!(error instanceof BlockError)) return toVixError(error, path);
  const lost = error.code === 'CONNECTION_LOST' || error.code === 'TIMED_OUT' || [Errno.ESHUTDOWN, Errno.ECONNRESET, Errno.EPIPE].some((errno) => errno === error.errno);
  return lost ? new VixError('VIX_E_HOST_TCP_CONN_LOST', error.message, { path, cause: error }) : toVixError(error, path);
}

/** Runs `work`; what the engine or the system refuses leaves as a VixError. */
export async function guarded<T>(path: string | undefined, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toVixError(error, path);
  }
}
