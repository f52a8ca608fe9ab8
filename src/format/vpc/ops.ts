/** The open layer of dynamic and differencing images. */
import type { BlockChild } from '../../block/child.js';
import { Req, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { MappedFormat, settled, type Allocation, type AskAgain, type HostRun } from '../../block/mapped-format.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { fullBitmap, getBit, runLength, setBits } from './bitmap.js';
import { changeParent, dropParent } from './backing.js';
import { checkSparse } from './check.js';
import { sectorSize } from './geometry.js';
import { DiskType } from './header.js';
import type { SparseImage } from './image.js';
import { absent } from './layout.js';
import { resizeSparse } from './resize.js';

export class SparseOps extends MappedFormat {
  readonly image: SparseImage;
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected readonly cow: BlockChild | undefined;
  /** Sectors may be left to a parent, even where the user does without it. */
  readonly #differencing: boolean;
  readonly #facets: Partial<Facets>;

  /** `backing` is the parent's name as the image has it. */
  constructor(image: SparseImage, backing: string | undefined) {
    super();
    this.image = image;
    this.clusterSize = image.blockSize;
    this.cow = image.parent;
    this.#differencing = image.footer.type === DiskType.DIFFERENCING;
    this.limits = {
      requestAlignment: sectorSize, maxTransfer: 0, maxWriteZeroes: 0, maxDiscard: 0, writeZeroesAlignment: 0, discardAlignment: image.blockSize,
    };
    this.#facets = {
      formatInfo: { specific: () => undefined, clusterSize: image.blockSize },
      identity: { get id() { return image.footer.uuid; }, get timestamp() { return image.footer.timestamp; } },
      check: { check: (options) => checkSparse(image, options) },
      ...(this.#differencing && { backing: this.#backing(backing) }),
    };
  }

  get size(): number {
    return this.image.size;
  }

  get capabilities(): Capabilities {
    return this.image.readOnly ? readOnly : this.#differencing ? differencing : writable;
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const { image, clusterSize } = this;
    const block = Math.floor(offset / clusterSize);
    const entry = image.entry(block);
    if (entry === undefined) return this.#fetched(image.table.fetch(image.pageOf(block))) ?? this.map(offset, length);
    const within = offset - block * clusterSize;
    if (entry === absent) {
      const run = image.absentRun(block, Math.ceil((within + length) / clusterSize));
      return this.#missing(Math.min(length, run * clusterSize - within));
    }
    if (!image.isInside(entry)) throw misplaced(block, entry);
    const here = Math.min(length, clusterSize - within);
    if (image.isFull(block)) return this.#data(entry, within, here);
    const bits = image.bitmaps.get(block * image.bitmapSize)?.bytes;
    if (bits === undefined) return this.#fetched(image.bitmaps.fetch(block * image.bitmapSize)) ?? this.map(offset, length);
    if (this.#noteFull(block, bits)) return this.#data(entry, within, here);
    const first = within / sectorSize;
    const alike = Math.min(here, runLength(bits, first, Math.ceil((within + here) / sectorSize)) * sectorSize);
    return getBit(bits, first) ? this.#data(entry, within, alike) : this.#missing(alike);
  }

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    const extent = this.map(offset, length);
    if (extent instanceof Promise) return extent;
    return extent.kind === 'data' ? { ...extent.host!, length: extent.length } : undefined;
  }

  protected allocate(offset: number, length: number): MaybePromise<Allocation> {
    return this.image.exclusive(() => run(this.#allocate(offset, length)));
  }

  /** Zeroes what is stored; what is not reads as zero already, unless there is a parent. */
  protected override zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return run(this.#zero(offset, length, flags));
  }

  protected override get zeroUnit(): number {
    return sectorSize;
  }

  /** Blocks keep their place, but the file need not spend storage on them. */
  protected override unmap(offset: number, length: number): MaybePromise<void> {
    return run(this.#unmap(offset, length));
  }

  override flush(): MaybePromise<void> {
    return this.image.readOnly ? undefined : this.image.exclusive(() => run(this.image.flush()));
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return resizeSparse(this.image, size, options);
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return name === 'allocatedSize' ? this.image.file.facet(name) : this.#facets[name];
  }

  override async reopen({ readOnly: toReadOnly }: { readonly readOnly: boolean }): Promise<void> {
    if (toReadOnly) await this.flush();
    this.image.readOnly = toReadOnly;
  }

  async close(): Promise<void> {
    await this.flush();
  }

  #backing(name: string | undefined): Facets['backing'] {
    const { image } = this;
    return {
      filename: name,
      format: name === undefined ? undefined : 'vpc',
      change: async (filename, format, identity) => {
        if (filename !== undefined && format !== 'vpc') throw systemError(Errno.ENOTSUP);
        await image.exclusive(() => run(filename === undefined ? dropParent(image) : changeParent(image, filename, identity)));
      },
    };
  }

  /** Undefined where nothing has to be waited for. */
  #fetched(loading: MaybePromise<void>): AskAgain | undefined {
    return loading instanceof Promise ? loading : undefined;
  }

  #missing(length: number): LayerExtent {
    return this.#differencing ? { kind: 'backing', length } : { kind: 'zero', length, allocated: true };
  }

  #data(entry: number, within: number, length: number): LayerExtent {
    return { kind: 'data', length, host: { child: this.image.file, offset: this.image.dataOffset(entry) + within } };
  }

  /** Remembers a block all of whose sectors are there. */
  #noteFull(block: number, bits: Uint8Array): boolean {
    const sectors = this.clusterSize / sectorSize;
    if (!getBit(bits, 0) || runLength(bits, 0, sectors) < sectors) return false;
    this.image.markFull(block);
    return true;
  }

  *#allocate(offset: number, length: number): Steps<Allocation> {
    const { image, clusterSize } = this;
    const block = Math.floor(offset / clusterSize);
    const within = offset - block * clusterSize;
    const run = Math.min(length, clusterSize - within);
    const entry = yield* image.loadEntry(block);
    if (entry === absent) return yield* this.#newBlock(block, within, run);
    if (!image.isInside(entry)) throw misplaced(block, entry);
    return this.#moreOfBlock(block, entry, within, run);
  }

  /** Sectors of a block that has its place. */
  #moreOfBlock(block: number, entry: number, within: number, length: number): Allocation {
    const { image } = this;
    return {
      child: image.file, offset: image.dataOffset(entry) + within, length, padBefore: 0, padAfter: 0,
      commit: () => (image.isFull(block) ? undefined : image.exclusive(() => run(this.#show(block, within, length)))),
      cancel: () => undefined,
    };
  }

  /** Without a parent all sectors of a block are there from the first on: others than us look at nothing else. */
  *#newBlock(block: number, within: number, length: number): Steps<Allocation> {
    const { image, clusterSize } = this;
    const place = image.reserve();
    const data = place + image.bitmapSize;
    const whole = !this.#differencing;
    const pads = whole && !image.isFresh(data);
    if (whole) yield* wait(image.file.write(place, fullBitmap(image.blockSize)));
    return {
      child: image.file, offset: data + within, length,
      padBefore: pads ? within : 0, padAfter: pads ? clusterSize - within - length : 0,
      commit: () => image.exclusive(() => run(this.#showBlock(block, place, within, length))),
      // What was written there may be shown by no later block: the room is lost until the image is checked.
      cancel: () => undefined,
    };
  }

  *#showBlock(block: number, place: number, within: number, length: number): Steps<void> {
    const { image } = this;
    if (!this.#differencing) image.markFull(block);
    else {
      const bitmap = image.bitmaps.create(block * image.bitmapSize);
      setBits(bitmap.bytes, within / sectorSize, (within + length) / sectorSize);
    }
    yield* image.setEntry(block, place / sectorSize);
  }

  *#show(block: number, within: number, length: number): Steps<void> {
    const { image } = this;
    const bitmap = yield* image.bitmaps.load(block * image.bitmapSize);
    setBits(bitmap.bytes, within / sectorSize, (within + length) / sectorSize);
    image.bitmaps.dirty(bitmap);
  }

  *#zero(offset: number, length: number, flags: number): Steps<void> {
    for (let at = offset; at < offset + length;) {
      const extent = yield* settled(() => this.map(at, offset + length - at));
      if (extent.kind === 'backing') throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset: at, length: extent.length });
      if (extent.kind === 'data') yield* wait(extent.host!.child.writeZeroes(extent.host!.offset, extent.length, flags));
      at += extent.length;
    }
  }

  *#unmap(offset: number, length: number): Steps<void> {
    if (this.#differencing) return;
    try {
      yield* this.#zero(offset, length, Req.MAY_UNMAP | Req.NO_FALLBACK);
    } catch (error) {
      if (!(error instanceof BlockError) || error.code !== 'NOT_SUPPORTED') throw error;
    }
  }
}

/** Only an image opened for a check has such blocks. */
function misplaced(block: number, entry: number): BlockError {
  return new BlockError('CORRUPT_IMAGE', `Block ${block} at offset ${entry * sectorSize} lies outside the image`, { errno: Errno.EIO });
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: false,
});
const differencing: Capabilities = Object.freeze({ ...writable, discard: false, resize: 'none' });
const readOnly: Capabilities = Object.freeze({ ...writable, write: false, discard: false, resize: 'none' });
