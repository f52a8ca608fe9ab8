/** Driver `cloop`: compressed loop files, version 2, to be read. */
import type { BlockDriver } from '../../block/driver.js';
import { versionOf } from './header.js';

export const cloop: BlockDriver = {
  name: 'cloop',
  kind: 'format',
  options: {},
  children: { file: { role: 'image' } },
  probe: (head) => (versionOf(head) === undefined ? 0 : 100),
  open: (context) => import('./open.js').then(({ openCloop }) => openCloop(context)),
};
