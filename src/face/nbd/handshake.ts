/** Option haggling on the server's side, from the greeting to the start of transmission. */
import { Handshake, Info, MAX_STRING, Option, OptionReply } from '../../wire/nbd/constants.js';
import {
  NbdFormatError, decodeInfoRequest, decodeMetaContextRequest, decodeOptionHeader, encodeExportName, encodeGreeting, encodeInfo, encodeMetaContext,
  encodeOptionReply, encodeServer,
} from '../../wire/nbd/handshake.js';
import { decodeText, encodeText, getU32 } from '../../wire/nbd/bytes.js';
import { Context } from '../../wire/nbd/constants.js';
import type { NegotiatedContext } from './block-status.js';
import { errorText } from './errors.js';
import type { ExportDirectory, NbdExport } from './exports.js';
import type { Session } from './transmission.js';

/** Option data beyond this is refused and skipped. */
const MAX_OPTION_DATA = 64 * 1024;
/** Options a client may send before it must have chosen an export. */
const MAX_OPTIONS = 1024;
const MAX_QUERIES = 256;
/** Exports of a list that are sent together. */
const LIST_BATCH = 256;

/** The byte stream during the handshake. */
export interface HandshakeStream {
  /** Exactly `length` bytes; rejects where the client leaves before. */
  take(length: number): Promise<Uint8Array>;
  send(bytes: Uint8Array): void;
  /** Resolves when everything is sent, or the client is gone, and others had their turn. */
  settled(): Promise<void>;
  /** Goes on in TLS; rejects where that fails. Absent: no credentials. */
  readonly startTls?: () => Promise<void>;
  readonly encrypted: boolean;
}

/** The client ended the handshake, or broke its rules; the connection is to be closed without more words. */
export class HandshakeEnd extends Error {
  override readonly name: string = 'HandshakeEnd';
}

/** The client took its leave politely. */
export class ClientAbort extends HandshakeEnd {}

/** Negotiates until an export is chosen; the caller releases `lent`. Rejects where the client leaves or is to be dropped. */
export async function negotiate(stream: HandshakeStream, directory: ExportDirectory): Promise<Session> {
  return new Negotiation(stream, directory).run();
}

class Negotiation {
  readonly #stream: HandshakeStream;
  readonly #directory: ExportDirectory;
  #structured = false;
  #extended = false;
  #noZeroes = false;
  /** Contexts chosen by SET_META_CONTEXT, and the export they were chosen for. */
  #contexts: { readonly exportName: string; readonly chosen: readonly NegotiatedContext[] } | undefined;

  constructor(stream: HandshakeStream, directory: ExportDirectory) {
    this.#stream = stream;
    this.#directory = directory;
  }

