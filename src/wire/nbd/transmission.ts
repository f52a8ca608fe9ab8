/** Requests and replies, encoded into and decoded from the caller's buffers without allocating. A cookie is two u32 halves. */
import { decodeText, encodeText, getU16, getU32, getU64, putU16, putU32, putU64 } from './bytes.js';
import { Chunk, Magic, Size } from './constants.js';
import { NbdFormatError } from './handshake.js';

/** Decoded in place: one per connection, overwritten by each request. */
export interface Request {
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  /** Of the range, or (extended, flag PAYLOAD_LEN) of the payload. */
  length: number;
}

export function emptyRequest(): Request {
  return { flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
}

/** Reads the 28 (extended: 32) bytes at `at` into `request`; false if the magic is wrong, which means the stream is lost. */
export function decodeRequest(bytes: Uint8Array, at: number, extended: boolean, request: Request): boolean {
  if (getU32(bytes, at) !== (extended ? Magic.EXTENDED_REQUEST : Magic.REQUEST)) return false;
  request.flags = getU16(bytes, at + 4);
  request.type = getU16(bytes, at + 6);
  request.cookieHigh = getU32(bytes, at + 8);
  request.cookieLow = getU32(bytes, at + 12);
  request.offset = getU64(bytes, at + 16);
  request.length = extended ? getU64(bytes, at + 24) : getU32(bytes, at + 24);
  return true;
}

/** Writes the header and returns the offset behind it. */
export function encodeRequest(bytes: Uint8Array, at: number, extended: boolean, request: Readonly<Request>): number {
  putU32(bytes, at, extended ? Magic.EXTENDED_REQUEST : Magic.REQUEST);
  putU16(bytes, at + 4, request.flags);
  putU16(bytes, at + 6, request.type);
  putU32(bytes, at + 8, request.cookieHigh);
  putU32(bytes, at + 12, request.cookieLow);
  putU64(bytes, at + 16, request.offset);
  if (extended) putU64(bytes, at + 24, request.length);
  else putU32(bytes, at + 24, request.length);
  return at + (extended ? Size.EXTENDED_REQUEST : Size.REQUEST);
}

export function putSimpleReply(bytes: Uint8Array, at: number, error: number, cookieHigh: number, cookieLow: number): number {
  putU32(bytes, at, Magic.SIMPLE_REPLY);
  putU32(bytes, at + 4, error);
  putU32(bytes, at + 8, cookieHigh);
  putU32(bytes, at + 12, cookieLow);
  return at + Size.SIMPLE_REPLY;
}

/** Header of a structured chunk; `length` is that of the payload to follow. */
export function putStructuredReply(
  bytes: Uint8Array, at: number, flags: number, type: number, cookieHigh: number, cookieLow: number, length: number,
): number {
  putU32(bytes, at, Magic.STRUCTURED_REPLY);
  putU16(bytes, at + 4, flags);
  putU16(bytes, at + 6, type);
  putU32(bytes, at + 8, cookieHigh);
  putU32(bytes, at + 12, cookieLow);
  putU32(bytes, at + 16, length);
  return at + Size.STRUCTURED_REPLY;
}

/** Header of an extended chunk; `offset` repeats the request's. */
export function putExtendedReply(
  bytes: Uint8Array, at: number, flags: number, type: number, cookieHigh: number, cookieLow: number, offset: number, length: number,
): number {
  putU32(bytes, at, Magic.EXTENDED_REPLY);
  putU16(bytes, at + 4, flags);
  putU16(bytes, at + 6, type);
  putU32(bytes, at + 8, cookieHigh);
  putU32(bytes, at + 12, cookieLow);
  putU64(bytes, at + 16, offset);
  putU64(bytes, at + 24, length);
  return at + Size.EXTENDED_REPLY;
}

export type ReplyKind = 'simple' | 'structured' | 'extended';

/** Decoded in place, like {@link Request}. */
export interface ReplyHeader {
  kind: ReplyKind;
  /** Simple replies only. */
  error: number;
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  /** Extended replies only: the request's offset. */
  offset: number;
  /** Of the payload; a simple reply does not say (the data of a READ). */
  length: number;
}

export function emptyReplyHeader(): ReplyHeader {
  return { kind: 'simple', error: 0, flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
}

/** Size of the reply header that begins with this magic; 0 if it is none. */
export function replyHeaderSize(magic: number): number {
  switch (magic) {
    case Magic.SIMPLE_REPLY: return Size.SIMPLE_REPLY;
    case Magic.STRUCTURED_REPLY: return Size.STRUCTURED_REPLY;
    case Magic.EXTENDED_REPLY: return Size.EXTENDED_REPLY;
    default: return 0;
  }
}

/** Reads the header at `at` into `reply`. The bytes must hold {@link replyHeaderSize} bytes from there; false if the magic is wrong. */
export function decodeReplyHeader(bytes: Uint8Array, at: number, reply: ReplyHeader): boolean {
  const magic = getU32(bytes, at);
  reply.cookieHigh = getU32(bytes, at + 8);
  reply.cookieLow = getU32(bytes, at + 12);
  reply.error = 0;
  reply.flags = 0;
  reply.type = 0;
  reply.offset = 0;
  reply.length = 0;
  switch (magic) {
    case Magic.SIMPLE_REPLY:
      reply.kind = 'simple';
      reply.error = getU32(bytes, at + 4);
      return true;
    case Magic.STRUCTURED_REPLY:
    case Magic.EXTENDED_REPLY:
      reply.flags = getU16(bytes, at + 4);
      reply.type = getU16(bytes, at + 6);
      if (magic === Magic.STRUCTURED_REPLY) {
        reply.kind = 'structured';
        reply.length = getU32(bytes, at + 16);
      } else {
        reply.kind = 'extended';
        reply.offset = getU64(bytes, at + 16);
        reply.length = getU64(bytes, at + 24);
      }
      return true;
    default:
      return false;
  }
}

/** Payload of an OFFSET_HOLE chunk. */
export const HOLE_PAYLOAD = 12;
export function putHole(bytes: Uint8Array, at: number, offset: number, length: number): number {
  putU64(bytes, at, offset);
  putU32(bytes, at + 8, length);
  return at + HOLE_PAYLOAD;
}

export function decodeHole(payload: Uint8Array): { readonly offset: number; readonly length: number } {
  if (payload.length !== HOLE_PAYLOAD) throw new NbdFormatError('Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_HOLE');
  return { offset: getU64(payload, 0), length: getU32(payload, 8) };
}

/** Payload of an ERROR chunk, or of ERROR_OFFSET where `offset` is given. */
export function encodeErrorPayload(error: number, message: string, offset?: number): Uint8Array {
  const text = encodeText(message);
  const bytes = new Uint8Array(6 + text.length + (offset === undefined ? 0 : 8));
  putU32(bytes, 0, error);
  putU16(bytes, 4, text.length);
  bytes.set(text, 6);
  if (offset !== undefined) putU64(bytes, 6 + text.length, offset);
  return bytes;
}

/** Decodes ERROR, ERROR_OFFSET and unknown error chunks, whose payloads begin alike. */
export function decodeErrorPayload(type: number, payload: Uint8Array): { readonly error: number; readonly message: string; readonly offset?: number } {
  if (payload.length < 6 || payload.length < 6 + getU16(payload, 4)) throw new NbdFormatError('Protocol error: invalid payload for error chunk');
  const end = 6 + getU16(payload, 4);
  const base = { error: getU32(payload, 0), message: decodeText(payload, 6, end) };
  if (type !== Chunk.ERROR_OFFSET) return base;
  if (payload.length < end + 8) throw new NbdFormatError('Protocol error: invalid payload for error chunk');
  return { ...base, offset: getU64(payload, end) };
}

/** Extents of one context: lengths and flags by turns. */
export interface StatusPayload { readonly contextId: number; readonly extents: readonly number[] }

/** Bytes of a BLOCK_STATUS(_EXT) payload with this many extents. */
export function statusPayloadSize(extended: boolean, count: number): number {
  return extended ? 8 + 16 * count : 4 + 8 * count;
}

/** `extents` holds lengths and flags by turns; returns the offset behind the payload. */
export function putStatus(bytes: Uint8Array, at: number, extended: boolean, contextId: number, extents: readonly number[]): number {
  putU32(bytes, at, contextId);
  at += 4;
  if (extended) {
    putU32(bytes, at, extents.length / 2);
    at += 4;
    for (const value of extents) {
      putU64(bytes, at, value);
      at += 8;
    }
  } else {
    for (const value of extents) {
      putU32(bytes, at, value);
      at += 4;
    }
  }
  return at;
}

export function decodeStatus(payload: Uint8Array, extended: boolean): StatusPayload {
  const head = extended ? 8 : 4;
  const unit = extended ? 8 : 4;
  const values = (payload.length - head) / unit;
  if (!Number.isInteger(values) || values < 2 || values % 2 !== 0 || (extended && getU32(payload, 4) !== values / 2)) {
    throw new NbdFormatError('Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS');
  }
  const get = extended ? getU64 : getU32;
  return { contextId: getU32(payload, 0), extents: Array.from({ length: values }, (_, index) => get(payload, head + unit * index)) };
}

/** Payload of an extended BLOCK_STATUS request: the range's length and the contexts wanted. */
export function encodeStatusFilter(length: number, contextIds: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(8 + 4 * contextIds.length);
  putU64(bytes, 0, length);
  contextIds.forEach((id, index) => putU32(bytes, 8 + 4 * index, id));
  return bytes;
}

export function decodeStatusFilter(payload: Uint8Array): { readonly length: number; readonly contextIds: readonly number[] } {
  if (payload.length < 8 || payload.length % 4 !== 0) throw new NbdFormatError('Invalid length of block status payload');
  return { length: getU64(payload, 0), contextIds: Array.from({ length: payload.length / 4 - 2 }, (_, index) => getU32(payload, 8 + 4 * index)) };
}
