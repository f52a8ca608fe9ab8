/** Growing and shrinking the guest's disk. */
import { BlockError, Errno } from '../../block/errors.js';
import { wait, type Steps } from '../../util/steps.js';
import { cylindersOf } from './create.js';
import { headerSize, maxTableEntries, sectorSize, tableEnd } from './header.js';
import type { ParallelsImage } from './image.js';

/**
 * Runs inside `image.exclusive`. The header changes last, in one write: until then the old disk is there, whole.
 * @throws BlockError INVALID_ARGUMENT where the format has no room for so many clusters
 */
export function* resizeParallels(image: ParallelsImage, size: number): Steps<void> {
  const sectors = Math.ceil(size / sectorSize);
  const entries = Math.ceil(sectors / image.header.clusterSectors);
  const mostSectors = image.header.countsClusters ? Infinity : 0xffff_ffff;
  if (entries > maxTableEntries || sectors > mostSectors) throw new BlockError('INVALID_ARGUMENT', 'Image size is too large for this cluster size', { errno: Errno.EFBIG });
  yield* image.claim();
  yield* image.flushTables();
  if (sectors < image.header.sectors) yield* cut(image, sectors * sectorSize, entries);
  const start = entries > image.header.tableEntries ? yield* lengthenTable(image, entries) : image.start;
  image.header = {
    ...image.header, sectors, cylinders: cylindersOf(sectors), tableEntries: Math.max(entries, image.header.tableEntries),
    ...(start !== image.start && { dataOffset: start / sectorSize }),
  };
  yield* image.writeHeader();
  image.forgetPages();
  if (start === image.start) return;
  image.start = start;
  image.space = (yield* image.survey()).space;
}

/** Gives up what lies behind the new end. */
function* cut(image: ParallelsImage, size: number, entries: number): Steps<void> {
  const { clusterSize } = image;
  const kept = size % clusterSize;
  const host = kept === 0 ? 0 : yield* image.hostOfNow(entries - 1);
  if (host !== 0) yield* wait(image.file.writeZeroes(host + kept, clusterSize - kept));
  yield* image.unlink(entries, image.header.tableEntries - entries);
  yield* image.flushTables();
}

/** Makes room for a longer table, moving the clusters that are in its way. Returns the byte where data begins then. */
function* lengthenTable(image: ParallelsImage, entries: number): Steps<number> {
  const { clusterSize, start, file } = image;
  const end = tableEnd({ tableEntries: entries }) * sectorSize;
  const clusters = Math.max(0, Math.ceil((end - start) / clusterSize));
  const newStart = start + clusters * clusterSize;
  if (clusters > 0) {
    image.space!.use({ first: 0, count: clusters });
    for (let index = 0; index < image.header.tableEntries; index++) {
      const host = yield* image.hostOfNow(index);
      if (host !== 0 && host < newStart) yield* image.moveCluster(index);
    }
    yield* image.flushTables();
    yield* wait(image.readsSettled());
  }
  if (file.size < newStart) yield* wait(file.resize(newStart, { exact: false }));
  const from = headerSize + image.header.tableEntries * 4;
  yield* wait(file.writeZeroes(from, end - from));
  yield* wait(file.flush());
  return newStart;
}
