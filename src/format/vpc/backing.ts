/** Giving a differencing disk another parent, its parent another name, or no parent at all. */
import type { IdentityFacet } from '../../block/facets.js';
import { folderOf } from '../../block/filename.js';
import { wait, type Steps } from '../../util/steps.js';
import { sectorSize } from './geometry.js';
import { getBit, runLength, setBits } from './bitmap.js';
import { DiskType, newDynamicHeader, typedFooter } from './header.js';
import type { SparseImage } from './image.js';
import { absent, blockCount, roundUp } from './layout.js';
import { newLocators } from './locator.js';

/** The names lie behind the blocks, durably, before the header tells of them. Without an identity the parent is the same, and has moved. */
export function* changeParent(image: SparseImage, filename: string, identity: IdentityFacet | undefined): Steps<void> {
  const { file, header, footer } = image;
  let place = image.end;
  const locators = newLocators(filename, folderOf(file.node)).map(({ platform, data }) => {
    const offset = place;
    place += roundUp(data.length, sectorSize);
    return { platform, data, offset, length: data.length, space: place - offset };
  });
  for (const { data, offset, space } of locators) {
    const sectors = new Uint8Array(space);
    sectors.set(data);
    yield* wait(file.write(offset, sectors));
  }
  image.extend(place);
  yield* image.flush();
  const next = newDynamicHeader({
    ...header, locators, parentName: filename.slice(filename.lastIndexOf('/') + 1),
    ...(identity && { parentUuid: identity.id, parentTimestamp: identity.timestamp ?? 0 }),
  });
  yield* wait(file.write(footer.dataOffset!, next.bytes));
  yield* wait(file.flush());
  image.header = next;
}

/** Makes a dynamic disk of it: what the parent showed becomes zero. The blocks are whole, durably, before the footer says so. */
export function* dropParent(image: SparseImage): Steps<void> {
  const { file, header, footer, blockSize } = image;
  const sectors = blockSize / sectorSize;
  for (let block = 0; block < blockCount(image.size, blockSize); block++) {
    const entry = yield* image.loadEntry(block);
    if (entry === absent || image.isFull(block)) continue;
    const bitmap = yield* image.bitmaps.load(block * image.bitmapSize);
    for (let at = 0; at < sectors;) {
      const alike = runLength(bitmap.bytes, at, sectors);
      if (!getBit(bitmap.bytes, at)) yield* wait(file.writeZeroes(image.dataOffset(entry) + at * sectorSize, alike * sectorSize));
      at += alike;
    }
    setBits(bitmap.bytes, 0, sectors);
    image.bitmaps.dirty(bitmap);
    if (image.bitmaps.crowded) yield* image.flush();
  }
  yield* image.flush();
  yield* image.writeFooter(typedFooter(footer.bytes, DiskType.DYNAMIC));
  const next = newDynamicHeader({ ...header, locators: [], parentName: '', parentUuid: new Uint8Array(16), parentTimestamp: 0 });
  yield* wait(file.write(footer.dataOffset!, next.bytes));
  yield* wait(file.flush());
  image.header = next;
}
