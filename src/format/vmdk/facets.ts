/** What a disk can do beyond requests. */
import { Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { checkVmdk } from './check.js';
import type { VmdkImage } from './image.js';
import { vmdkInfo } from './info.js';

export function vmdkFacets(image: VmdkImage): Partial<Facets> {
  return {
    check: { check: (options) => checkVmdk(image, options) },
    ...(image.descriptor.parentHint !== undefined && {
      backing: {
        filename: image.descriptor.parentHint,
        format: 'vmdk',
        change: () => Promise.reject(systemError(Errno.ENOTSUP)),
      },
    }),
    get formatInfo() { return vmdkInfo(image); },
  };
}
