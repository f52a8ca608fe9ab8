/** Digests, for formats that check what they read. */
import type * as Crypto from 'node:crypto';

/** The 16 bytes of the MD5 digest. */
export function md5(bytes: Uint8Array): Uint8Array {
  const { createHash }: typeof Crypto = process.getBuiltinModule('node:crypto');
  return createHash('md5').update(bytes).digest();
}
