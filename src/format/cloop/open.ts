/** Opening a compressed loop image. */
import type { BlockChild } from '../../block/child.js';
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { assertReadOnly } from '../../block/read-only-format.js';
import { viewOf } from '../../util/view.js';
import { invalid, offsetsOffset, parseHeader, type CloopHeader } from './header.js';
import { CloopOps } from './ops.js';

const scanSize = 1 << 20;
const longestStream = 128 << 20;

/** @throws BlockError with the peer's texts */
export async function openCloop(context: OpenContext<object>): Promise<BlockOps> {
  assertReadOnly(context);
  const file = context.child('file')!;
  const head = new Uint8Array(offsetsOffset);
  await file.read(0, head);
  const header = parseHeader(head);
  await checkOffsets(file, header);
  return new CloopOps(file, header);
}

async function checkOffsets(file: BlockChild, { blocks }: CloopHeader): Promise<void> {
  const end = offsetsOffset + (blocks + 1) * 8;
  if (end > file.size) throw invalid('the offsets table is longer than the image file');
  let previous = 0n;
  const chunk = new Uint8Array(Math.min(scanSize, end - offsetsOffset));
  const view = viewOf(chunk);
  for (let at = offsetsOffset; at < end; at += chunk.length) {
    const bytes = Math.min(chunk.length, end - at);
    await file.read(at, chunk.subarray(0, bytes));
    for (let byte = 0; byte < bytes; byte += 8) {
      const index = (at - offsetsOffset + byte) / 8;
      const offset = view.getBigUint64(byte);
      if (index > 0 && offset < previous) throw invalid(`offsets not monotonically increasing at index ${index}, image file is corrupt`);
      if (index > 0 && offset - previous > BigInt(longestStream)) throw invalid(`invalid compressed block size at index ${index}, image file is corrupt`);
      previous = offset;
    }
  }
}
