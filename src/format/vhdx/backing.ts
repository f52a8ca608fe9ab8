/** Giving a differencing disk another parent, its parent another name, or no parent at all. */
import { BlockError, Errno } from '../../block/errors.js';
import type { IdentityFacet } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { newGuid, readGuid } from './guid.js';
import type { VhdxImage } from './image.js';
import { linkageKey, metadataSpan, parseMetadata, withLocator } from './metadata.js';
import { newLocator } from './parent.js';
import { giveUpBitmaps, type SectorBitmaps } from './sector-bitmaps.js';
import { payloadIndex, placeOf, State, stateOf } from './tables.js';

/** What identifies the parent of a new locator, where it was looked at; else the parent is the same, and has moved. */
export interface NewParent {
  readonly filename: string;
  readonly identity: IdentityFacet | undefined;
}

/** The locator changes at once, through the log. Without a parent, what it showed reads as zero. Other requests must not run meanwhile. */
export async function changeParent(image: VhdxImage, bitmaps: SectorBitmaps, parent: NewParent | undefined): Promise<void> {
  await image.exclusive(() => run(change(image, bitmaps, parent)));
}

function* change(image: VhdxImage, bitmaps: SectorBitmaps, parent: NewParent | undefined): Steps<void> {
  if (parent === undefined) yield* completeBlocks(image, bitmaps);
  yield* image.writeBack();
  yield* image.updateHeader({ fileWriteGuid: newGuid() });
  const { offset, length } = image.metadataRegion;
  const bytes = new Uint8Array(Math.min(length, metadataSpan));
  yield* wait(image.file.read(offset, bytes));
  const edits = withLocator(bytes, parent && locatorOf(image, parent));
  yield* image.editMetadata(edits.map((edit) => ({ offset: offset + edit.offset, bytes: edit.bytes })));
  image.metadata = parseMetadata(bytes);
  if (parent === undefined) yield* giveUpBitmaps(image, 0, image.size);
}

function locatorOf(image: VhdxImage, { filename, identity }: NewParent): ReadonlyMap<string, string> {
  const linkage = identity === undefined ? image.parameters.parent?.get(linkageKey)?.slice(1, -1) : readGuid(identity.id, 0);
  if (linkage === undefined) throw new BlockError('INVALID_ARGUMENT', 'The VHDX image does not say which content of its parent is meant', { errno: Errno.EINVAL });
  return newLocator(filename, linkage);
}

/** Sectors that are left to the parent become zero where others of their block are here. */
function* completeBlocks(image: VhdxImage, bitmaps: SectorBitmaps): Steps<void> {
  const { geometry, geometry: { blockSize }, file, size } = image;
  for (let block = 0; block * blockSize < size; block++) {
    const index = payloadIndex(geometry, block);
    const entry = yield* image.loadEntry(index);
    if (stateOf(entry) !== State.PARTIALLY_PRESENT) continue;
    yield* image.announceChange();
    for (let at = 0; at < blockSize;) {
      const found = bitmaps.run(block, block * blockSize + at, blockSize - at);
      if (found instanceof Promise) {
        yield* wait(found);
        continue;
      }
      if (!found.present) yield* wait(file.writeZeroes(placeOf(entry) + at, found.length));
      at += found.length;
    }
    yield* image.setEntry(index, placeOf(entry) + State.FULLY_PRESENT);
    if (image.pages.crowded) yield* image.writeBack();
  }
}
