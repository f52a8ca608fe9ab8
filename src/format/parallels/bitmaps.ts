/** Stored dirty bitmaps, which are there to be read. */
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import type { BitmapFacet } from '../../block/facets.js';

export function storedBitmaps(bitmaps: readonly DirtyBitmap[]): BitmapFacet {
  return {
    attach(live) {
      for (const bitmap of bitmaps) live.set(bitmap.name, bitmap);
    },
    list: () => Promise.resolve(bitmaps.map(({ name, granularity }) => ({ name, granularity, flags: [], inconsistent: false }))),
    remove: () => Promise.reject(new BlockError('NOT_SUPPORTED', 'Bitmaps of Parallels images cannot be changed')),
  };
}
