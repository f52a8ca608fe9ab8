/** Apple's images that only look like disk images: encrypted ones, and those that grow. They are told by name. */
import type { BlockChild } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';

const encryptedHead = 'encrcdsa';
const encryptedTail = 'cdsaencr';
/** Apple's images that grow: another format, and nothing a raw disk begins with. */
const sparseHead = 'sprs';

/** Whether a file that begins so is wrapped. (Old encrypted ones are known by their end.) */
export function beginsWrapped(head: Uint8Array): boolean {
  return text(head, 0) === encryptedHead || text(head, 0).startsWith(sparseHead);
}

/** @throws BlockError UNSUPPORTED_FEATURE where the image lies in an encrypted or sparse wrapper */
export async function refuseWrapped(file: BlockChild): Promise<void> {
  const ends = new Uint8Array(16);
  await file.read(0, ends.subarray(0, 8));
  await file.read(file.size - 8, ends.subarray(8));
  const version = text(ends, 0) === encryptedHead ? 2 : text(ends, 8) === encryptedTail ? 1 : undefined;
  if (text(ends, 0).startsWith(sparseHead)) throw new BlockError('UNSUPPORTED_FEATURE', 'Apple sparse images are not supported');
  if (version !== undefined) throw new BlockError('UNSUPPORTED_FEATURE', `Encrypted dmg files are not supported (encryption wrapper version ${version})`);
}

function text(bytes: Uint8Array, at: number): string {
  return new TextDecoder('latin1').decode(bytes.subarray(at, at + 8));
}
