/** Greeting, options and their replies: the rare messages, encoded into buffers of their own. */
import { decodeText, encodeText, getU16, getU32, getU64, putU16, putU32, putU64 } from './bytes.js';
import { Info, Magic, OptionReply, Size } from './constants.js';

/** A message that breaks the protocol; the connection (or option) cannot go on. */
export class NbdFormatError extends Error {
  override readonly name = 'NbdFormatError';
}

export function encodeGreeting(flags: number): Uint8Array {
  const bytes = new Uint8Array(Size.GREETING);
  putMagic(bytes, 0, Magic.INIT);
  putMagic(bytes, 8, Magic.OPTION);
  putU16(bytes, 16, flags);
  return bytes;
}

/** Handshake flags of an 18-byte greeting. Throws NbdFormatError for anything but (fixed or plain) newstyle. */
export function decodeGreeting(bytes: Uint8Array): number {
  if (!hasMagic(bytes, 0, Magic.INIT)) throw new NbdFormatError('Bad initial magic received');
  if (!hasMagic(bytes, 8, Magic.OPTION)) throw new NbdFormatError('Bad server magic received');
  return getU16(bytes, 16);
}

export function encodeClientFlags(flags: number): Uint8Array {
  const bytes = new Uint8Array(Size.CLIENT_FLAGS);
  putU32(bytes, 0, flags);
  return bytes;
}

export interface OptionHeader { readonly option: number; readonly length: number }

export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(Size.OPTION + data.length);
  putMagic(bytes, 0, Magic.OPTION);
  putU32(bytes, 8, option);
  putU32(bytes, 12, data.length);
  bytes.set(data, Size.OPTION);
  return bytes;
}

export function decodeOptionHeader(bytes: Uint8Array): OptionHeader {
  if (!hasMagic(bytes, 0, Magic.OPTION)) throw new NbdFormatError('Bad magic received');
  return { option: getU32(bytes, 8), length: getU32(bytes, 12) };
}

export interface OptionReplyHeader { readonly option: number; readonly type: number; readonly length: number }

export function encodeOptionReply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(Size.OPTION_REPLY + data.length);
  putMagic(bytes, 0, Magic.OPTION_REPLY);
  putU32(bytes, 8, option);
  putU32(bytes, 12, type);
  putU32(bytes, 16, data.length);
  bytes.set(data, Size.OPTION_REPLY);
  return bytes;
}

export function decodeOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader {
  if (!hasMagic(bytes, 0, Magic.OPTION_REPLY)) throw new NbdFormatError('Unexpected option reply magic');
  return { option: getU32(bytes, 8), type: getU32(bytes, 12), length: getU32(bytes, 16) };
}

export function isOptionError(type: number): boolean {
  return type >= OptionReply.UNSUP;
}

/** Data of INFO and GO. */
export interface InfoRequest { readonly name: string; readonly infos: readonly number[] }

export function encodeInfoRequest(request: InfoRequest): Uint8Array {
  const name = encodeText(request.name);
  const bytes = new Uint8Array(6 + name.length + 2 * request.infos.length);
  putString(bytes, 0, name);
  putU16(bytes, 4 + name.length, request.infos.length);
  request.infos.forEach((info, index) => putU16(bytes, 6 + name.length + 2 * index, info));
  return bytes;
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const name = takeString(data, 0, data.length - 2);
  const count = getU16(data, name.end);
  if (data.length !== name.end + 2 + 2 * count) throw new NbdFormatError('Invalid length of option data');
  return { name: name.text, infos: Array.from({ length: count }, (_, index) => getU16(data, name.end + 2 + 2 * index)) };
}

export interface BlockSizes { readonly minimum: number; readonly preferred: number; readonly maximum: number }

/** One INFO reply's data. */
export type InfoItem =
  | { readonly type: 'export'; readonly size: number; readonly flags: number }
  | { readonly type: 'name' | 'description'; readonly text: string }
  | ({ readonly type: 'block-size' } & BlockSizes)
  | { readonly type: 'unknown'; readonly number: number };

export function encodeInfo(item: InfoItem): Uint8Array {
  switch (item.type) {
    case 'export': {
      const bytes = withType(Info.EXPORT, 12);
      putU64(bytes, 2, item.size);
      putU16(bytes, 10, item.flags);
      return bytes;
    }
    case 'name':
    case 'description': {
      const text = encodeText(item.text);
      const bytes = withType(item.type === 'name' ? Info.NAME : Info.DESCRIPTION, 2 + text.length);
      bytes.set(text, 2);
      return bytes;
    }
    case 'block-size': {
      const bytes = withType(Info.BLOCK_SIZE, 14);
      putU32(bytes, 2, item.minimum);
      putU32(bytes, 6, item.preferred);
      putU32(bytes, 10, item.maximum);
      return bytes;
    }
    case 'unknown':
      return withType(item.number, 2);
  }
}

