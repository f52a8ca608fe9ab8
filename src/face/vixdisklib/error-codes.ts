/** All errors of VixDiskLib: symbol, number, text. */

const table = {
  VIX_OK: [0, 'The operation was successful'],
  VIX_E_FAIL: [1, 'Unknown error'],
  VIX_E_OUT_OF_MEMORY: [2, 'Memory allocation failed: out of memory'],
  VIX_E_INVALID_ARG: [3, 'One of the parameters was invalid'],
  VIX_E_FILE_NOT_FOUND: [4, 'A file was not found'],
  VIX_E_OBJECT_IS_BUSY: [5, 'This function cannot be performed because the handle is executing another function'],
  VIX_E_NOT_SUPPORTED: [6, 'The operation is not supported'],
  VIX_E_FILE_ERROR: [7, 'A file access error occurred on the host or guest operating system'],
  VIX_E_DISK_FULL: [8, 'The file system is full: a disk could not be written'],
  VIX_E_INCORRECT_FILE_TYPE: [9, 'The file is not of the right type'],
  VIX_E_CANCELLED: [10, 'The operation was cancelled'],
  VIX_E_FILE_READ_ONLY: [11, 'The file is read-only'],
  VIX_E_FILE_ALREADY_EXISTS: [12, 'The file already exists'],
  VIX_E_FILE_ACCESS_ERROR: [13, 'The permissions do not allow this access to the file'],
  VIX_E_REQUIRES_LARGE_FILES: [14, 'The file system does not support files that large'],
  VIX_E_FILE_ALREADY_LOCKED: [15, 'The file is in use by someone else'],
  VIX_E_VMDB: [16, 'A system error occurred'],
  VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT: [20, 'This operation is not supported on remote objects'],
  VIX_E_FILE_TOO_BIG: [21, 'The file is too big for the file system'],
  VIX_E_FILE_NAME_INVALID: [22, 'The file name is not valid'],
  VIX_E_ALREADY_EXISTS: [23, 'It exists already'],
  VIX_E_BUFFER_TOOSMALL: [24, 'The buffer is too small'],
  VIX_E_OBJECT_NOT_FOUND: [25, 'The request refers to an object that does not exist'],
  VIX_E_HOST_NOT_CONNECTED: [26, 'There is no connection to the host'],
  VIX_E_INVALID_UTF8_STRING: [27, 'The string is not valid UTF-8'],
  VIX_E_UNFINISHED_JOB: [29, 'The job has not finished'],
  VIX_E_NEED_KEY: [30, 'A decryption key is required'],
  VIX_E_OPERATION_ALREADY_IN_PROGRESS: [31, 'The operation is already in progress'],
  VIX_E_LICENSE: [32, 'A licence problem prevents the operation'],
  VIX_E_VM_HOST_DISCONNECTED: [34, 'The host of the virtual machine is disconnected'],
  VIX_E_AUTHENTICATION_FAIL: [35, 'Authentication failed'],
  VIX_E_HOST_CONNECTION_LOST: [36, 'The connection to the host was lost'],
  VIX_E_DUPLICATE_NAME: [41, 'The name is in use already'],
  VIX_E_ARGUMENT_TOO_BIG: [44, 'An argument is too big'],
  VIX_E_INVALID_HANDLE: [1000, 'The handle is not valid'],
  VIX_E_NOT_SUPPORTED_ON_HANDLE_TYPE: [1001, 'The operation is not supported on this type of handle'],
  VIX_E_TOO_MANY_HANDLES: [1002, 'Too many handles are open'],
  VIX_E_VM_NOT_FOUND: [4000, 'The virtual machine was not found'],
  VIX_E_HOST_DISK_INVALID_VALUE: [14003, 'A value of the remote disk is not valid'],
  VIX_E_HOST_DISK_SECTORSIZE: [14004, 'The sector size of the remote disk is not supported'],
  VIX_E_HOST_FILE_ERROR_EOF: [14005, 'The end of the remote file was reached'],
  VIX_E_HOST_NETBLKDEV_HANDSHAKE: [14006, 'The server did not agree to offer the disk'],
  VIX_E_HOST_SOCKET_CREATION_ERROR: [14007, 'A socket could not be created'],
  VIX_E_HOST_SERVER_NOT_FOUND: [14008, 'The server was not found'],
  VIX_E_HOST_NETWORK_CONN_REFUSED: [14009, 'The server refused the connection'],
  VIX_E_HOST_TCP_SOCKET_ERROR: [14010, 'There was an error in the communication with the server'],
  VIX_E_HOST_TCP_CONN_LOST: [14011, 'The connection to the server was lost'],
  VIX_E_HOST_NBD_HASHFILE_VOLUME: [14012, 'The volume of the hash file is not supported'],
  VIX_E_HOST_NBD_HASHFILE_INIT: [14013, 'The hash file could not be prepared'],
  VIX_E_DISK_INVAL: [16000, 'One of the parameters supplied is invalid'],
  VIX_E_DISK_NOINIT: [16001, 'The disk library has not been initialized'],
  VIX_E_DISK_NOIO: [16002, 'The disk was not opened for input and output'],
  VIX_E_DISK_PARTIALCHAIN: [16003, 'The called function cannot be performed on partial chains: open the parent disk'],
  VIX_E_DISK_NEEDSREPAIR: [16006, 'The disk needs repair'],
  VIX_E_DISK_OUTOFRANGE: [16007, 'The requested access lies beyond the end of the disk'],
  VIX_E_DISK_CID_MISMATCH: [16008, 'The parent of this disk has been changed since the child was made: the content IDs differ'],
  VIX_E_DISK_CANTSHRINK: [16009, 'The disk cannot be shrunk'],
  VIX_E_DISK_PARTMISMATCH: [16010, 'The partition table on the physical disk has changed'],
  VIX_E_DISK_UNSUPPORTEDDISKVERSION: [16011, 'This version of the disk is not supported'],
  VIX_E_DISK_OPENPARENT: [16012, 'The parent of this disk could not be opened'],
  VIX_E_DISK_NOTSUPPORTED: [16013, 'The disk does not support this feature'],
  VIX_E_DISK_NEEDKEY: [16014, 'A key is needed for the disk'],
  VIX_E_DISK_NOKEYOVERRIDE: [16015, 'The key of the disk cannot be overridden'],
  VIX_E_DISK_NOTENCRYPTED: [16016, 'The disk is not encrypted'],
  VIX_E_DISK_NOKEY: [16017, 'The disk has no key'],
  VIX_E_DISK_INVALIDPARTITIONTABLE: [16018, 'The partition table is not valid'],
  VIX_E_DISK_NOTNORMAL: [16019, 'Only stand-alone disks with all their extents in regular files are supported'],
  VIX_E_DISK_NOTENCDESC: [16020, 'The descriptor is not encrypted'],
  VIX_E_DISK_NEEDVMFS: [16022, 'A VMFS volume is needed for this disk'],
  VIX_E_DISK_RAWTOOBIG: [16024, 'The raw disk is too big'],
  VIX_E_DISK_TOOMANYOPENFILES: [16027, 'Too many files are open'],
  VIX_E_DISK_TOOMANYREDO: [16028, 'There are too many redo logs'],
  VIX_E_DISK_RAWTOOSMALL: [16029, 'The raw disk is too small'],
  VIX_E_DISK_INVALIDCHAIN: [16030, 'The chain of the disk is not valid'],
  VIX_E_DISK_KEY_NOTFOUND: [16052, 'The metadata key was not found'],
  VIX_E_DISK_SUBSYSTEM_INIT_FAIL: [16053, 'The disk library could not be initialized'],
  VIX_E_DISK_INVALID_CONNECTION: [16054, 'The connection is not valid'],
  VIX_E_DISK_ENCODING: [16061, 'The encoding of the disk is not known'],
  VIX_E_DISK_CANTREPAIR: [16062, 'The disk is corrupted and cannot be repaired'],
  VIX_E_DISK_INVALIDDISK: [16063, 'The disk is not valid or damaged'],
  VIX_E_DISK_NOLICENSE: [16064, 'A licence for the disk is missing'],
  VIX_E_DISK_NODEVICE: [16065, 'The device does not exist'],
  VIX_E_DISK_UNSUPPORTEDDEVICE: [16066, 'The device is not supported'],
  VIX_E_DISK_CAPACITY_MISMATCH: [16067, 'The capacities of parent and child differ'],
  VIX_E_DISK_PARENT_NOTALLOWED: [16068, 'This parent is not allowed'],
  VIX_E_DISK_ATTACH_ROOTLINK: [16069, 'A base disk cannot be attached to a parent'],
  VIX_E_CRYPTO_UNKNOWN_ALGORITHM: [17000, 'The cipher is not known'],
  VIX_E_CRYPTO_BAD_BUFFER_SIZE: [17001, 'The buffer has a wrong size for the cipher'],
  VIX_E_CRYPTO_INVALID_OPERATION: [17002, 'The cryptographic operation is not valid'],
  VIX_E_CRYPTO_RANDOM_DEVICE: [17003, 'There is no source of random numbers'],
  VIX_E_CRYPTO_NEED_PASSWORD: [17004, 'A password is needed'],
  VIX_E_CRYPTO_BAD_PASSWORD: [17005, 'The password is wrong'],
  VIX_E_CRYPTO_NOT_IN_DICTIONARY: [17006, 'The key is not in the dictionary'],
  VIX_E_CRYPTO_NO_CRYPTO: [17007, 'There is no cryptography'],
  VIX_E_CRYPTO_ERROR: [17008, 'A cryptographic operation failed'],
  VIX_E_CRYPTO_BAD_FORMAT: [17009, 'Encrypted data has a wrong format'],
  VIX_E_CRYPTO_LOCKED: [17010, 'The key safe is locked'],
  VIX_E_CRYPTO_EMPTY: [17011, 'The key safe is empty'],
  VIX_E_CRYPTO_KEYSAFE_LOCATOR: [17012, 'The locator of the key safe is not valid'],
  VIX_E_CANNOT_CONNECT_TO_HOST: [18000, 'Cannot connect to the host'],
  VIX_E_NOT_FOR_REMOTE_HOST: [18001, 'This is not available for remote hosts'],
  VIX_E_INVALID_HOSTNAME_SPECIFICATION: [18002, 'The name of the host is not valid'],
  VIX_ASYNC: [25000, 'The asynchronous operation was started'],
  VIX_E_ASYNC_MIXEDMODE_UNSUPPORTED: [26000, 'Synchronous and asynchronous calls may not run on one handle at a time'],
} as const satisfies Readonly<Record<string, readonly [number, string]>>;

/** Name of an error, `VIX_E_…`; also of the two codes that are none, `VIX_OK` and `VIX_ASYNC`. */
export type VixErrorSymbol = keyof typeof table;

/** Numbers by symbol. */
export const VixErrorCode = Object.freeze(Object.fromEntries(Object.entries(table).map(([symbol, [code]]) => [symbol, code]))) as {
  readonly [S in VixErrorSymbol]: (typeof table)[S][0];
};

const symbols = new Map<number, VixErrorSymbol>(Object.entries(table).map(([symbol, [code]]) => [code, symbol as VixErrorSymbol]));

/** What stands in the low 16 bits; the others may hold context. */
export function errorCode(error: number | bigint): number {
  return Number(BigInt.asUintN(16, BigInt(error)));
}

/** Name of an error, undefined where the number has none. */
export function errorSymbol(error: number | bigint): VixErrorSymbol | undefined {
  return symbols.get(errorCode(error));
}

/** The sentence that stands for an error. `locale` is not used, as in VDDK. Since VDDK 1.0. */
export function getErrorText(error: number | bigint, _locale?: string | null): string {
  const symbol = errorSymbol(error);
  return symbol === undefined ? `Unknown error ${errorCode(error)}` : table[symbol][1];
}
