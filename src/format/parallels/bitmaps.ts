/**
 * Stored dirty bitmaps: read at open, written back at close by whoever changed anything. In between the image names no extension: the
 * first change takes it away, durably, so that a crash leaves no bitmap rather than one that missed a write.
 */
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import type { BitmapFacet, StoredBitmap } from '../../block/facets.js';
import type { Steps } from '../../util/steps.js';
import { writeExtension } from './extension.js';
import type { ParallelsImage } from './image.js';

export class ParallelsBitmaps implements BitmapFacet {
  readonly #image: ParallelsImage;
  /** What was read at open, until the node takes it over; then the node's own. */
  #live: Map<string, DirtyBitmap>;
  /** The bitmaps on disk, each with its revision there. */
  #stored: ReadonlyMap<DirtyBitmap, number>;

  constructor(image: ParallelsImage, bitmaps: readonly DirtyBitmap[], readOnly: boolean) {
    this.#image = image;
    this.#live = new Map(bitmaps.map((bitmap) => [bitmap.name, bitmap]));
    this.#stored = revisions(bitmaps);
    this.follow(readOnly);
  }

  attach(live: Map<string, DirtyBitmap>): void {
    for (const [name, bitmap] of this.#live) live.set(name, bitmap);
    this.#live = live;
  }

  list(): Promise<readonly StoredBitmap[]> {
    return Promise.resolve([...this.#stored.keys()].map(({ name, granularity }) => ({ name, granularity, flags: [], inconsistent: false })));
  }

  /** The node forgets the bitmap, and {@link store} finds it gone. */
  remove(): Promise<void> {
    return Promise.resolve();
  }

  /** Under an image that is opened read-only nothing is recorded. */
  follow(readOnly: boolean): void {
    for (const bitmap of this.#kept()) Object.assign(bitmap, { readOnly, enabled: !readOnly });
  }

  /**
   * Writes the bitmaps to new clusters, for the header that ends the image's use to name. One that stopped recording is left out: the
   * format cannot tell it from one that is complete.
   * @throws BlockError where there is no room; the bitmaps are lost then
   */
  *store(): Steps<void> {
    const image = this.#image;
    const bitmaps = this.#kept().filter(({ recording }) => recording);
    const current = revisions(bitmaps);
    const changed = current.size !== this.#stored.size || [...current].some(([bitmap, revision]) => this.#stored.get(bitmap) !== revision);
    if (!image.claimed && !changed) return;
    yield* image.claim();
    this.#stored = new Map();
    if (bitmaps.length === 0) return;
    try {
      yield* writeExtension(image, bitmaps);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      throw new BlockError(error.code, `Lost persistent bitmaps during inactivation: ${error.message}`, error.context, error);
    }
    this.#stored = current;
  }

  #kept(): DirtyBitmap[] {
    return [...this.#live.values()].filter(({ persistent }) => persistent);
  }
}

function revisions(bitmaps: readonly DirtyBitmap[]): ReadonlyMap<DirtyBitmap, number> {
  return new Map(bitmaps.map((bitmap) => [bitmap, bitmap.revision]));
}
