/** Opening an image. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { legacyCipher } from '../../crypto/data-cipher.js';
import { Crypt, headerBytes, parseHeader, type QcowHeader } from './header.js';
import { QcowOps } from './ops.js';
import { openSecret, type QcowOpenOptions } from './options.js';

export async function openQcow(context: OpenContext<QcowOpenOptions>): Promise<QcowOps> {
  const file = context.child('file')!;
  const header = await readHeader(file);
  const encrypted = header.crypt !== Crypt.NONE;
  if (!encrypted && context.options.encrypt !== undefined) {
    throw new BlockError('INVALID_ARGUMENT', 'No encryption in image header, but options specified format \'aes\'');
  }
  const cipher = encrypted && !context.mode.noIo ? legacyCipher(openSecret(context.options), (id) => context.object(id)) : undefined;
  const backing = await context.implicitChild('backing', { kind: 'backing', filename: header.backingFile ?? '', role: 'cow' });
  return new QcowOps(context, file, backing, header, cipher);
}

async function readHeader(file: BlockChild): Promise<QcowHeader> {
  const head = new Uint8Array(headerBytes);
  await file.read(0, head);
  const { header, name } = parseHeader(head);
  if (name === undefined) return header;
  const bytes = new Uint8Array(name.length);
  await file.read(name.offset, bytes);
  return { ...header, backingFile: new TextDecoder().decode(bytes).replace(/\0.*$/s, '') || undefined };
}
