/** Driver `qcow2`: QEMU's copy-on-write format, versions 2 and 3. */
import type { BlockDriver } from '../../block/driver.js';
import { amendOptions } from './amend.js';
import { createOptions } from './create-options.js';
import { createQcow2 } from './create.js';
import { encryptionFormat } from './encryption.js';
import { probeQcow2 } from './header.js';
import { measureQcow2 } from './measure.js';
import { openQcow2 } from './open.js';
import { openOptions, type Qcow2OpenOptions } from './options.js';
import { streamQcow2 } from './stream.js';

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
  open: openQcow2,
  create: createQcow2,
  stream: streamQcow2,
  measure: measureQcow2,
};
