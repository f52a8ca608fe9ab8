/** What a VHDX layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import { systemError, Errno } from '../../block/errors.js';
import { checkVhdx } from './check.js';
import { emptyVhdx } from './empty.js';
import type { VhdxImage } from './image.js';
import { parentPath } from './parent.js';

/** `parentGuid` tells the identity of the parent's content, where it is known. */
export function vhdxFacets(image: VhdxImage, parentGuid: () => string | undefined): Partial<Facets> {
  const { parent } = image.parameters;
  return {
    check: { check: (options) => checkVhdx(image, options) },
    formatInfo: { specific: () => undefined, clusterSize: image.geometry.blockSize, dirty: image.pending !== undefined },
    ...(parent !== undefined && {
      backing: {
        filename: parentPath(parent), format: 'vhdx',
        change: () => Promise.reject(systemError(Errno.ENOTSUP)),
      },
      makeEmpty: { makeEmpty: () => emptyVhdx(image, parentGuid()) },
    }),
  };
}