  async run(): Promise<Session> {
    this.#stream.send(encodeGreeting(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES));
    const flags = getU32(await this.#stream.take(4), 0);
    if ((flags & ~(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES)) !== 0) throw new HandshakeEnd('Unknown client flags');
    const fixed = (flags & Handshake.FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (flags & Handshake.NO_ZEROES) !== 0;
    for (let count = 0; count < MAX_OPTIONS; count++) {
      const { option, length } = decodeOptionHeader(await this.#stream.take(16));
      if (length > MAX_OPTION_DATA) {
        if (option === Option.EXPORT_NAME || length > 1024 * MAX_OPTION_DATA) throw new HandshakeEnd('Option data too long');
        for (let left = length; left > 0; left -= MAX_OPTION_DATA) await this.#stream.take(Math.min(left, MAX_OPTION_DATA));
        this.#refuse(option, OptionReply.TOO_BIG, 'Option data too long');
        continue;
      }
      const data = length === 0 ? new Uint8Array(0) : await this.#stream.take(length);
      if (!fixed && option !== Option.EXPORT_NAME) throw new HandshakeEnd('Unfixed newstyle client sent an option');
      const session = await this.#serve(option, data);
      if (session !== undefined) return session;
      await this.#stream.settled();
    }
    throw new HandshakeEnd('Too many options');
  }

  async #serve(option: number, data: Uint8Array): Promise<Session | undefined> {
    const { startTls, encrypted } = this.#stream;
    if (startTls !== undefined && !encrypted && option !== Option.STARTTLS && option !== Option.ABORT) {
      if (option === Option.EXPORT_NAME) throw new HandshakeEnd('Option 0x1 not permitted before TLS');
      this.#refuse(option, OptionReply.TLS_REQD, `Option 0x${option.toString(16)} not permitted before TLS`);
      return undefined;
    }
    try {
      switch (option) {
        case Option.EXPORT_NAME: return await this.#exportName(data);
        case Option.GO:
        case Option.INFO: return await this.#info(option, data);
        case Option.LIST_META_CONTEXT:
        case Option.SET_META_CONTEXT: await this.#metaContext(option, data); break;
        case Option.ABORT:
          this.#reply(option, OptionReply.ACK);
          throw new ClientAbort('Client aborted the negotiation');
        case Option.LIST:
          if (this.#expectEmpty(option, data)) await this.#list();
          break;
        case Option.STARTTLS:
          if (this.#expectEmpty(option, data)) await this.#startTls();
          break;
        case Option.STRUCTURED_REPLY:
        case Option.EXTENDED_HEADERS:
          if (this.#expectEmpty(option, data)) this.#upgrade(option);
          break;
        default: this.#refuse(option, OptionReply.UNSUP, `Unsupported option ${option}`);
      }
    } catch (error) {
      if (!(error instanceof NbdFormatError) || option === Option.EXPORT_NAME) throw error;
      this.#refuse(option, OptionReply.INVALID, error.message);
    }
    return undefined;
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    this.#stream.send(encodeOptionReply(option, type, data));
  }

  #refuse(option: number, type: number, message: string): void {
    this.#reply(option, type, encodeText(message));
  }

  #expectEmpty(option: number, data: Uint8Array): boolean {
    if (data.length === 0) return true;
    this.#refuse(option, OptionReply.INVALID, `option ${option} should have zero length`);
    return false;
  }

  async #startTls(): Promise<void> {
    const { startTls, encrypted } = this.#stream;
    if (startTls === undefined) return this.#refuse(Option.STARTTLS, OptionReply.POLICY, 'TLS not configured');
    if (encrypted) return this.#refuse(Option.STARTTLS, OptionReply.INVALID, 'TLS already enabled');
    this.#reply(Option.STARTTLS, OptionReply.ACK);
    this.#structured = this.#extended = false;
    this.#contexts = undefined;
    await startTls();
  }

  #upgrade(option: number): void {
    if (option === Option.EXTENDED_HEADERS) {
      if (this.#extended) return this.#refuse(option, OptionReply.INVALID, 'extended headers already negotiated');
      this.#extended = this.#structured = true;
    } else {
      if (this.#extended) return this.#refuse(option, OptionReply.EXT_HEADER_REQD, 'extended headers already negotiated');
      if (this.#structured) return this.#refuse(option, OptionReply.INVALID, 'structured reply already negotiated');
      this.#structured = true;
    }
    this.#contexts = undefined;
    this.#reply(option, OptionReply.ACK);
  }

  async #list(): Promise<void> {
    const listing = await this.#directory.list();
    for (let at = 0; at < listing.length; at += LIST_BATCH) {
      const batch = listing.slice(at, at + LIST_BATCH);
      this.#stream.send(Buffer.concat(batch.map(({ name, description }) => encodeOptionReply(Option.LIST, OptionReply.SERVER, encodeServer(name, description)))));
      await this.#stream.settled();
    }
    this.#reply(Option.LIST, OptionReply.ACK);
  }

  async #exportName(data: Uint8Array): Promise<Session> {
    if (data.length > MAX_STRING) throw new HandshakeEnd('Bad length received');
    const lent = await this.#acquire(decodeText(data));
    if (lent === undefined) throw new HandshakeEnd('export not found');
    this.#stream.send(encodeExportName(lent.size, lent.transmissionFlags(this.#structured, this.#extended), this.#noZeroes));
    return this.#session(lent);
  }

  async #info(option: number, data: Uint8Array): Promise<Session | undefined> {
    const { name, infos } = decodeInfoRequest(data);
    const lent = await this.#acquireFor(option, name);
    if (lent === undefined) return undefined;
    let kept = false;
    try {
      const alignment = lent.blockSizes.minimum;
      if (option === Option.GO && alignment > 1 && !infos.includes(Info.BLOCK_SIZE)) {
        this.#refuse(option, OptionReply.BLOCK_SIZE_REQD, 'request NBD_INFO_BLOCK_SIZE to use this export');
        return undefined;
      }
      if (infos.includes(Info.NAME)) this.#reply(option, OptionReply.INFO, encodeInfo({ type: 'name', text: lent.name }));
      if (lent.description !== '') this.#reply(option, OptionReply.INFO, encodeInfo({ type: 'description', text: lent.description }));
      this.#reply(option, OptionReply.INFO, encodeInfo({ type: 'block-size', ...lent.blockSizes }));
      const flags = lent.transmissionFlags(this.#structured, this.#extended);
      this.#reply(option, OptionReply.INFO, encodeInfo({ type: 'export', size: lent.size, flags }));
      this.#reply(option, OptionReply.ACK);
      kept = option === Option.GO;
      return kept ? this.#session(lent) : undefined;
    } finally {
      if (!kept) this.#directory.release(lent);
    }
  }

  #session(lent: NbdExport): Session {
    const contexts = this.#contexts?.exportName === lent.name ? this.#contexts.chosen : [];
    return { lent, structured: this.#structured, extended: this.#extended, contexts };
  }

  async #metaContext(option: number, data: Uint8Array): Promise<void> {
    if (option === Option.SET_META_CONTEXT) {
      this.#contexts = undefined;
      if (!this.#structured) return this.#refuse(option, OptionReply.INVALID, 'request option with structured replies not negotiated');
    } else if (!this.#structured) {
      return this.#refuse(option, OptionReply.INVALID, 'request option with structured replies not negotiated');
    }
    const { name, queries } = decodeMetaContextRequest(data);
    if (queries.length > MAX_QUERIES) return this.#refuse(option, OptionReply.TOO_BIG, 'Too many queries');
    const lent = await this.#acquireFor(option, name);
    if (lent === undefined) return;
    const { contexts, name: exportName } = lent;
    this.#directory.release(lent);
    const listing = option === Option.LIST_META_CONTEXT;
    const chosen = contexts.map((context, id) => ({ id, name: context })).filter((context) =>
      (listing && queries.length === 0) || queries.some((query) => matches(query, context.name, listing)));
    for (const context of chosen) this.#reply(option, OptionReply.META_CONTEXT, encodeMetaContext(listing ? 0 : context.id, context.name));
    if (!listing) this.#contexts = { exportName, chosen };
    this.#reply(option, OptionReply.ACK);
  }

  #acquire(name: string): Promise<NbdExport | undefined> {
    return Promise.resolve(name.length > MAX_STRING ? undefined : this.#directory.acquire(name));
  }

  /** The export, or undefined after the option was refused. */
  async #acquireFor(option: number, name: string): Promise<NbdExport | undefined> {
    try {
      const lent = await this.#acquire(name);
      if (lent === undefined) this.#refuse(option, OptionReply.UNKNOWN, `export '${name.slice(0, 80)}' not present`);
      return lent;
    } catch (error) {
      this.#refuse(option, OptionReply.PLATFORM, errorText(error));
      return undefined;
    }
  }
}

/** A query names a context, or (listing) a namespace or the start of QEMU's bitmap names. */
function matches(query: string, context: string, listing: boolean): boolean {
  if (query === context) return true;
  if (!listing) return false;
  return (query.endsWith(':') && (query === Context.DIRTY_BITMAP_PREFIX || query.indexOf(':') === query.length - 1)) && context.startsWith(query);
}
