/** Numbers of the NBD protocol, as its document and QEMU 9+'s extended headers define them. Magics of 64 bits are [high, low]. */
export const Magic = {
  INIT: [0x4e42444d, 0x41474943],
  OPTION: [0x49484156, 0x454f5054],
  OPTION_REPLY: [0x0003e889, 0x045565a9],
  REQUEST: 0x25609513,
  EXTENDED_REQUEST: 0x21e41c71,
  SIMPLE_REPLY: 0x67446698,
  STRUCTURED_REPLY: 0x668e33ef,
  EXTENDED_REPLY: 0x6e8a278c,
} as const;

/** Server's handshake flags; the client answers with the same bits. */
export const Handshake = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const Option = {
  EXPORT_NAME: 1, ABORT: 2, LIST: 3, PEEK_EXPORT: 4, STARTTLS: 5, INFO: 6, GO: 7, STRUCTURED_REPLY: 8, LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10, EXTENDED_HEADERS: 11,
} as const;

const ERROR_BIT = 0x80000000;
export const OptionReply = {
  ACK: 1, SERVER: 2, INFO: 3, META_CONTEXT: 4,
  UNSUP: ERROR_BIT + 1, POLICY: ERROR_BIT + 2, INVALID: ERROR_BIT + 3, PLATFORM: ERROR_BIT + 4, TLS_REQD: ERROR_BIT + 5,
  UNKNOWN: ERROR_BIT + 6, SHUTDOWN: ERROR_BIT + 7, BLOCK_SIZE_REQD: ERROR_BIT + 8, TOO_BIG: ERROR_BIT + 9,
  EXT_HEADER_REQD: ERROR_BIT + 10,
} as const;

export const Info = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const TransmissionFlag = {
  HAS_FLAGS: 1 << 0, READ_ONLY: 1 << 1, SEND_FLUSH: 1 << 2, SEND_FUA: 1 << 3, ROTATIONAL: 1 << 4, SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6, SEND_DF: 1 << 7, CAN_MULTI_CONN: 1 << 8, SEND_RESIZE: 1 << 9, SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11, BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const;

export const Command = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, WRITE_ZEROES: 6, BLOCK_STATUS: 7, RESIZE: 8 } as const;

export const CommandFlag = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const;

export const ReplyFlag = { DONE: 1 } as const;

export const Chunk = {
  NONE: 0, OFFSET_DATA: 1, OFFSET_HOLE: 2, BLOCK_STATUS: 5, BLOCK_STATUS_EXT: 6, ERROR: 0x8001, ERROR_OFFSET: 0x8002,
} as const;
/** Chunk types with this bit are errors, known or not. */
export const CHUNK_ERROR_BIT = 0x8000;

export const NbdErrno = { EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75, ENOTSUP: 95, ESHUTDOWN: 108 } as const;

/** Flags of the `base:allocation` and `qemu:dirty-bitmap:NAME` contexts. */
export const StatusFlag = { HOLE: 1, ZERO: 2, DIRTY: 1 } as const;

export const Context = {
  BASE_ALLOCATION: 'base:allocation', ALLOCATION_DEPTH: 'qemu:allocation-depth', DIRTY_BITMAP_PREFIX: 'qemu:dirty-bitmap:',
} as const;

export const DEFAULT_PORT = 10809;
/** Longest string (export name, description, context name) in bytes. */
export const MAX_STRING = 4096;
/** Longest READ or WRITE where no block sizes were negotiated. */
export const MAX_PAYLOAD = 32 * 1024 * 1024;

export const Size = {
  GREETING: 18, CLIENT_FLAGS: 4, OPTION: 16, OPTION_REPLY: 20, REQUEST: 28, EXTENDED_REQUEST: 32, SIMPLE_REPLY: 16, STRUCTURED_REPLY: 20,
  EXTENDED_REPLY: 32,
} as const;
