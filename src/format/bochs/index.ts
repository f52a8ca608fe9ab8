/** Driver `bochs`: growing disks of the Bochs emulator, to be read. */
import type { BlockDriver } from '../../block/driver.js';
import { assertReadOnly } from '../../block/read-only-format.js';
import { headerSize, isRedolog, parseHeader } from './header.js';
import { BochsOps } from './ops.js';

export const bochs: BlockDriver = {
  name: 'bochs',
  kind: 'format',
  options: {},
  children: { file: { role: 'image' } },
  probe: (head) => (isRedolog(head) ? 100 : 0),
  async open(context) {
    assertReadOnly(context);
    const file = context.child('file')!;
    const head = new Uint8Array(headerSize);
    await file.read(0, head);
    const header = parseHeader(head);
    const catalog = new Uint8Array(Math.max(0, Math.min(header.extents * 4, file.size - header.headerSize)));
    await file.read(header.headerSize, catalog);
    return new BochsOps(file, header, catalog);
  },
};
