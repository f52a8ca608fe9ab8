/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { legacyCipher } from '../../crypto/data-cipher.js';
import { Crypt, directoryEntries, headerBytes, maxBackingName, serialiseHeader } from './header.js';
import { createSecret } from './options.js';

/** Clusters of an overlay are small, so that little is copied to write a little. */
export function newGeometry(overlay: boolean): { clusterBits: number; tableBits: number } {
  return overlay ? { clusterBits: 9, tableBits: 12 } : { clusterBits: 12, tableBits: 9 };
}

/** Where the L1 table of a new image begins and what it takes, in whole sectors. */
export function newDirectory(size: number, geometry: { clusterBits: number; tableBits: number }, nameBytes: number): { offset: number; length: number } {
  return { offset: Math.ceil((headerBytes + nameBytes) / 8) * 8, length: Math.ceil(directoryEntries({ size, ...geometry }) * 8 / 512) * 512 };
}

/** Header, then an empty L1 table. @throws BlockError with the peer's text */
export async function createQcow(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }, context: CreateContext): Promise<void> {
  const size = Math.ceil(options.size / 512) * 512;
  if (size === 0) throw new BlockError('INVALID_ARGUMENT', 'Image size is too small, cannot be zero length');
  const secret = createSecret(options);
  if (secret !== undefined) legacyCipher(secret, (id) => context.object(id));
  const given = options['backing_file'];
  const backingFile = typeof given === 'string' && given !== '' ? given : undefined;
  const nameBytes = new TextEncoder().encode(backingFile ?? '').length;
  if (nameBytes > maxBackingName) throw new BlockError('INVALID_ARGUMENT', 'Backing file name too long');
  const geometry = newGeometry(backingFile !== undefined);
  const { offset, length } = newDirectory(size, geometry, nameBytes);
  if (target.size > 0) await target.resize(0, { exact: false });
  await target.resize(offset + length, { exact: false });
  await target.write(0, serialiseHeader({ ...geometry, size, crypt: secret === undefined ? Crypt.NONE : Crypt.AES, l1Offset: offset, backingFile }));
}