export function decodeInfo(data: Uint8Array): InfoItem {
  if (data.length < 2) throw new NbdFormatError('Invalid length of option reply');
  const type = getU16(data, 0);
  switch (type) {
    case Info.EXPORT:
      if (data.length !== 12) throw new NbdFormatError('Invalid length of export info');
      return { type: 'export', size: getU64(data, 2), flags: getU16(data, 10) };
    case Info.NAME:
    case Info.DESCRIPTION:
      return { type: type === Info.NAME ? 'name' : 'description', text: decodeText(data, 2) };
    case Info.BLOCK_SIZE:
      if (data.length !== 14) throw new NbdFormatError('Invalid length of block size info');
      return { type: 'block-size', minimum: getU32(data, 2), preferred: getU32(data, 6), maximum: getU32(data, 10) };
    default:
      return { type: 'unknown', number: type };
  }
}

/** Reply to EXPORT_NAME, which has no header of its own. */
export function encodeExportName(size: number, flags: number, noZeroes: boolean): Uint8Array {
  const bytes = new Uint8Array(noZeroes ? 10 : 134);
  putU64(bytes, 0, size);
  putU16(bytes, 8, flags);
  return bytes;
}

export function decodeExportName(bytes: Uint8Array): { readonly size: number; readonly flags: number } {
  return { size: getU64(bytes, 0), flags: getU16(bytes, 8) };
}

/** Data of a SERVER reply to LIST. */
export function encodeServer(name: string, details = ''): Uint8Array {
  const nameBytes = encodeText(name);
  const detailBytes = encodeText(details);
  const bytes = new Uint8Array(4 + nameBytes.length + detailBytes.length);
  putString(bytes, 0, nameBytes);
  bytes.set(detailBytes, 4 + nameBytes.length);
  return bytes;
}

export function decodeServer(data: Uint8Array): { readonly name: string; readonly details: string } {
  const name = takeString(data, 0, data.length);
  return { name: name.text, details: decodeText(data, name.end) };
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextRequest { readonly name: string; readonly queries: readonly string[] }

export function encodeMetaContextRequest(request: MetaContextRequest): Uint8Array {
  const name = encodeText(request.name);
  const queries = request.queries.map(encodeText);
  const bytes = new Uint8Array(8 + name.length + queries.reduce((sum, query) => sum + 4 + query.length, 0));
  putString(bytes, 0, name);
  putU32(bytes, 4 + name.length, queries.length);
  let at = 8 + name.length;
  for (const query of queries) {
    putString(bytes, at, query);
    at += 4 + query.length;
  }
  return bytes;
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const name = takeString(data, 0, data.length - 4);
  const count = getU32(data, name.end);
  const queries: string[] = [];
  let at = name.end + 4;
  for (let index = 0; index < count; index++) {
    const query = takeString(data, at, data.length);
    queries.push(query.text);
    at = query.end;
  }
  if (at !== data.length) throw new NbdFormatError('Invalid length of option data');
  return { name: name.text, queries };
}

/** Data of a META_CONTEXT reply. */
export function encodeMetaContext(id: number, name: string): Uint8Array {
  const text = encodeText(name);
  const bytes = new Uint8Array(4 + text.length);
  putU32(bytes, 0, id);
  bytes.set(text, 4);
  return bytes;
}

export function decodeMetaContext(data: Uint8Array): { readonly id: number; readonly name: string } {
  if (data.length < 4) throw new NbdFormatError('Invalid length of option reply');
  return { id: getU32(data, 0), name: decodeText(data, 4) };
}

function putMagic(bytes: Uint8Array, at: number, magic: readonly [number, number]): void {
  putU32(bytes, at, magic[0]);
  putU32(bytes, at + 4, magic[1]);
}

function hasMagic(bytes: Uint8Array, at: number, magic: readonly [number, number]): boolean {
  return getU32(bytes, at) === magic[0] && getU32(bytes, at + 4) === magic[1];
}

function withType(type: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  putU16(bytes, 0, type);
  return bytes;
}

function putString(bytes: Uint8Array, at: number, text: Uint8Array): void {
  putU32(bytes, at, text.length);
  bytes.set(text, at + 4);
}

/** A u32 length and that many bytes, all before `limit`. */
function takeString(data: Uint8Array, at: number, limit: number): { readonly text: string; readonly end: number } {
  const end = at + 4 <= limit ? at + 4 + getU32(data, at) : Infinity;
  if (end > limit) throw new NbdFormatError('Invalid length of option data');
  return { text: decodeText(data, at + 4, end), end };
}
