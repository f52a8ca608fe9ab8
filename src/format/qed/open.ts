/** Opening an image. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { Feature, headerBytes, parseHeader, type QedHeader } from './header.js';
import { QedOps } from './ops.js';

export async function openQed(context: OpenContext<object>): Promise<QedOps> {
  const file = context.child('file')!;
  const header = await readHeader(file);
  const backing = await context.implicitChild('backing', {
    kind: 'backing', filename: header.backingFile ?? '', role: 'cow', ...((header.features & Feature.BACKING_RAW) !== 0 && { format: 'raw' }),
  });
  const ops = new QedOps(context, file, backing, header);
  if (!context.readOnly && !context.mode.noIo) await ops.takeOver(context.mode.check);
  return ops;
}

async function readHeader(file: BlockChild): Promise<QedHeader> {
  const head = new Uint8Array(headerBytes);
  await file.read(0, head);
  const { header, name } = parseHeader(head, file.size);
  if (name === undefined) return header;
  const bytes = new Uint8Array(name.length);
  await file.read(name.offset, bytes);
  return { ...header, backingFile: new TextDecoder().decode(bytes).replace(/\0.*$/s, '') || undefined };
}
