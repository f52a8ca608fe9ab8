/** Driver `luks`: Linux Unified Key Setup, versions 1 and 2; header and payload in one file, or apart. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { openLuks, unlockLuks } from '../../crypto/luks.js';
import { isLuks } from '../../crypto/luks1-header.js';
import { createLuksImage, measureLuks } from './create.js';
import { createOptions, luksAmendOptions, openOptions, type LuksOpenOptions } from './options.js';
import { LuksOps } from './ops.js';

export const luks: BlockDriver<LuksOpenOptions> = {
  name: 'luks',
  kind: 'format',
  options: openOptions,
  createOptions,
  amendOptions: luksAmendOptions,
  children: { file: { role: 'image' }, header: { role: 'metadata', optional: true } },
  probe: (head) => (isLuks(head) ? 100 : 0),
  async open(context) {
    const file = context.child('file')!;
    const header = context.child('header');
    const volume = await openLuks(header ?? file, { detached: header !== undefined });
    const secret = context.options['key-secret'];
    const unlocked = context.mode.noIo ? undefined : await unlockLuks(volume, secret, 'key-secret', context.object);
    if (file.size < volume.payloadOffset + (volume.payloadSize ?? 0)) {
      throw new BlockError('CORRUPT_IMAGE', `Could not refresh total sector count: ${strerror(Errno.EIO)}`, { errno: Errno.EIO });
    }
    return new LuksOps(file, volume, unlocked, context.object);
  },
  newReadsAsZero: () => false,
  create: createLuksImage,
  measure: measureLuks,
};
