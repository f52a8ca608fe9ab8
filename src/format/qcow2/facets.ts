/** What a qcow2 layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import { checkImage } from './check.js';
import { qcow2Info } from './info.js';
import type { ResizeParts } from './resize.js';
import { Qcow2Snapshots } from './snapshot.js';

export function qcow2Facets(parts: ResizeParts): Partial<Facets> {
  const { image } = parts;
  return {
    check: { check: (options) => checkImage(image, options) },
    snapshots: new Qcow2Snapshots(parts),
    get formatInfo() { return qcow2Info(image.header, []); },
  };
}
