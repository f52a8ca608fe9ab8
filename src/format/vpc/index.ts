/** Driver `vpc`: Microsoft's virtual hard disks (VHD): fixed, dynamic, differencing. */
import type { BlockDriver } from '../../block/driver.js';
import { createVpc } from './create.js';
import { probeVpc } from './header.js';
import { measureVpc } from './measure.js';
import { openVpc } from './open.js';
import { createOptions, openOptions, type VpcOpenOptions } from './options.js';
import { streamVpc } from './stream.js';

export const vpc: BlockDriver<VpcOpenOptions> = {
  name: 'vpc',
  kind: 'format',
  options: openOptions,
  createOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  supportsBacking: true,
  beyondPeer: ['check', 'measure', 'rebase', 'resize'],
  probe: probeVpc,
  open: openVpc,
  create: createVpc,
  measure: measureVpc,
  stream: streamVpc,
};
