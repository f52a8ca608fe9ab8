/** Driver `vmdk`: VMware's disks. */
import type { BlockDriver } from '../../block/driver.js';
import { createVmdk, planDisk } from './create.js';
import { probeDescriptor } from './descriptor.js';
import { isCowd, isHosted } from './header.js';
import { measureVmdk } from './measure.js';
import { openVmdk } from './open.js';
import { createOptions } from './options.js';
import { streamVmdk } from './stream-image.js';

export const vmdk: BlockDriver = {
  name: 'vmdk',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  supportsCompression: true,
  beyondPeer: ['dirty-flag', 'measure', 'rebase', 'repair', 'resize'],
  probe: (head) => (isHosted(head) || isCowd(head) ? 100 : probeDescriptor(head)),
  open: openVmdk,
  checkCreate: (options) => void planDisk(options.size, options),
  create: createVmdk,
  stream: streamVmdk,
  measure: measureVmdk,
};
