/** Driver `nbd`: a disk that an NBD server offers. */
import type { BlockDriver } from '../../block/driver.js';
import { nbdOptionSchema, parseNbdFilename, type NbdOptions } from './options.js';

export const nbd: BlockDriver<NbdOptions> = {
  name: 'nbd',
  kind: 'protocol',
  options: nbdOptionSchema,
  children: {},
  protocolPrefixes: ['nbd', 'nbd+tcp', 'nbd+unix', 'nbds', 'nbds+tcp', 'nbds+unix'],
  parseFilename: parseNbdFilename,
  open: (context) => import('./open.js').then(({ openExport }) => openExport(context)),
  createFile: (filename) => import('./open.js').then(({ takeExistingExport }) => takeExistingExport(filename)),
};
