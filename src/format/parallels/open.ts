/** Opening an image. */
import type { BlockOps, OpenContext } from '../../block/driver.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { run, type Steps } from '../../util/steps.js';
import { ParallelsBitmaps } from './bitmaps.js';
import { openBundle } from './bundle.js';
import { prepareWriting } from './check.js';
import { isDescriptor } from './descriptor.js';
import { readBitmaps, readKeptBitmaps } from './extension.js';
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
  const bitmaps = await run(openBitmaps(image, context));
  if (!readOnly && !context.mode.check && !context.mode.noIo) await run(prepareWriting(image, report));
  return new ParallelsOps(image, { readOnly, backing, bitmaps: new ParallelsBitmaps(image, bitmaps, readOnly), report });
}

function* openBitmaps(image: ParallelsImage, { readOnly, warn }: Pick<OpenContext<ParallelsOptions>, 'readOnly' | 'warn'>): Steps<DirtyBitmap[]> {
  if (image.header.extensionOffset === 0) return [];
  if (readOnly) return yield* readBitmaps(image);
  const { bitmaps, complete } = yield* readKeptBitmaps(image);
  if (!complete) warn('Format Extension ignored in RW mode');
  return bitmaps;
}
