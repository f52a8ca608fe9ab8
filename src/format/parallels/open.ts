/** Opening an image. */
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { run } from '../../util/steps.js';
import { openBundle } from './bundle.js';
import { prepareWriting } from './check.js';
import { isDescriptor } from './descriptor.js';
import { readBitmaps, reservePlaces } from './extension.js';
import { headerSize, parseHeader } from './header.js';
import { ParallelsImage } from './image.js';
import { ParallelsOps } from './ops.js';
import type { ParallelsOptions } from './options.js';

/** Of a descriptor this much is looked at to know it. */
const probedSize = 512;

export async function openParallels(context: OpenContext<ParallelsOptions>): Promise<BlockOps> {
  const file = context.child('file')!;
  const { options, readOnly } = context;
  const head = new Uint8Array(Math.min(probedSize, Math.max(headerSize, file.size)));
  await file.read(0, head);
  if (isDescriptor(head)) return openBundle(file, context);
  const image = new ParallelsImage(file, parseHeader(head), {
    step: options['prealloc-size'] ?? 0, mode: options['prealloc-mode'] === 'falloc' ? 'falloc' : 'off',
  });
  const report = (line: string): void => context.report(line, 'note');
  const backing = await context.implicitChild('backing', { kind: 'backing', filename: '', role: 'cow' });
  const extended = image.header.extensionOffset !== 0;
  const bitmaps = extended && readOnly ? await run(readBitmaps(image)) : [];
  if (!readOnly) {
    if (extended) {
      context.warn('Format Extension ignored in RW mode');
      await run(reservePlaces(image));
    }
    if (!context.mode.check && !context.mode.noIo) await run(prepareWriting(image, report));
  }
  return new ParallelsOps(image, { readOnly, backing, bitmaps, report });
}
