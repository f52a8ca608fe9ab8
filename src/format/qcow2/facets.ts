/** What a qcow2 layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import { checkImage } from './check.js';
import { qcow2Info } from './info.js';
import type { ResizeParts } from './resize.js';

export function qcow2Facets({ image }: ResizeParts): Partial<Facets> {
  return {
    check: { check: (options) => checkImage(image, options) },
    get formatInfo() { return qcow2Info(image.header, []); },
  };
}
