/** Giving a differencing disk another parent, or its parent another name. */
import type { IdentityFacet } from '../../block/facets.js';
import { wait, type Steps } from '../../util/steps.js';
import { sectorSize } from './geometry.js';
import { newDynamicHeader } from './header.js';
import type { SparseImage } from './image.js';
import { roundUp } from './layout.js';
import { newLocators } from './locator.js';

/** The names lie behind the blocks, durably, before the header tells of them. Without an identity the parent is the same, and has moved. */
export function* changeParent(image: SparseImage, filename: string, identity: IdentityFacet | undefined): Steps<void> {
  const { file, header, footer } = image;
  let place = image.end;
  const locators = newLocators(filename).map(({ platform, data }) => {
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
