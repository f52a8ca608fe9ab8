/** Emptying a differencing disk after its content went to the parent. */
import { run, type Steps } from '../../util/steps.js';
import { storeLocator } from './backing.js';
import type { VhdxImage } from './image.js';
import { withLinkage } from './parent.js';
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
  const { geometry, parameters: { parent } } = image;
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
  if (parentGuid !== undefined) yield* storeLocator(image, withLinkage(parent!, parentGuid));
}
