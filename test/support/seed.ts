/**
 * What tests draw at random: the same in every `npm test`; `npm run test:full` draws a seed, tells it, and hands it on as VDISK_SEED.
 */
import { createCipheriv } from 'node:crypto';

export const testSeed = Number(process.env['VDISK_SEED'] ?? 1);
if (!Number.isSafeInteger(testSeed) || testSeed < 0) throw new Error(`VDISK_SEED=${process.env['VDISK_SEED']}: not a whole number`);

const key = Buffer.alloc(16);
key.writeDoubleLE(testSeed);
const stream = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));

/** The next bytes that look random, in place of `node:crypto`'s; each test file has a row of its own, which begins anew with it. */
export function randomBytes(length: number): Buffer {
  return stream.update(Buffer.alloc(length));
}
