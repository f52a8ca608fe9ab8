/** Driver `raw`: the bytes of a file, or of a part of it, as they are. */
import type { BlockDriver } from '../../block/driver.js';
import { measured, readUnits } from '../../block/stream.js';
import { RawOps, roundToSector, type RawOptions } from './ops.js';

export const raw: BlockDriver<RawOptions> = {
  name: 'raw',
  kind: 'format',
  options: {
    offset: { type: 'size', mutable: true, help: 'First byte of the disk within the file' },
    size: { type: 'size', mutable: true, help: 'Size of the disk within the file' },
  },
  createOptions: { size: { type: 'size', help: 'Virtual disk size' } },
  children: { file: { role: 'filtered' } },
  probe: () => 1,
  open(context) {
    const file = context.child('file')!;
    const { options, mode, readOnly } = context;
    if (mode.probed && !readOnly) {
      context.warn(`WARNING: Image format was not specified for '${file.node.filename}' and probing guessed raw.\n`
        + '         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n'
        + "         Specify the 'raw' format explicitly to remove the restrictions.");
    }
    return new RawOps(file, options, readOnly, mode.probed ? (head) => context.probe(head) !== 'raw' : undefined);
  },
  async create(target, { size }) {
    const bytes = roundToSector(size);
    if (target.size !== bytes) await target.resize(bytes, { exact: false });
  },
  stream(source) {
    const length = roundToSector(source.size);
    return Promise.resolve(measured({ length, chunks: () => readUnits(source, 512, [{ first: 0, count: length / 512 }]) }));
  },
  measure(source, { size }) {
    const bytes = roundToSector(source?.size ?? size ?? 0);
    return Promise.resolve({ required: bytes, fullyAllocated: bytes });
  },
};
