/** Driver `vpc`: Microsoft's virtual hard disks (VHD): fixed, dynamic, differencing. */
import type { BlockDriver } from '../../block/driver.js';
import { probeVpc } from './header.js';
import { createOptions, openOptions, type VpcOpenOptions } from './options.js';

export const vpc: BlockDriver<VpcOpenOptions> = {
  name: 'vpc',
  kind: 'format',
  options: openOptions,
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  beyondPeer: ['check', 'measure', 'rebase', 'resize'],
  probe: probeVpc,
  open: (context) => import('./open.js').then(({ openVpc }) => openVpc(context)),
  create: (...request) => import('./create.js').then(({ createVpc }) => createVpc(...request)),
  measure: (...request) => import('./measure.js').then(({ measureVpc }) => measureVpc(...request)),
  stream: (...request) => import('./stream.js').then(({ streamVpc }) => streamVpc(...request)),
};
