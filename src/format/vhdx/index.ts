/** Driver `vhdx`: Hyper-V's virtual disks, [MS-VHDX] version 1. */
import type { BlockDriver } from '../../block/driver.js';
import { createOptions } from './options.js';
import { probeVhdx } from './header.js';

export const vhdx: BlockDriver = {
  name: 'vhdx',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  beyondPeer: ['measure', 'rebase', 'resize', 'log-overlay', 'thorough-check'],
  probe: probeVhdx,
  open: (context) => import('./open.js').then(({ openVhdx }) => openVhdx(context)),
  create: (...request) => import('./create.js').then(({ createVhdx }) => createVhdx(...request)),
  measure: (...request) => import('./measure.js').then(({ measureVhdx }) => measureVhdx(...request)),
};
