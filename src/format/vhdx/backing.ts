/** Giving a differencing disk another parent, its parent another name, or no parent at all. */
import { BlockError, Errno } from '../../block/errors.js';
import type { IdentityFacet } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { newGuid, readGuid } from './guid.js';
import type { VhdxImage } from './image.js';
import { metadataSpan, parseMetadata, withLocator } from './metadata.js';
import { linkageKey, newLocator, renamedLocator, withLinkage } from './parent.js';
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
  yield* storeLocator(image, parent && locatorOf(image, parent));
  if (parent === undefined) yield* giveUpBitmaps(image, 0, image.size);
}

/** Before the parent's content becomes `next`, which the parent's image says of itself: the child opens over either. `next` comes first, for readers that look no further. */
export async function expectContent(image: VhdxImage, current: string, next: string): Promise<void> {
  await image.exclusive(() => run(expect(image, withLinkage(image.parameters.parent!, next, current))));
}

function* expect(image: VhdxImage, locator: ReadonlyMap<string, string>): Steps<void> {
  yield* storeLocator(image, locator);
  yield* image.settle();
}

/** All of the new locator takes the place of the former one, durably, or nothing. */
export function* storeLocator(image: VhdxImage, locator: ReadonlyMap<string, string> | undefined): Steps<void> {
  yield* image.updateHeader({ fileWriteGuid: newGuid() });
  const { offset, length } = image.metadataRegion;
  const bytes = new Uint8Array(Math.min(length, metadataSpan));
  yield* wait(image.file.read(offset, bytes));
  const edits = withLocator(bytes, locator);
  yield* image.editMetadata(edits.map((edit) => ({ offset: offset + edit.offset, bytes: edit.bytes })));
  image.metadata = parseMetadata(bytes);
}

function locatorOf(image: VhdxImage, { filename, identity }: NewParent): ReadonlyMap<string, string> {
  if (identity !== undefined) return newLocator(filename, readGuid(identity.id, 0));
  const locator = renamedLocator(image.parameters.parent!, filename);
  if (!locator.has(linkageKey)) throw new BlockError('INVALID_ARGUMENT', 'The VHDX image does not say which content of its parent is meant', { errno: Errno.EINVAL });
  return locator;
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
