/** Driver `vhdx`: Hyper-V's virtual disks, [MS-VHDX] version 1. */
import type { BlockDriver } from '../../block/driver.js';
import { createVhdx } from './create.js';
import { createOptions } from './options.js';
import { probeVhdx } from './header.js';
import { measureVhdx } from './measure.js';
import { openVhdx } from './open.js';

export const vhdx: BlockDriver = {
  name: 'vhdx',
  kind: 'format',
  options: {},
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  beyondPeer: ['measure', 'rebase', 'resize', 'log-overlay', 'thorough-check'],
  probe: probeVhdx,
  open: openVhdx,
  create: createVhdx,
  measure: measureVhdx,
};
