/** Driver `luks`: Linux Unified Key Setup, versions 1 and 2; header and payload in one file, or apart. */
import type { BlockDriver } from '../../block/driver.js';
import { isLuks } from '../../crypto/luks1-header.js';
import { createOptions, luksAmendOptions, openOptions, type LuksOpenOptions } from './options.js';

export const luks: BlockDriver<LuksOpenOptions> = {
  name: 'luks',
  kind: 'format',
  options: openOptions,
  createOptions,
  amendOptions: luksAmendOptions,
  children: { file: { role: 'image' }, header: { role: 'metadata', optional: true } },
  probe: (head) => (isLuks(head) ? 100 : 0),
  open: (context) => import('./open.js').then(({ openLuksImage }) => openLuksImage(context)),
  newReadsAsZero: () => false,
  create: (...request) => import('./create.js').then(({ createLuksImage }) => createLuksImage(...request)),
  measure: (...request) => import('./create.js').then(({ measureLuks }) => measureLuks(...request)),
};
