/** Driver `blkverify`: writes to an image and to a raw copy, and fails where reads of the two differ. Test equipment. */
import type { BlockDriver } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { BlkverifyOps } from './ops.js';

export const blkverify: BlockDriver = {
  name: 'blkverify',
  kind: 'filter',
  options: {},
  children: { raw: { role: 'filtered' }, test: { role: 'data', probed: true } },
  protocolPrefixes: ['blkverify'],
  parseFilename(filename) {
    if (!filename.startsWith('blkverify:')) return { test: { file: { filename } } };
    const [, raw, test] = /^blkverify:([^:]*):(.*)$/s.exec(filename) ?? [];
    if (raw === undefined || test === undefined) throw new BlockError('INVALID_ARGUMENT', 'blkverify requires raw copy and original image path', { filename });
    return { raw: { filename: raw }, test: { file: { filename: test } } };
  },
  open: ({ child }) => new BlkverifyOps(child('test')!, child('raw')!),
};
