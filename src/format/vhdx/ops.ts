/** Requests on an open image. */
import type { BlockChild } from '../../block/child.js';
import { Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { MappedFormat, type Allocation, type AskAgain, type HostRun } from '../../block/mapped-format.js';
import { andThen, isPromise, type MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { vhdxFacets } from './facets.js';
import { growsZeroed } from './grows-zeroed.js';
import { nilGuid } from './guid.js';
import type { VhdxImage } from './image.js';
import { applyUpdates } from './log.js';
import { resizeVhdx } from './resize.js';
import { SectorBitmaps } from './sector-bitmaps.js';
import { payloadIndex, placeOf, State, stateOf } from './tables.js';

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: false,
});
const readOnly: Capabilities = Object.freeze({ ...writable, write: false, discard: false, resize: 'none' });

/** What an entry of the table comes to for who reads. */
type Meaning = 'data' | 'partial' | 'zero' | 'backing';

const meanings: Readonly<Record<number, Meaning>> = {
  [State.NOT_PRESENT]: 'backing', [State.UNDEFINED]: 'zero', [State.ZERO]: 'zero', [State.UNMAPPED]: 'zero', [State.UNMAPPED_OLD]: 'zero',
  [State.FULLY_PRESENT]: 'data', [State.PARTIALLY_PRESENT]: 'partial',
};

export class VhdxOps extends MappedFormat {
  readonly image: VhdxImage;
  override readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected override readonly cow: BlockChild | undefined;
  readonly #bitmaps: SectorBitmaps;
  readonly #facets: Partial<Facets>;
  /** New room behind the end of the file reads as zero. */
  readonly growsZeroed: boolean;

  constructor(image: VhdxImage, parent: BlockChild | undefined) {
    super();
    this.image = image;
    this.cow = parent;
    this.clusterSize = image.geometry.blockSize;
    const { blockSize, sectorSize } = image.geometry;
    this.limits = {
      ...unlimited, requestAlignment: image.hasParent ? sectorSize : 1, writeZeroesAlignment: blockSize, discardAlignment: blockSize,
    };
    this.#bitmaps = new SectorBitmaps(image);
    this.growsZeroed = growsZeroed(image.file.node);
    image.readsSettled = () => this.readsSettled();
    this.#facets = vhdxFacets(image, this.#bitmaps, () => (parent?.node.ops instanceof VhdxOps ? parent.node.ops.image : undefined));
  }

  get size(): number {
    return this.image.size;
  }

  get capabilities(): Capabilities {
    return this.image.readOnly ? readOnly : writable;
  }

  protected override get zeroUnit(): number {
    return this.image.geometry.sectorSize;
  }

