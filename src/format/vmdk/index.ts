/** Driver `vmdk`: VMware's disks. */
import type { BlockDriver } from '../../block/driver.js';
import { probeDescriptor } from './descriptor.js';
import { isCowd, isHosted } from './header.js';
import { createOptions } from './options.js';

export const vmdk: BlockDriver = {
  name: 'vmdk',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  supportsCompression: true,
  beyondPeer: ['dirty-flag', 'measure', 'rebase', 'repair', 'resize', 'thorough-check'],
  probe: (head) => (isHosted(head) || isCowd(head) ? 100 : probeDescriptor(head)),
  open: (context) => import('./open.js').then(({ openVmdk }) => openVmdk(context)),
  checkCreate: (...request) => import('./create.js').then(({ checkDisk }) => checkDisk(...request)),
  create: (...request) => import('./create.js').then(({ createVmdk }) => createVmdk(...request)),
  stream: (...request) => import('./stream-image.js').then(({ streamVmdk }) => streamVmdk(...request)),
  measure: (...request) => import('./measure.js').then(({ measureVmdk }) => measureVmdk(...request)),
};
