/** Driver `dmg`: Apple's disk images (UDIF), to be read. */
import type { BlockDriver } from '../../block/driver.js';
import { beginsWrapped } from './wrapper.js';

export const dmg: BlockDriver = {
  name: 'dmg',
  kind: 'format',
  options: {},
  children: { file: { role: 'image' } },
  probe: (head, filename) => (beginsWrapped(head) ? 100 : filename.endsWith('.dmg') ? 2 : 0),
  open: (context) => import('./open.js').then(({ openDmg }) => openDmg(context)),
};
