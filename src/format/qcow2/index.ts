/** Driver `qcow2`: QEMU's copy-on-write format, versions 2 and 3. */
import type { BlockDriver } from '../../block/driver.js';
import { amendOptions } from './amend.js';
import { createOptions } from './create-options.js';
import { encryptionFormat } from './encryption.js';
import { probeQcow2 } from './header.js';
import { openOptions, type Qcow2OpenOptions } from './options.js';

export const qcow2: BlockDriver<Qcow2OpenOptions> = {
  name: 'qcow2',
  kind: 'format',
  options: openOptions,
  createOptions,
  amendOptions,
  children: { file: { role: 'image' }, backing: { role: 'cow', optional: true }, 'data-file': { role: 'data', optional: true } },
  beyondPeer: ['encrypted-only'],
  supportsBacking: true,
  supportsCompression: true,
  supportsBitmaps: true,
  probe: probeQcow2,
  // Room given in advance decrypts to noise.
  newReadsAsZero: (options) => (encryptionFormat(options) !== undefined && (options['preallocation'] ?? 'off') !== 'off' ? false : undefined),
  open: (context) => import('./open.js').then(({ openQcow2 }) => openQcow2(context)),
  create: (...request) => import('./create.js').then(({ createQcow2 }) => createQcow2(...request)),
  stream: (...request) => import('./stream.js').then(({ streamQcow2 }) => streamQcow2(...request)),
  measure: (...request) => import('./measure.js').then(({ measureQcow2 }) => measureQcow2(...request)),
};
