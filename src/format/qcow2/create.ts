/** Laying a new, empty image on a file. */
import type { BlockBackend } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { parseCreateOptions, type NewImage, type OptionValues } from './create-options.js';
import { setUpEncryption } from './encryption.js';
import { Autoclear, Compatible, CryptMethod, Incompatible, l1EntriesFor, maxL1Bytes, serialiseHeader, type Qcow2Header } from './header.js';
import { Qcow2Ops } from './ops.js';
import { writeRefcount, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

/**
 * Lays an empty image on `target`. It starts as one of size 0 (header, refcount table, one refcount block) and is then grown as any
 * image is, so that everything comes to lie where the peer puts it.
 * @throws BlockError with the peer's text
 */
export async function createQcow2(target: BlockBackend, options: OptionValues & { readonly size: number }, context: CreateContext): Promise<void> {
  const image = parseCreateOptions(options);
  if (options.size >= 2 ** 63) throw new BlockError('INVALID_ARGUMENT', 'Could not resize image: Image size cannot be negative', { errno: Errno.EINVAL });
  const size = Math.ceil(options.size / 512) * 512;
  if (l1EntriesFor(size, image.clusterBits, image.extendedL2) * 8 > maxL1Bytes) {
    throw new BlockError('INVALID_ARGUMENT', "The image size is too large for file format 'qcow2' (try using a larger cluster size)", { errno: Errno.EFBIG });
  }
  const dataFile = image.dataFile === undefined ? undefined : await context.createFile(image.dataFile);
  await dataFile?.close();

  const clusterSize = 2 ** image.clusterBits;
  const table = new Uint8Array(clusterSize);
  writeU64(viewOf(table), 0, 2 * clusterSize);
  const block = new Uint8Array(clusterSize);
  for (let cluster = 0; cluster < 3; cluster++) writeRefcount(block, cluster, image.refcountOrder, 1);
  await target.resize(3 * clusterSize, { exact: false });
  await target.write(0, serialiseHeader(newHeader(image)));
  await target.write(clusterSize, table);
  await target.write(2 * clusterSize, block);

  const opened = await context.openTarget();
  try {
    await opened.resize(size, { preallocation: image.preallocation }).catch((error: unknown) => {
      throw error instanceof BlockError ? new BlockError(error.code, `Could not resize image: ${error.message}`, error.context, error) : error;
    });
    if (opened.node.ops instanceof Qcow2Ops) await setUpEncryption(opened.node.ops.image, options, context);
  } finally {
    await opened.close();
  }
}

/** The header of an image of size 0. */
export function newHeader(image: NewImage): Qcow2Header {
  const clusterSize = 2 ** image.clusterBits;
  const incompatible = (image.dataFile === undefined ? 0 : Incompatible.DATA_FILE)
    | (image.compression === 'zlib' ? 0 : Incompatible.COMPRESSION) | (image.extendedL2 ? Incompatible.EXTENDED_L2 : 0);
  return {
    version: image.version, clusterBits: image.clusterBits, size: 0, cryptMethod: CryptMethod.NONE, l1Size: 0, l1Offset: 0,
    refcountTableOffset: clusterSize, refcountTableClusters: 1, snapshotCount: 0, snapshotsOffset: 0,
    incompatible: BigInt(incompatible), compatible: BigInt(image.lazyRefcounts ? Compatible.LAZY_REFCOUNTS : 0),
    autoclear: BigInt(image.dataFileRaw ? Autoclear.DATA_FILE_RAW : 0), refcountOrder: image.refcountOrder, compression: image.compression,
    backingFile: image.backingFile, backingFormat: image.backingFormat, dataFile: image.dataFile, bitmaps: undefined, crypto: undefined,
    unknownExtensions: [], unknownFields: new Uint8Array(),
  };
}
