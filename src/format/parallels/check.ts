/** Looking for what is wrong with an image, and repairing it. */
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { wait, type Steps } from '../../util/steps.js';
import { sectorSize } from './header.js';
import type { ParallelsImage, Survey } from './image.js';

type Repair = Parameters<CheckFacet['check']>[0]['repair'];

/** Runs inside `image.exclusive`. With 'all' everything found is repaired, with 'leaks' only the file's end. */
export function* checkParallels(image: ParallelsImage, repair: Repair, report: (line: string) => void): Steps<CheckResult> {
  const result: CheckResult = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0, totalClusters: image.header.tableEntries };
  const repairing = repair === 'all';
  const found = (text: string): void => {
    report(`${repairing ? 'Repairing' : 'ERROR'} ${text}`);
    result.corruptions++;
    if (repairing) result.corruptionsFixed++;
  };
  if (repair !== 'none') yield* image.claim();
  if (image.unclean) {
    found('image was not closed correctly');
    if (repairing) image.unclean = false;
  }
  if (!image.startStated) {
    found('data_off field has incorrect value');
    if (repairing) {
      image.header = { ...image.header, dataOffset: image.start / sectorSize };
      image.startStated = true;
      yield* image.writeHeader();
    }
  }
  let survey = yield* image.survey();
  for (const entry of survey.outside) {
    found(`cluster ${entry} is outside image`);
    if (repairing) yield* image.link(entry, 1, 0);
  }
  yield* cutEnd(image, survey, repair, report, result);
  if (repairing) image.space = survey.space;
  for (const entry of survey.duplicates) {
    found(`duplicate offset in BAT entry ${entry}`);
    if (repairing) yield* image.moveCluster(entry);
  }
  if (repairing && survey.duplicates.length + survey.outside.length > 0) {
    yield* image.flushTables();
    survey = yield* image.survey();
  }
  if (repair !== 'none') {
    image.space = survey.space;
    if (image.file.size > survey.end) yield* wait(image.file.resize(survey.end));
  }
  result.corruptions -= result.corruptionsFixed;
  return { ...result, allocatedClusters: survey.allocated, fragmentedClusters: survey.fragmented, imageEndOffset: survey.end };
}

function* cutEnd(image: ParallelsImage, { end }: Survey, repair: Repair, report: (line: string) => void, result: CheckResult): Steps<void> {
  const surplus = Math.ceil(image.file.size / sectorSize) * sectorSize - end;
  if (surplus <= 0) return;
  report(`${repair === 'none' ? 'ERROR' : 'Repairing'} space leaked at the end of the image ${surplus}`);
  const clusters = Math.ceil(surplus / image.clusterSize);
  if (repair === 'none') {
    result.leaks += clusters;
    return;
  }
  yield* wait(image.file.resize(end));
  result.leaksFixed += clusters;
}

/** What opening for writing does: a look at the table, and repairs where it or the header is broken. */
export function* prepareWriting(image: ParallelsImage, report: (line: string) => void): Steps<void> {
  const survey = yield* image.survey();
  if (!image.unclean && image.startStated && survey.outside.length + survey.duplicates.length === 0) {
    image.space = survey.space;
    return;
  }
  try {
    yield* checkParallels(image, 'all', report);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError('CORRUPT_IMAGE', `Could not repair corrupted image: ${strerror(error.errno)}`, { errno: error.context.errno ?? Errno.EIO }, error);
  }
}