  // -- Where bytes live --------------------------------------------------------------------------------------------------------

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const block = Math.floor(offset / this.clusterSize);
    const entry = this.#entry(block);
    if (typeof entry !== 'number') return entry;
    const meaning = this.#meaning(entry, block);
    if (meaning === 'partial') return this.#mapPartial(block, entry, offset, length);
    const bytes = this.#follow(block, entry, meaning, offset + length) - offset;
    switch (meaning) {
      case 'zero': return { kind: 'zero', length: bytes, allocated: true };
      case 'backing': return { kind: 'backing', length: bytes };
      case 'data': return this.#dataAt(placeOf(entry) + offset - block * this.clusterSize, bytes);
    }
  }

  /** Sectors of a block that has some here and some in the parent. */
  #mapPartial(block: number, entry: number, offset: number, length: number): LayerExtent | AskAgain {
    const found = this.#bitmaps.run(block, offset, Math.min(length, (block + 1) * this.clusterSize - offset));
    if (found instanceof Promise) return found;
    if (!found.present) return { kind: 'backing', length: found.length };
    return this.#dataAt(placeOf(entry) + offset - block * this.clusterSize, found.length);
  }

  #dataAt(place: number, length: number): LayerExtent {
    const { file, pending } = this.image;
    if (pending?.updates.some((update) => update.offset < place + length && place < update.offset + update.length)) return { kind: 'data', length };
    return { kind: 'data', length, host: { child: file, offset: place }, recurse: true };
  }

  /** Data that a log not yet applied changes. */
  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    const block = Math.floor(offset / this.clusterSize);
    const inBlock = Math.min(target.length, (block + 1) * this.clusterSize - offset);
    const part = target.subarray(0, inBlock);
    return andThen(run(this.image.loadEntry(payloadIndex(this.image.geometry, block))), (entry) => {
      const place = placeOf(entry) + offset - block * this.clusterSize;
      return andThen(this.image.file.read(place, part), () => {
        applyUpdates(this.image.pending?.updates ?? [], place, part);
        return inBlock === target.length ? undefined : this.readEncoded(offset + inBlock, target.subarray(inBlock));
      });
    });
  }

  /** How far (at most to `end`) the blocks go on like this one, as far as the table is at hand. */
  #follow(block: number, entry: number, meaning: Meaning, end: number): number {
    const { image, clusterSize } = this;
    let at = (block + 1) * clusterSize;
    for (let next = block + 1; at < end; next++, at += clusterSize) {
      const following = image.entry(payloadIndex(image.geometry, next));
      if (following === undefined || meanings[stateOf(following)] !== meaning) break;
      if (meaning !== 'data') continue;
      if (placeOf(following) !== placeOf(entry) + at - block * clusterSize) break;
      this.#meaning(following, next);
    }
    return Math.min(at, end);
  }

  /** The entry of a block, or the loading of its page. */
  #entry(block: number): number | AskAgain {
    const { image } = this;
    const index = payloadIndex(image.geometry, block);
    const entry = image.entry(index);
    if (entry !== undefined) return entry;
    const loading = image.fetchEntry(index);
    return isPromise(loading) ? loading : image.entry(index)!;
  }

  /** @throws BlockError where the entry makes no sense */
  #meaning(entry: number, block: number): Meaning {
    const { image } = this;
    const meaning = meanings[stateOf(entry)];
    if (meaning === undefined || (meaning === 'partial' && !image.hasParent)) throw this.#damaged(block);
    if (meaning === 'data' || meaning === 'partial') {
      const place = placeOf(entry);
      const needed = Math.min(this.clusterSize, image.size - block * this.clusterSize);
      if (place === 0 || place + needed > image.fileSize) throw this.#damaged(block);
    }
    return meaning;
  }

  #damaged(block: number): BlockError {
    return new BlockError('CORRUPT_IMAGE', systemError(Errno.EIO).message, { driver: 'vhdx', offset: block * this.clusterSize, errno: Errno.EIO });
  }

  // -- Writing -----------------------------------------------------------------------------------------------------------------

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    const announced = this.image.beforeChange();
    if (isPromise(announced)) return announced;
    const extent = this.map(offset, length);
    if (extent instanceof Promise) return extent;
    return extent.kind === 'data' ? { ...extent.host!, length: extent.length } : undefined;
  }

  protected allocate(offset: number, length: number): MaybePromise<Allocation> {
    return this.image.exclusive(() => run(this.#allocate(offset, length)));
  }

  *#allocate(offset: number, length: number): Steps<Allocation> {
    const { image, clusterSize } = this;
    const { file, geometry } = image;
    const block = Math.floor(offset / clusterSize);
    const within = offset - block * clusterSize;
    const inBlock = Math.min(length, clusterSize - within);
    const entry = yield* image.loadEntry(payloadIndex(geometry, block));
    const meaning = this.#meaning(entry, block);
    const done = (): MaybePromise<void> => undefined;
    if (meaning === 'data') {
      return { child: file, offset: placeOf(entry) + within, length: inBlock, padBefore: 0, padAfter: 0, commit: done, cancel: done };
    }
    if (meaning === 'partial') {
      return {
        child: file, offset: placeOf(entry) + within, length: inBlock, padBefore: 0, padAfter: 0, cancel: done,
        commit: () => image.exclusive(() => run(this.#bitmaps.set(block, offset, inBlock))),
      };
    }
    const shared = meaning === 'backing' && image.hasParent;
    if (shared && inBlock < Math.min(clusterSize, image.size - block * clusterSize)) return yield* this.#newPartial(block, offset, inBlock);
    const end = yield* this.#newBlocksEnd(block, offset + length, shared);
    const count = end - block;
    const room = yield* image.newRoom(clusterSize, count);
    const bytes = Math.min(length, end * clusterSize - offset);
    const zeroed = room.fresh && this.growsZeroed;
    return {
      child: file, offset: room.offset + within, length: bytes,
      padBefore: zeroed ? 0 : within, padAfter: zeroed ? 0 : count * clusterSize - within - bytes,
      commit: () => image.exclusive(() => run(this.#show(block, count, room.offset))),
      cancel: () => image.space.give(room.offset, clusterSize, count),
    };
  }

  /** Block behind the last of those that get new room together: none is here yet, and those with a parent are covered whole. */
  *#newBlocksEnd(first: number, end: number, shared: boolean): Steps<number> {
    const { image, clusterSize } = this;
    let block = first + 1;
    for (; block * clusterSize < end; block++) {
      const entry = yield* image.loadEntry(payloadIndex(image.geometry, block));
      const meaning = this.#meaning(entry, block);
      const inherits = meaning === 'backing' && image.hasParent;
      if (meaning === 'data' || meaning === 'partial' || inherits !== shared) break;
      if (shared && end < Math.min((block + 1) * clusterSize, image.size)) break;
    }
    return block;
  }

  *#show(block: number, count: number, place: number): Steps<void> {
    for (let index = 0; index < count; index++) {
      yield* this.image.setEntry(payloadIndex(this.image.geometry, block + index), place + index * this.clusterSize + State.FULLY_PRESENT);
    }
  }

  /** Room for a block of which only the sectors written come to lie here. */
  *#newPartial(block: number, offset: number, length: number): Steps<Allocation> {
    const { image, clusterSize } = this;
    yield* this.#bitmaps.provide(block);
    const room = yield* image.newRoom(clusterSize, 1);
    return {
      child: image.file, offset: room.offset + offset - block * clusterSize, length, padBefore: 0, padAfter: 0,
      commit: () => image.exclusive(() => run(this.#showPartial(block, room.offset, offset, length))),
      cancel: () => image.space.give(room.offset, clusterSize),
    };
  }

  *#showPartial(block: number, place: number, offset: number, length: number): Steps<void> {
    yield* this.#bitmaps.clear(block);
    yield* this.#bitmaps.set(block, offset, length);
    yield* this.image.setEntry(payloadIndex(this.image.geometry, block), place + State.PARTIALLY_PRESENT);
  }

  // -- Zeroing and discarding --------------------------------------------------------------------------------------------------

  protected override zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return andThen(this.image.beforeChange(), () => run(this.#eachBlock(offset, length, (block, start, bytes) => this.#zeroInBlock(block, start, bytes, flags))));
  }

  protected override unmap(offset: number, length: number): MaybePromise<void> {
    return andThen(this.image.beforeChange(), () => run(this.#eachBlock(offset, length, (block, start, bytes) => this.#unmapBlock(block, start, bytes))));
  }

  *#eachBlock(offset: number, length: number, each: (block: number, offset: number, length: number) => Steps<void>): Steps<void> {
    for (let at = offset; at < offset + length;) {
      const block = Math.floor(at / this.clusterSize);
      const start = at;
      const bytes = Math.min(offset + length, (block + 1) * this.clusterSize) - at;
      yield* wait(this.image.exclusive(() => run(each(block, start, bytes))));
      at += bytes;
    }
  }

  *#zeroInBlock(block: number, offset: number, length: number, flags: number): Steps<void> {
    const { image, clusterSize } = this;
    const index = payloadIndex(image.geometry, block);
    const entry = yield* image.loadEntry(index);
    const meaning = this.#meaning(entry, block);
    const whole = length >= Math.min(clusterSize, image.size - block * clusterSize);
    if (meaning === 'data' && !(whole && this.#mayFree(flags))) {
      yield* wait(image.file.writeZeroes(placeOf(entry) + offset - block * clusterSize, length, flags & (Req.NO_FALLBACK | Req.MAY_UNMAP)));
      return;
    }
    if (meaning === 'backing' && !image.hasParent) return;
    if (meaning === 'zero' && (stateOf(entry) === State.ZERO || !whole)) return;
    if (!whole) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    yield* image.setEntry(index, State.ZERO);
    if (meaning === 'data' || meaning === 'partial') image.release(placeOf(entry), clusterSize);
  }

  #mayFree(flags: number): boolean {
    return (flags & Req.MAY_UNMAP) !== 0 && !this.image.parameters.fixed;
  }

  *#unmapBlock(block: number, offset: number, length: number): Steps<void> {
    const { image, clusterSize } = this;
    const index = payloadIndex(image.geometry, block);
    const entry = yield* image.loadEntry(index);
    const meaning = this.#meaning(entry, block);
    if (meaning === 'data' && image.parameters.fixed) {
      yield* wait(image.file.discard(placeOf(entry) + offset - block * clusterSize, length));
      return;
    }
    if (meaning === 'zero' || (meaning === 'backing' && !image.hasParent)) return;
    yield* image.setEntry(index, State.ZERO);
    if (meaning !== 'backing') image.release(placeOf(entry), clusterSize);
  }

  // -- The rest ----------------------------------------------------------------------------------------------------------------

  override flush(): MaybePromise<void> {
    return this.image.readOnly ? undefined : this.image.flush();
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return resizeVhdx(this, size, options);
  }

  override async reopen({ readOnly: becomesReadOnly }: { readonly readOnly: boolean }): Promise<void> {
    const { image } = this;
    if (becomesReadOnly === image.readOnly) return;
    if (becomesReadOnly) await image.exclusive(() => run(image.settle()));
    else if (image.header.logGuid !== nilGuid) await run(image.replay());
    image.readOnly = becomesReadOnly;
  }

  async close(): Promise<void> {
    await this.image.exclusive(() => run(this.image.settle()));
  }
}
