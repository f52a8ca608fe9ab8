/** Driver `vvfat`: a folder of the host as a disk with a FAT file system. */
import type { BlockDriver } from '../../block/driver.js';
import { parseVvfatFilename, vvfatOptions, type VvfatOptions } from './options.js';

export const vvfat: BlockDriver<VvfatOptions> = {
  name: 'vvfat',
  kind: 'protocol',
  options: vvfatOptions,
  children: {},
  protocolPrefixes: ['fat'],
  parseFilename: parseVvfatFilename,
  open: (context) => import('./open.js').then(({ openVvfat }) => openVvfat(context)),
};
