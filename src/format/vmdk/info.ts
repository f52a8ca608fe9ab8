/** What is to be said about a disk beyond what every image has. */
import type { FormatInfoFacet } from '../../block/facets.js';
import type { VmdkImage } from './image.js';

/** QAPI's ImageInfoSpecificVmdk, and the general flags. */
export function vmdkInfo({ descriptor, extents, header }: VmdkImage): FormatInfoFacet {
  const grains = new Set(extents.map(({ grainSize }) => grainSize));
  const [clusterSize] = grains;
  return {
    specific: () => ({
      type: 'vmdk',
      data: {
        'cid': descriptor.cid,
        'parent-cid': descriptor.parentCid,
        'create-type': descriptor.createType,
        'extents': extents.flatMap((extent) => (extent.file === undefined ? [] : [{
          ...(extent.compressed && { compressed: true }),
          'virtual-size': extent.size,
          'filename': extent.file.node.filename,
          ...(extent.grainSize !== undefined && { 'cluster-size': extent.grainSize }),
          'format': extent.type,
        }])),
      },
    }),
    ...(grains.size === 1 && clusterSize !== undefined && { clusterSize }),
    dirty: header?.unclean === true,
    needsCompressedWrites: extents.length === 1 && extents[0]!.compressed,
  };
}
