/** Driver `vdi`: VirtualBox disk images. */
import type { BlockDriver } from '../../block/driver.js';
import { probeVdi } from './header.js';
import { createOptions } from './options.js';

export const vdi: BlockDriver = {
  name: 'vdi',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  beyondPeer: ['measure', 'repair', 'resize', 'thorough-check'],
  probe: probeVdi,
  open: (context) => import('./open.js').then(({ openVdi }) => openVdi(context)),
  create: (target, options) => import('./create.js').then(({ createVdi }) => createVdi(target, options)),
  measure: (...request) => import('./measure.js').then(({ measureVdi }) => measureVdi(...request)),
};
