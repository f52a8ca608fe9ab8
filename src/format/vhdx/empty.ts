/** Emptying a differencing disk after its content went to the parent. */
import { run, type Steps } from '../../util/steps.js';
import type { VhdxImage } from './image.js';
import { linkageKey } from './metadata.js';
import { linkageOf } from './parent.js';
import { payloadIndex, placeOf, State, stateOf } from './tables.js';

/**
 * Gives up all blocks: the parent shows through everywhere. Other requests must not run meanwhile.
 * @param parentGuid identity of the parent's content, which was changed by what went there: it is the expected one from now on
 */
export async function emptyVhdx(image: VhdxImage, parentGuid: string | undefined): Promise<void> {
  await image.beforeChange();
  await image.exclusive(() => run(empty(image, parentGuid)));
}

function* empty(image: VhdxImage, parentGuid: string | undefined): Steps<void> {
  const { geometry, metadata: { linkageAt, parameters } } = image;
  const blocks = Math.ceil(image.size / geometry.blockSize);
  for (let block = 0; block < blocks; block++) {
    const index = payloadIndex(geometry, block);
    const entry = yield* image.loadEntry(index);
    if (stateOf(entry) === State.NOT_PRESENT) continue;
    yield* image.setEntry(index, State.NOT_PRESENT);
    if (stateOf(entry) >= State.FULLY_PRESENT) image.release(placeOf(entry), geometry.blockSize);
    if (image.pages.crowded) yield* image.writeBack();
  }
  yield* image.writeBack();
  if (parentGuid === undefined || linkageAt === undefined) return;
  const linkage = linkageOf(parentGuid);
  const bytes = new Uint8Array(2 * linkage.length);
  for (let unit = 0; unit < linkage.length; unit++) bytes[2 * unit] = linkage.charCodeAt(unit);
  yield* image.editMetadata([{ offset: image.metadataRegion.offset + linkageAt, bytes }]);
  image.metadata = { ...image.metadata, parameters: { ...parameters, parent: new Map([...parameters.parent ?? [], [linkageKey, linkage]]) } };
}
