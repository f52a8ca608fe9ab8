/** Opening a growing disk of Bochs. */
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { assertReadOnly } from '../../block/read-only-format.js';
import { headerSize, parseHeader } from './header.js';
import { BochsOps } from './ops.js';

/** @throws BlockError with the peer's texts */
export async function openBochs(context: OpenContext<object>): Promise<BlockOps> {
  assertReadOnly(context);
  const file = context.child('file')!;
  const head = new Uint8Array(headerSize);
  await file.read(0, head);
  const header = parseHeader(head);
  const catalog = new Uint8Array(Math.max(0, Math.min(header.extents * 4, file.size - header.headerSize)));
  await file.read(header.headerSize, catalog);
  return new BochsOps(file, header, catalog);
}
