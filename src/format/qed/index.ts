/** Driver `qed`: QEMU's enhanced disk format. */
import type { BlockDriver } from '../../block/driver.js';
import { createQed } from './create.js';
import { probeQed } from './header.js';
import { measureQed } from './measure.js';
import { openQed } from './open.js';
import { createOptions } from './options.js';

export const qed: BlockDriver = {
  name: 'qed',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  beyondPeer: ['measure'],
  probe: probeQed,
  open: openQed,
  create: createQed,
  measure: measureQed,
};
