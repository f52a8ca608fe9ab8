/** Driver `parallels`: images of Parallels and Virtuozzo, by themselves or in a bundle. */
import type { BlockDriver } from '../../block/driver.js';
import { isDescriptor } from './descriptor.js';
import { probeHeader } from './header.js';
import { createOptions, openOptions, type ParallelsOptions } from './options.js';

export const parallels: BlockDriver<ParallelsOptions> = {
  name: 'parallels',
  kind: 'format',
  options: openOptions,
  createOptions,
  beyondPeer: ['measure', 'resize'],
  fillOptions: { 'prealloc-mode': 'truncate' },
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true } },
  probe: (head) => (probeHeader(head) || isDescriptor(head) ? 100 : 0),
  open: (context) => import('./open.js').then(({ openParallels }) => openParallels(context)),
  create: (target, options) => import('./create.js').then(({ createParallels }) => createParallels(target, options)),
  measure: (...request) => import('./measure.js').then(({ measureParallels }) => measureParallels(...request)),
};
