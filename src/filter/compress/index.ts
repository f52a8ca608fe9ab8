/** Driver `compress`: a filter that has everything written through it stored compressed. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { CompressOps } from './ops.js';

export const compress: BlockDriver = {
  name: 'compress',
  kind: 'filter',
  options: {},
  children: { file: { role: 'filtered' } },
  open({ child }) {
    const file = child('file')!;
    const { driver } = file.node;
    if (driver.supportsCompression !== true) {
      throw new BlockError('NOT_SUPPORTED', `Compression is not supported for underlying format: ${driver.name}`);
    }
    return new CompressOps(file);
  },
};
