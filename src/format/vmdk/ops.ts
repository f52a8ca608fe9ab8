/** The open layer: requests on one side, extents on the other. */
import type { BlockChild } from '../../block/child.js';
import { Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type OpenContext, type ResizeOptions } from '../../block/driver.js';
import { Errno, systemError, type BlockError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { MappedFormat, settled, type Allocation, type AskAgain, type HostRun } from '../../block/mapped-format.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import type { Extent } from './extent.js';
import { vmdkFacets } from './facets.js';
import { growDisk } from './grow.js';
import type { VmdkImage } from './image.js';

/** What of a range lies in one extent: from `within` there, from `start` on the disk. */
interface Piece { readonly extent: Extent; readonly within: number; readonly start: number; readonly length: number }

export class VmdkOps extends MappedFormat {
  readonly image: VmdkImage;
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected readonly cow: BlockChild | undefined;
  readonly #context: OpenContext<object>;
  readonly #facets: Partial<Facets>;
  readonly #mutex = new Mutex();
  #readOnly: boolean;
  readonly #refusal: BlockError | undefined;
  /** Streams are of a piece. */
  readonly #growable: boolean;
  /** This writer has announced itself. */
  #begun = false;

  /** `refusal`: why the disk can only be read. */
  constructor(image: VmdkImage, context: OpenContext<object>, refusal?: BlockError) {
    super();
    this.image = image;
    this.#context = context;
    this.cow = image.backing;
    this.clusterSize = image.lockUnit;
    this.#readOnly = context.readOnly;
    this.#refusal = refusal;
    this.#growable = image.extents.length > 0 && !image.extents.some(({ compressed }) => compressed);
    const grains = image.extents.flatMap(({ grainSize }) => grainSize ?? []);
    this.limits = grains.length === 0 ? unlimited : { ...unlimited, writeZeroesAlignment: Math.max(...grains) };
    this.#facets = vmdkFacets(image, (change) => this.#mutex.run(change));
  }

  get size(): number {
    return this.image.size;
  }

  get capabilities(): Capabilities {
    return this.#readOnly ? readOnly : this.#growable && !this.image.isChild ? growing : fixed;
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const { extents, starts } = this.image;
    const index = starts.length === 1 ? 0 : this.image.extentAt(offset);
    const within = offset - starts[index]!;
    return extents[index]!.map(within, Math.min(length, extents[index]!.size - within));
  }

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    const { extents, starts } = this.image;
    const index = starts.length === 1 ? 0 : this.image.extentAt(offset);
    const within = offset - starts[index]!;
    return extents[index]!.writable(within, Math.min(length, extents[index]!.size - within));
  }

  protected allocate(offset: number, length: number): MaybePromise<Allocation> {
    const { extent, within } = this.#at(offset);
    const bytes = Math.min(length, extent.size - within);
    const place = extent.writable(within, bytes);
    if (place !== undefined && !(place instanceof Promise)) {
      return { ...place, padBefore: 0, padAfter: 0, commit: () => undefined, cancel: () => undefined };
    }
    return andThen(extent.allocate(within, bytes), (room) => {
      if (room.padBefore + room.padAfter > 0) this.image.checkParent();
      return room;
    });
  }

  #at(offset: number): { extent: Extent; within: number } {
    const index = this.image.extentAt(offset);
    return { extent: this.image.extents[index]!, within: offset - this.image.starts[index]! };
  }

  /** A range, extent by extent. */
  *#pieces(offset: number, length: number): Generator<Piece> {
    for (let start = offset; start < offset + length;) {
      const { extent, within } = this.#at(start);
      const bytes = Math.min(extent.size - within, offset + length - start);
      yield { extent, within, start, length: bytes };
      start += bytes;
    }
  }

  protected override readBacking(offset: number, target: Uint8Array): MaybePromise<void> {
    this.image.checkParent();
    return super.readBacking(offset, target);
  }

  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    const { extent, within } = this.#at(offset);
    return extent.readEncoded(within, target);
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    if (source.length === 0) return undefined;
    if (!this.#begun) return andThen(this.#begin(offset, source.length), () => this.write(offset, source, flags));
    return super.write(offset, source, this.#at(offset).extent.compressed ? flags | Req.COMPRESSED : flags & ~Req.COMPRESSED);
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.#begun ? super.writeZeroes(offset, length, flags) : andThen(this.#begin(offset, length), () => super.writeZeroes(offset, length, flags));
  }

  /** The first change of a writer is told by a new CID, and in the headers. One that is refused leaves the disk to its children. */
  #begin(offset: number, length: number): MaybePromise<void> {
    return this.#mutex.run(() => (this.#begun ? undefined : run(this.#announce(offset, length))));
  }

  *#announce(offset: number, length: number): Steps<void> {
    for (const piece of this.#pieces(offset, length)) if (piece.extent.compressed) yield* this.#checkGrains(piece);
    yield* this.image.renewCid();
    for (const extent of this.image.extents) yield* extent.begin();
    this.#begun = true;
  }

  protected override writeEncoded(offset: number, source: Uint8Array): MaybePromise<void> {
    return run(this.#writeEncoded(offset, source));
  }

  *#writeEncoded(offset: number, source: Uint8Array): Steps<void> {
    for (const piece of this.#pieces(offset, source.length)) {
      const { extent, within, start, length } = piece;
      const bytes = source.subarray(start - offset, start - offset + length);
      if (!extent.compressed) yield* this.writeHeld(start, bytes);
      else {
        yield* this.#checkGrains(piece);
        yield* extent.writeEncoded(within, bytes);
      }
    }
  }

  /** Grains are stored whole, and once. @throws BlockError */
  *#checkGrains(piece: Piece): Steps<void> {
    if (yield* stored(piece)) {
      this.#context.report('Could not write to allocated cluster for streamOptimized', 'error');
      throw systemError(Errno.EIO, { op: 'write', offset: piece.within, fault: 'out-of-order' });
    }
    const { extent, within, length } = piece;
    const grainSize = extent.grainSize!;
    const end = within + length;
    if (within % grainSize !== 0 || (end % grainSize !== 0 && end < extent.size)) {
      throw systemError(Errno.EINVAL, { op: 'write', offset: within, fault: 'out-of-order' });
    }
  }

  protected override zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return run(this.#zero(offset, length, flags));
  }

  *#zero(offset: number, length: number, flags: number): Steps<void> {
    for (const piece of this.#pieces(offset, length)) {
      const { extent, within, length: bytes } = piece;
      // nothing is what a stream has for zeroes, and that needs no turn
      if (extent.compressed && this.cow === undefined && !(yield* stored(piece))) continue;
      yield* wait(extent.zero(within, bytes, flags));
    }
  }

  protected override get zeroUnit(): number {
    return Math.max(1, this.limits.writeZeroesAlignment);
  }

  protected override debug(event: string): Promise<void> | undefined {
    return this.#context.debugPoint(event);
  }

  override flush(): MaybePromise<void> {
    return this.#readOnly ? undefined : run(this.#flush());
  }

  *#flush(): Steps<void> {
    for (const extent of this.image.extents) yield* extent.flush();
    if (this.image.extents[0]?.file !== this.image.file) yield* wait(this.image.file.flush());
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return Promise.resolve(this.#mutex.run(() => run(growDisk(this.image, this.#context, size, options))));
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }

  override async reopen({ readOnly }: { readonly readOnly: boolean }): Promise<void> {
    if (readOnly === this.#readOnly) return;
    if (!readOnly && this.#refusal !== undefined) throw this.#refusal;
    if (readOnly) await run(this.#end());
    this.#readOnly = readOnly;
  }

  async close(): Promise<void> {
    if (!this.#readOnly) await run(this.#end());
  }

  *#end(): Steps<void> {
    if (!this.#begun) return;
    for (const extent of this.image.extents) yield* extent.end();
    yield* wait(this.image.file.flush());
    this.#begun = false;
  }
}

/** Some of it has been written. */
function* stored({ extent, within, length }: Piece): Steps<boolean> {
  const end = within + length;
  for (let at = within; at < end;) {
    const already = yield* settled(() => extent.map(at, end - at));
    if (already.kind === 'data') return true;
    at += already.length;
  }
  return false;
}

const growing: Capabilities = Object.freeze({
  write: true, writeFlags: Req.COMPRESSED, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: false, resize: 'grow', growsOnWrite: false,
});
const fixed: Capabilities = Object.freeze({ ...growing, resize: 'none' });
const readOnly: Capabilities = Object.freeze({ ...growing, write: false });
