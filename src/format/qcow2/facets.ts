/** What a qcow2 layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import type { Qcow2Bitmaps } from './bitmap.js';
import { checkImage } from './check.js';
import { qcow2Info } from './info.js';
import type { ResizeParts } from './resize.js';
import { Qcow2Snapshots } from './snapshot.js';

export function qcow2Facets(parts: ResizeParts, bitmaps: Qcow2Bitmaps): Partial<Facets> {
  const { image } = parts;
  return {
    check: { check: (options) => checkImage(image, options) },
    snapshots: new Qcow2Snapshots(parts),
    bitmaps,
    get formatInfo() { return qcow2Info(image.header, bitmaps.stored()); },
  };
}
