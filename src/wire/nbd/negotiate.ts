/** The client's half of the handshake, over any stream of bytes. */
import { decodeText, getU16, getU32, getU64 } from './bytes.js';
import { Handshake, Info, Magic, Option, OptionReply, Size } from './constants.js';
import {
  decodeExportName, decodeInfo, decodeMetaContext, decodeOptionReplyHeader, encodeClientFlags, encodeInfoRequest,
  encodeMetaContextRequest, encodeOption, isOptionError, NbdFormatError, type BlockSizes, type OptionReplyHeader,
} from './handshake.js';

/** What a handshake needs of a connection. */
export interface HandshakeStream {
  /** The next `length` bytes, valid until the next call. Rejects where the stream ends; `what` names them in the message. */
  read(length: number, what: string): Promise<Uint8Array>;
  write(bytes: Uint8Array): void;
  /** Goes on encrypted. */
  startTls(): Promise<void>;
}

/** A refusal or failure with the words the peer's users know; `hint` holds further lines. */
export class NbdNegotiationError extends Error {
  override readonly name = 'NbdNegotiationError';
  readonly hint: string | undefined;
  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

export type HeaderStyle = 'simple' | 'structured' | 'extended';

export interface NegotiationRequest {
  readonly exportName: string;
  /** Go no further without TLS. */
  readonly tls: boolean;
  /** Metadata contexts to ask for. */
  readonly contexts: readonly string[];
  /** The richest replies to ask for (default 'extended'). */
  readonly style?: HeaderStyle;
}

export interface NegotiatedExport {
  readonly size: number;
  /** TransmissionFlag bits. */
  readonly flags: number;
  readonly style: HeaderStyle;
  readonly blockSizes?: BlockSizes;
  /** Ids of the contexts the server agreed to, by name. */
  readonly contexts: ReadonlyMap<string, number>;
}

/** Longest option reply that is read: well beyond any honest one. */
const MAX_REPLY = 64 * 1024;
/** An honest server has as many exports, contexts or information items at most. */
const MAX_REPLIES = 100_000;
const OLDSTYLE_MAGIC = [0x00004202, 0x81861253] as const;
const optionNames: Readonly<Record<number, string>> = {
  [Option.EXPORT_NAME]: 'export name', [Option.ABORT]: 'abort', [Option.LIST]: 'list', [Option.STARTTLS]: 'starttls', [Option.INFO]: 'info',
  [Option.GO]: 'go', [Option.STRUCTURED_REPLY]: 'structured reply', [Option.LIST_META_CONTEXT]: 'list meta context',
  [Option.SET_META_CONTEXT]: 'set meta context', [Option.EXTENDED_HEADERS]: 'extended headers',
};
const replyNames: Readonly<Record<number, string>> = {
  [OptionReply.ACK]: 'ack', [OptionReply.SERVER]: 'server', [OptionReply.INFO]: 'info', [OptionReply.META_CONTEXT]: 'meta context',
};

/** Negotiates one export; afterwards the stream is in transmission. Rejects NbdNegotiationError | NbdFormatError | the stream's errors. */
export async function negotiate(stream: HandshakeStream, request: NegotiationRequest): Promise<NegotiatedExport> {
  const greeting = await readGreeting(stream);
  if (greeting.oldStyle !== undefined) {
    if (request.tls) throw new NbdNegotiationError('Server does not support STARTTLS');
    if (request.exportName !== '') throw new NbdNegotiationError('Server does not support non-empty export names');
    return { ...greeting.oldStyle, style: 'simple', contexts: new Map() };
  }
  const { fixed, noZeroes } = greeting;
  if (!fixed) {
    if (request.tls) throw new NbdNegotiationError('Server does not support STARTTLS');
    return exportByName(stream, request.exportName, noZeroes, 'simple');
  }
  if (request.tls) await startTls(stream);
  const style = await agreeOnStyle(stream, request.style ?? 'extended');
  const contexts = style === 'simple' || request.contexts.length === 0 ? new Map<string, number>() : await setContexts(stream, request);
  const info = await go(stream, request.exportName);
  if (info === undefined) return { ...await exportByName(stream, request.exportName, noZeroes, style), contexts };
  return { ...info, style, contexts };
}

export interface Greeting {
  readonly fixed: boolean;
  readonly noZeroes: boolean;
  readonly oldStyle?: { readonly size: number; readonly flags: number };
}

/** What a server says first. */
export async function readGreeting(stream: HandshakeStream): Promise<Greeting> {
  const initial = await stream.read(8, 'initial magic');
  if (getU32(initial, 0) !== Magic.INIT[0] || getU32(initial, 4) !== Magic.INIT[1]) throw new NbdFormatError(`Bad initial magic received: ${hex(initial)}`);
  const magic = await stream.read(8, 'server magic');
  if (getU32(magic, 0) === OLDSTYLE_MAGIC[0] && getU32(magic, 4) === OLDSTYLE_MAGIC[1]) {
    const rest = await stream.read(8 + 4 + 124, 'export length');
    return { fixed: false, noZeroes: false, oldStyle: { size: checkedSize(getU64(rest, 0)), flags: getU32(rest, 8) & 0xffff } };
  }
  if (getU32(magic, 0) !== Magic.OPTION[0] || getU32(magic, 4) !== Magic.OPTION[1]) throw new NbdFormatError(`Bad server magic received: ${hex(magic)}`);
  const flags = getU16(await stream.read(2, 'server flags'), 0);
  const fixed = (flags & Handshake.FIXED_NEWSTYLE) !== 0;
  const noZeroes = (flags & Handshake.NO_ZEROES) !== 0;
  stream.write(encodeClientFlags(flags & (Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES)));
  return { fixed, noZeroes };
}

/** Goes on encrypted, or rejects. */
export async function startTls(stream: HandshakeStream): Promise<void> {
  stream.write(encodeOption(Option.STARTTLS));
  const reply = await readReply(stream, Option.STARTTLS);
  if (reply.type !== OptionReply.ACK) throw new NbdFormatError(`Server answered option ${describeOption(Option.STARTTLS)} with unexpected reply ${reply.type}`);
  await stream.startTls();
}

/** Asks for the richest replies up to `wanted`. */
export async function agreeOnStyle(stream: HandshakeStream, wanted: HeaderStyle): Promise<HeaderStyle> {
  if (wanted === 'extended' && await offers(stream, Option.EXTENDED_HEADERS)) return 'extended';
  if (wanted !== 'simple' && await offers(stream, Option.STRUCTURED_REPLY)) return 'structured';
  return 'simple';
}

/** Asks for an option without data; any refusal is a no. */
async function offers(stream: HandshakeStream, option: number): Promise<boolean> {
  stream.write(encodeOption(option));
  const reply = await readRawReply(stream, option);
  if (isOptionError(reply.type)) return false;
  if (reply.type !== OptionReply.ACK || reply.data.length !== 0) throw unexpected(reply.type, OptionReply.ACK);
  return true;
}

async function setContexts(stream: HandshakeStream, request: NegotiationRequest): Promise<Map<string, number>> {
  const agreed = new Map<string, number>();
  stream.write(encodeOption(Option.SET_META_CONTEXT, encodeMetaContextRequest({ name: request.exportName, queries: request.contexts })));
  for (;;) {
    const reply = await readRawReply(stream, Option.SET_META_CONTEXT);
    if (isOptionError(reply.type)) return new Map();
    if (reply.type === OptionReply.ACK) return agreed;
    if (reply.type !== OptionReply.META_CONTEXT) throw unexpected(reply.type, OptionReply.META_CONTEXT);
    const context = decodeMetaContext(reply.data);
    if (!request.contexts.includes(context.name) || agreed.has(context.name)) {
      throw new NbdFormatError(`Server sent meta context '${context.name}' that was not asked for`);
    }
    agreed.set(context.name, context.id);
  }
}

/** Undefined where the server does not know the option. */
async function go(stream: HandshakeStream, name: string): Promise<{ size: number; flags: number; blockSizes?: BlockSizes } | undefined> {
  stream.write(encodeOption(Option.GO, encodeInfoRequest({ name, infos: [Info.BLOCK_SIZE] })));
  let found: { size: number; flags: number } | undefined;
  let blockSizes: BlockSizes | undefined;
  for (let count = 0; ; count++) {
    const reply = await readRawReply(stream, Option.GO);
    if (reply.type === OptionReply.UNSUP) return undefined;
    if (isOptionError(reply.type)) throw refused(stream, reply);
    if (reply.type === OptionReply.ACK) break;
    if (reply.type !== OptionReply.INFO) throw unexpected(reply.type, OptionReply.INFO);
    if (count === MAX_REPLIES) throw tooMany(Option.GO);
    const info = decodeInfo(reply.data);
    if (info.type === 'export') found = { size: checkedSize(info.size), flags: info.flags };
    else if (info.type === 'block-size') blockSizes = checkedBlockSizes(info);
  }
  if (found === undefined) throw new NbdFormatError('broken server omitted NBD_INFO_EXPORT');
  return { ...found, ...(blockSizes && { blockSizes }) };
}

async function exportByName(stream: HandshakeStream, name: string, noZeroes: boolean, style: HeaderStyle): Promise<NegotiatedExport> {
  stream.write(encodeOption(Option.EXPORT_NAME, new TextEncoder().encode(name)));
  const { size, flags } = decodeExportName(await stream.read(noZeroes ? 10 : 134, 'export length'));
  return { size: checkedSize(size), flags, style, contexts: new Map() };
}

export type RawReply = OptionReplyHeader & { readonly data: Uint8Array };

/** One reply to `option`, refusals included. */
export async function readRawReply(stream: HandshakeStream, option: number): Promise<RawReply> {
  const header = decodeOptionReplyHeader(await stream.read(Size.OPTION_REPLY, 'option reply'));
  if (header.option !== option) {
    throw new NbdFormatError(`Unexpected option type ${header.option} (${optionNames[header.option] ?? '<unknown>'}), expected ${describeOption(option)}`);
  }
  if (header.length > MAX_REPLY) throw new NbdFormatError(`option reply of ${header.length} bytes is too long`);
  const data = header.length === 0 ? new Uint8Array(0) : (await stream.read(header.length, 'option reply')).slice();
  return { ...header, data };
}

async function readReply(stream: HandshakeStream, option: number): Promise<RawReply> {
  const reply = await readRawReply(stream, option);
  if (isOptionError(reply.type)) throw refused(stream, reply);
  return reply;
}

/** Takes leave of a server that refused what cannot be done without. */
export function refused(stream: HandshakeStream, reply: RawReply): NbdNegotiationError {
  stream.write(encodeOption(Option.ABORT));
  return refusal(reply);
}

/** What a server's refusal means, in words. */
function refusal({ type, option, data }: RawReply): NbdNegotiationError {
  const name = describeOption(option);
  const [message, advice] = ((): [string, string?] => {
    switch (type) {
      case OptionReply.UNSUP: return [`Unsupported option type ${name}`];
      case OptionReply.POLICY: return [`Denied by server for option ${name}`];
      case OptionReply.INVALID: return [`Invalid parameters for option ${name}`];
      case OptionReply.PLATFORM: return [`Server lacks support for option ${name}`];
      case OptionReply.TLS_REQD: return [`TLS negotiation required before option ${name}`, 'Did you forget a valid tls-creds?'];
      case OptionReply.UNKNOWN: return ['Requested export not available'];
      case OptionReply.SHUTDOWN: return [`Server shutting down before option ${name}`];
      case OptionReply.BLOCK_SIZE_REQD: return [`Server requires INFO_BLOCK_SIZE for option ${name}`];
      default: return [`Unknown error code when asking for option ${name}`];
    }
  })();
  const reported = data.length > 0 ? `server reported: ${printable(decodeText(data))}` : undefined;
  const hints = [advice, reported].filter((line) => line !== undefined);
  return new NbdNegotiationError(message, hints.length > 0 ? hints.join('\n') : undefined);
}

function checkedSize(size: number): number {
  if (!Number.isSafeInteger(size)) throw new NbdFormatError('export length is too large');
  return size;
}

function checkedBlockSizes(sizes: BlockSizes): BlockSizes {
  const { minimum, preferred, maximum } = sizes;
  const powerOfTwo = (value: number): boolean => value > 0 && (value & (value - 1)) === 0;
  if (!powerOfTwo(minimum)) throw new NbdFormatError(`server minimum block size ${minimum} is not a power of two`);
  if (minimum > 65536) throw new NbdFormatError(`server minimum block size ${minimum} is too large`);
  if (!powerOfTwo(preferred) || preferred < minimum) throw new NbdFormatError(`server preferred block size ${preferred} is not valid`);
  if (maximum < minimum) throw new NbdFormatError(`server maximum block size ${maximum} is not valid`);
  return sizes;
}

function unexpected(type: number, expected: number): NbdFormatError {
  const name = (number: number): string => replyNames[number] ?? '<unknown>';
  return new NbdFormatError(`unexpected reply type ${type} (${name(type)}), expected ${expected} (${name(expected)})`);
}

function tooMany(option: number): NbdFormatError {
  return new NbdFormatError(`too many replies to option ${describeOption(option)}`);
}

function describeOption(option: number): string {
  return `${option} (${optionNames[option] ?? '<unknown>'})`;
}

function hex(bytes: Uint8Array): string {
  return `0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('').replace(/^0+(?=.)/, '')}`;
}

/** A server's text on a terminal: without control characters, and not endless. */
function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, '?').slice(0, 4096);
}
