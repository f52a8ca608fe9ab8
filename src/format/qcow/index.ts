/** Driver `qcow`: QEMU's copy-on-write format, version 1. */
import type { BlockDriver } from '../../block/driver.js';
import { createQcow } from './create.js';
import { probeQcow } from './header.js';
import { measureQcow } from './measure.js';
import { openQcow } from './open.js';
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
  open: openQcow,
  create: createQcow,
  measure: measureQcow,
};
