/** What is to be said about a qcow2 image beyond what every image has. */
import type { FormatInfoFacet, StoredBitmap } from '../../block/facets.js';
import type { Qcow2Encryption } from './encryption.js';
import { Autoclear, Compatible, CryptMethod, hasFeature, Incompatible, type Qcow2Header } from './header.js';

/** QAPI's ImageInfoSpecificQCow2, and the general flags. `bitmaps`: those stored in the image. */
export function qcow2Info(header: Qcow2Header, bitmaps: readonly StoredBitmap[], encryption?: Qcow2Encryption): FormatInfoFacet {
  const v3 = header.version >= 3;
  const dataFile = hasFeature(header, Incompatible.DATA_FILE);
  const extended = hasFeature(header, Incompatible.EXTENDED_L2);
  const clusterSize = 2 ** header.clusterBits;
  const data = {
    'compat': v3 ? '1.1' : '0.10',
    'compression-type': header.compression,
    ...(v3 && { 'lazy-refcounts': (header.compatible & BigInt(Compatible.LAZY_REFCOUNTS)) !== 0n }),
    'refcount-bits': 2 ** header.refcountOrder,
    ...(v3 && bitmaps.length > 0 && { bitmaps: bitmaps.map(({ flags, name, granularity }) => ({ flags, name, granularity })) }),
    ...(v3 && dataFile && {
      ...(header.dataFile !== undefined && { 'data-file': header.dataFile }),
      'data-file-raw': (header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n,
    }),
    ...(encryption !== undefined && { encrypt: { format: encryption.format, ...encryption.volume?.info() } }),
    ...(v3 && { 'corrupt': hasFeature(header, Incompatible.CORRUPT), 'extended-l2': extended }),
  };
  return {
    specific: () => ({ type: 'qcow2', data }),
    clusterSize,
    ...(extended && { subclusterSize: clusterSize / 32 }),
    get vmStateOffset() {
      const coveredByTable = clusterSize * (clusterSize / (extended ? 16 : 8));
      return Math.ceil(header.size / coveredByTable) * coveredByTable;
    },
    dirty: hasFeature(header, Incompatible.DIRTY),
    encrypted: header.cryptMethod !== CryptMethod.NONE,
    corrupt: hasFeature(header, Incompatible.CORRUPT),
  };
}
