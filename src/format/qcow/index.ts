/** Driver `qcow`: QEMU's copy-on-write format, version 1. */
import type { BlockDriver } from '../../block/driver.js';
import { probeQcow } from './header.js';
import { createOptions, openOptions, type QcowOpenOptions } from './options.js';

export const qcow: BlockDriver<QcowOpenOptions> = {
  name: 'qcow',
  kind: 'format',
  options: openOptions,
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  supportsCompression: true,
  beyondPeer: ['check', 'measure', 'resize'],
  probe: probeQcow,
  open: (context) => import('./open.js').then(({ openQcow }) => openQcow(context)),
  create: (...request) => import('./create.js').then(({ createQcow }) => createQcow(...request)),
  measure: (...request) => import('./measure.js').then(({ measureQcow }) => measureQcow(...request)),
};
