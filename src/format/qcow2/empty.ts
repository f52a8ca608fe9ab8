/** Emptying an image after its content went to the backing file. */
import { run, wait, type Steps } from '../../util/steps.js';
import type { ClusterMap } from './cluster.js';
import type { Qcow2Image } from './image.js';
import { setEntry, writeRefcount, writeU64 } from './tables.js';
import { viewOf } from '../../util/view.js';

/** Gives up all clusters: the backing file shows through everywhere. Other requests must not run meanwhile. */
export async function emptyImage(image: Qcow2Image, clusters: ClusterMap): Promise<void> {
  const { clusterSize, external, l2Coverage } = image.geometry;
  const l1Clusters = Math.ceil(image.header.l1Size * 8 / clusterSize);
  const fits = 3 + l1Clusters <= image.refcounts.perBlock;
  const { version, bitmaps, crypto } = image.header;
  const onlyTables = image.snapshots.entries.length === 0 && bitmaps === undefined && crypto === undefined;
  if (version >= 3 && onlyTables && fits && !external) {
    try {
      await image.exclusive(() => run(startOver(image, l1Clusters)));
    } catch (error) {
      image.abandon();
      throw error;
    }
    return;
  }
  for (let index = 0; index < image.header.l1Size; index++) {
    const start = index * l2Coverage;
    if (image.l2Offset(index) !== 0 && start < image.size) await run(clusters.discard(start, Math.min(l2Coverage, image.size - start), 'snapshot', true));
  }
}

/**
 * Lays the image out anew: header, refcount table, one refcount block, L1 table. The dirty bit, set from the first change to the last,
 * lets the next writer mend what a crash leaves.
 */
function* startOver(image: Qcow2Image, l1Clusters: number): Steps<void> {
  const { file, geometry: { clusterSize, refcountOrder } } = image;
  yield* image.flush();
  yield* image.markDirty(true);
  image.l2.clear();
  image.refcounts.cache.clear();
  yield* wait(image.debug('l1_update'));
  yield* wait(file.write(image.header.l1Offset, new Uint8Array(image.l1.byteLength)));
  for (let index = 0; index < image.header.l1Size; index++) setEntry(image.l1, index, 0, 0);
  yield* wait(file.flush());

  yield* wait(image.debug('empty_image_prepare'));
  const used = 3 + l1Clusters;
  yield* wait(file.write(clusterSize, new Uint8Array((used - 1) * clusterSize)));
  yield* image.updateHeader({ l1Offset: 3 * clusterSize, refcountTableOffset: clusterSize, refcountTableClusters: 1 });
  yield* wait(file.flush());

  yield* wait(image.debug('reftable_update'));
  yield* wait(image.debug('refblock_alloc'));
  const entry = new Uint8Array(8);
  writeU64(viewOf(entry), 0, 2 * clusterSize);
  yield* wait(file.write(clusterSize, entry));
  const block = new Uint8Array(clusterSize);
  for (let cluster = 0; cluster < used; cluster++) writeRefcount(block, cluster, refcountOrder, 1);
  yield* wait(file.write(2 * clusterSize, block));
  yield* wait(file.resize(used * clusterSize, { exact: false }));
  yield* image.reload();
}
