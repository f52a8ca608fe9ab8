/** What a qcow2 layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import { amendQcow2 } from './amend.js';
import { qcow2Backing } from './backing.js';
import { checkImage } from './check.js';
import { emptyImage } from './empty.js';
import { qcow2Info } from './info.js';
import type { ResizeParts } from './resize.js';
import { Qcow2Snapshots } from './snapshot.js';

export function qcow2Facets(parts: ResizeParts): Partial<Facets> {
  const { image, bitmaps } = parts;
  return {
    makeEmpty: { makeEmpty: () => emptyImage(image, parts.clusters) },
    check: { check: (options) => checkImage(image, options) },
    snapshots: new Qcow2Snapshots(parts),
    bitmaps,
    amend: { amend: (options, control) => amendQcow2(parts, options, control) },
    backing: qcow2Backing(image),
    get formatInfo() { return qcow2Info(image.header, bitmaps.stored(), image.encryption); },
  };
}
