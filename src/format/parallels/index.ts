/** Driver `parallels`: images of Parallels and Virtuozzo, by themselves or in a bundle. */
import type { BlockDriver } from '../../block/driver.js';
import { createOptions, createParallels } from './create.js';
import { isDescriptor } from './descriptor.js';
import { probeHeader } from './header.js';
import { measureParallels } from './measure.js';
import { openParallels } from './open.js';
import { openOptions, type ParallelsOptions } from './options.js';

export const parallels: BlockDriver<ParallelsOptions> = {
  name: 'parallels',
  kind: 'format',
  options: openOptions,
  createOptions,
  beyondPeer: ['measure', 'resize'],
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  probe: (head) => (probeHeader(head) || isDescriptor(head) ? 100 : 0),
  open: openParallels,
  create: createParallels,
  measure: measureParallels,
};
