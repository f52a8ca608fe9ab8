/** Driver `qed`: QEMU's enhanced disk format. */
import type { BlockDriver } from '../../block/driver.js';
import { probeQed } from './header.js';
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
  open: (context) => import('./open.js').then(({ openQed }) => openQed(context)),
  create: (target, options) => import('./create.js').then(({ createQed }) => createQed(target, options)),
  measure: (...request) => import('./measure.js').then(({ measureQed }) => measureQed(...request)),
};
