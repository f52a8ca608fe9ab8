/** What a VHDX layer can do beyond requests. */
import type { Facets } from '../../block/facets.js';
import { systemError, Errno } from '../../block/errors.js';
import { changeParent, expectContent } from './backing.js';
import { checkVhdx } from './check.js';
import { emptyVhdx } from './empty.js';
import { writeGuid } from './guid.js';
import type { VhdxImage } from './image.js';
import { parentPath } from './parent.js';
import type { SectorBitmaps } from './sector-bitmaps.js';

/** `parentImage` tells the parent as it is open, where it is a VHDX image itself. */
export function vhdxFacets(image: VhdxImage, bitmaps: SectorBitmaps, parentImage: () => VhdxImage | undefined): Partial<Facets> {
  const { parent } = image.parameters;
  return {
    check: { check: (options) => checkVhdx(image, options) },
    formatInfo: { specific: () => undefined, clusterSize: image.geometry.blockSize, dirty: image.pending !== undefined },
    identity: {
      get id() {
        const id = new Uint8Array(16);
        writeGuid(id, 0, image.header.dataWriteGuid);
        return id;
      },
    },
    ...(parent !== undefined && {
      backing: {
        filename: parentPath(parent), format: 'vhdx', adoptsUnchecked: true,
        change: (filename, format, identity) => {
          if (filename !== undefined && format !== 'vhdx') return Promise.reject(systemError(Errno.EINVAL));
          return changeParent(image, bitmaps, filename === undefined ? undefined : { filename, identity });
        },
        expectChange: async () => {
          const below = parentImage();
          if (below !== undefined) await expectContent(image, below.header.dataWriteGuid, below.nextDataWriteGuid);
        },
      },
      makeEmpty: { makeEmpty: () => emptyVhdx(image, parentImage()?.header.dataWriteGuid) },
    }),
  };
}
