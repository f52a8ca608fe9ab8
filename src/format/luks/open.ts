/** Opening a LUKS volume. */
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { openLuks, unlockLuks } from '../../crypto/luks.js';
import { LuksOps } from './ops.js';
import type { LuksOpenOptions } from './options.js';

/** @throws BlockError with the peer's texts */
export async function openLuksImage(context: OpenContext<LuksOpenOptions>): Promise<BlockOps> {
  const file = context.child('file')!;
  const header = context.child('header');
  const volume = await openLuks(header ?? file, { detached: header !== undefined });
  const secret = context.options['key-secret'];
  const unlocked = context.mode.noIo ? undefined : await unlockLuks(volume, secret, 'key-secret', context.object);
  if (file.size < volume.payloadOffset + (volume.payloadSize ?? 0)) {
    throw new BlockError('CORRUPT_IMAGE', `Could not refresh total sector count: ${strerror(Errno.EIO)}`, { errno: Errno.EIO });
  }
  return new LuksOps(file, volume, unlocked, context.object);
}
