/** Driver `bochs`: growing disks of the Bochs emulator, to be read. */
import type { BlockDriver } from '../../block/driver.js';
import { isRedolog } from './header.js';

export const bochs: BlockDriver = {
  name: 'bochs',
  kind: 'format',
  options: {},
  children: { file: { role: 'image' } },
  probe: (head) => (isRedolog(head) ? 100 : 0),
  open: (context) => import('./open.js').then(({ openBochs }) => openBochs(context)),
};
