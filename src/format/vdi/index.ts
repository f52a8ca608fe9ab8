/** Driver `vdi`: VirtualBox disk images. */
import type { BlockDriver } from '../../block/driver.js';
import { createVdi } from './create.js';
import { probeVdi } from './header.js';
import { measureVdi } from './measure.js';
import { openVdi } from './open.js';
import { createOptions } from './options.js';

export const vdi: BlockDriver = {
  name: 'vdi',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  beyondPeer: ['measure', 'repair', 'resize', 'thorough-check'],
  probe: probeVdi,
  open: openVdi,
  create: createVdi,
  measure: measureVdi,
};
