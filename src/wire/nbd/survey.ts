/** Everything a server tells about its exports, without using one. */
import { Info, Option, OptionReply } from './constants.js';
import { decodeInfo, decodeMetaContext, decodeServer, encodeInfoRequest, encodeMetaContextRequest, encodeOption, isOptionError, type BlockSizes } from './handshake.js';
import { agreeOnStyle, NbdNegotiationError, readGreeting, readRawReply, refused, startTls, type HandshakeStream, type HeaderStyle } from './negotiate.js';

export interface SurveyedExport {
  readonly name: string;
  readonly description: string;
  /** Absent where the server does not tell (it may refuse INFO). */
  readonly size?: number;
  /** TransmissionFlag bits. */
  readonly flags?: number;
  readonly blockSizes?: BlockSizes;
  readonly contexts: readonly string[];
}

export interface Survey {
  readonly style: HeaderStyle;
  readonly exports: readonly SurveyedExport[];
}

const MAX_EXPORTS = 10_000;

/** Lists the exports and asks about each, then leaves. Rejects NbdNegotiationError | NbdFormatError | the stream's errors. */
export async function surveyExports(stream: HandshakeStream, tls: boolean): Promise<Survey> {
  const { fixed } = await readGreeting(stream);
  if (!fixed) throw new NbdNegotiationError('Server does not support export lists');
  if (tls) await startTls(stream);
  const style = await agreeOnStyle(stream, 'extended');
  const names: { name: string; details: string }[] = [];
  stream.write(encodeOption(Option.LIST));
  for await (const data of replies(stream, Option.LIST, OptionReply.SERVER, true)) names.push(decodeServer(data));
  const exports: SurveyedExport[] = [];
  for (const { name, details } of names) exports.push(await askAbout(stream, name, details, style));
  stream.write(encodeOption(Option.ABORT));
  return { style, exports };
}

async function askAbout(stream: HandshakeStream, name: string, details: string, style: HeaderStyle): Promise<SurveyedExport> {
  let found: SurveyedExport = { name, description: details, contexts: [] };
  stream.write(encodeOption(Option.INFO, encodeInfoRequest({ name, infos: [Info.DESCRIPTION, Info.BLOCK_SIZE] })));
  for await (const data of replies(stream, Option.INFO, OptionReply.INFO, false)) {
    const info = decodeInfo(data);
    if (info.type === 'export') found = { ...found, size: info.size, flags: info.flags };
    else if (info.type === 'block-size') found = { ...found, blockSizes: { minimum: info.minimum, preferred: info.preferred, maximum: info.maximum } };
    else if (info.type === 'description') found = { ...found, description: info.text };
  }
  if (style === 'simple') return found;
  const contexts: string[] = [];
  stream.write(encodeOption(Option.LIST_META_CONTEXT, encodeMetaContextRequest({ name, queries: [] })));
  for await (const data of replies(stream, Option.LIST_META_CONTEXT, OptionReply.META_CONTEXT, false)) contexts.push(decodeMetaContext(data).name);
  return { ...found, contexts };
}

/** Data of the replies of one type until the acknowledgement. A refusal ends them too, unless `required`. */
async function* replies(stream: HandshakeStream, option: number, type: number, required: boolean): AsyncGenerator<Uint8Array, void> {
  for (let count = 0; count < MAX_EXPORTS; count++) {
    const reply = await readRawReply(stream, option);
    if (reply.type === OptionReply.ACK) return;
    if (isOptionError(reply.type)) {
      if (!required) return;
      throw refused(stream, reply);
    }
    if (reply.type === type) yield reply.data;
  }
  throw new NbdNegotiationError('Server sends too many replies');
}
