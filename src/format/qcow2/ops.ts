/** The open layer: requests on one side, the image's tables on the other. */
import type { BlockChild } from '../../block/child.js';
import type { DataCipher } from '../../block/data-cipher.js';
import { Req, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets, VmStateFacet } from '../../block/facets.js';
import { MappedFormat, type Allocation, type AskAgain, type HostRun } from '../../block/mapped-format.js';
import type { Codec } from '../../platform/compression.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { run, type Steps } from '../../util/steps.js';
import type { Qcow2Bitmaps } from './bitmap.js';
import { ClusterMap } from './cluster.js';
import { CompressedClusters, misplacedCompressedWrite } from './compressed.js';
import { qcow2Facets } from './facets.js';
import { Autoclear, l1EntriesFor } from './header.js';
import type { Qcow2Image } from './image.js';
import { cleanInterval, settingsOf, type Qcow2OpenOptions } from './options.js';
import { resizeQcow2, type ResizeParts } from './resize.js';

export class Qcow2Ops extends MappedFormat {
  readonly image: Qcow2Image;
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  override readonly growthFailure = 'Failed to grow the L1 table';
  protected readonly cow: BlockChild | undefined;
  readonly #clusters: ClusterMap;
  readonly #compressed: CompressedClusters;
  /** The external data file must stay readable as a raw disk. */
  readonly #rawData: boolean;
  readonly #bitmaps: Qcow2Bitmaps;
  readonly #parts: ResizeParts;
  readonly #facets: Partial<Facets>;
  #surveyed = false;
  #options: Qcow2OpenOptions;
  #cleaner: ReturnType<typeof setInterval> | undefined;

  constructor(image: Qcow2Image, codec: Codec, bitmaps: Qcow2Bitmaps) {
    super();
    const { clusterSize, subclusterSize, external } = image.geometry;
    this.image = image;
    this.#bitmaps = bitmaps;
    this.#options = image.context.options;
    this.clusterSize = clusterSize;
    this.cow = image.backing;
    this.#clusters = new ClusterMap(image);
    this.#compressed = new CompressedClusters(image, this.#clusters, codec);
    this.#rawData = external && (image.header.autoclear & BigInt(Autoclear.DATA_FILE_RAW)) !== 0n;
    this.limits = {
      requestAlignment: image.encryption === undefined ? 1 : 512, maxTransfer: 0, maxWriteZeroes: 0, maxDiscard: 0, writeZeroesAlignment: subclusterSize, discardAlignment: clusterSize,
    };
    image.readsSettled = () => this.readsSettled();
    this.#parts = {
      image, clusters: this.#clusters, bitmaps,
      read: (offset, target) => this.read(offset, target),
      alone: (offset, length, request) => this.locks.withLock(offset, offset + length, 'exclusive', request),
      writeZeroes: async (offset, length) => { await this.write(offset, new Uint8Array(length), 0); },
    };
    this.#facets = Object.defineProperty(qcow2Facets(this.#parts), 'vmState', { value: this.#vmState() });
  }

  get size(): number {
    return this.image.size;
  }

  get capabilities(): Capabilities {
    return this.image.readOnly ? readOnly : this.image.encryption === undefined || this.image.context.mode.plainCompressed ? writable : writableEncrypted;
  }

  protected override get cipher(): DataCipher | undefined {
    return this.image.encryption?.cipher;
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    return this.#clusters.map(offset, length);
  }

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    return this.#clusters.writable(offset, length);
  }

  protected allocate(offset: number, length: number, after: number | undefined): MaybePromise<Allocation> {
    return this.image.exclusive(() => run(this.#clusters.allocate(offset, length, after)));
  }

  protected override debug(event: string): Promise<void> | undefined {
    return this.image.context.debugPoint(event);
  }

  protected override get zeroUnit(): number {
    return this.image.geometry.subclusterSize;
  }

  /** Saved VM state lies behind the disk. */
  protected override get mappedSize(): number {
    return Number.MAX_SAFE_INTEGER;
  }

  protected override zero(offset: number, length: number, flags: number): MaybePromise<void> {
    const zeroed = this.#rawData ? this.image.dataFile.writeZeroes(offset, Math.min(length, this.size - offset), flags) : undefined;
    return andThen(zeroed, () => run(this.#clusters.zero(offset, length, flags)));
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    if (this.image.dead) throw systemError(Errno.ENOMEDIUM);
    return super.discard(offset, length);
  }

  protected override unmap(offset: number, length: number): MaybePromise<void> {
    return run(this.#clusters.discard(offset, length, 'request', false));
  }

  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    return andThen(run(this.#compressed.read(offset, target)), (found) => (found ? undefined : this.read(offset, target)));
  }

  protected override writeEncoded(offset: number, source: Uint8Array): MaybePromise<void> {
    return run(this.#writeCompressed(offset, source));
  }

  *#writeCompressed(offset: number, source: Uint8Array): Steps<void> {
    const { clusterSize } = this;
    const end = offset + source.length;
    if (this.image.geometry.external) throw systemError(Errno.ENOTSUP, { op: 'write', offset });
    if (source.length === 0) return yield* this.#compressed.alignFile();
    if (offset % clusterSize !== 0 || (end % clusterSize !== 0 && end !== this.size)) throw misplacedCompressedWrite(offset, source.length);
    yield* this.#compressed.write(offset, source, (at, piece) => this.writeHeld(at, piece));
  }

  override flush(): MaybePromise<void> {
    return this.image.readOnly || this.image.dead ? undefined : this.image.exclusive(() => run(this.image.flush()));
  }

  override status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent> {
    if (wantZero && !this.#surveyed) return this.#survey().then(() => this.status(offset, length, wantZero));
    const extent = super.status(offset, length, wantZero);
    return this.image.encryption === undefined ? extent : andThen(extent, withoutHost);
  }

  /**
   * Finds out whether many clusters have no storage behind them: their tables were made in advance, and the file knows which of them
   * are holes. Otherwise asking the file would be in vain. Damaged refcounts say nothing: what can be read stays readable.
   */
  async #survey(): Promise<void> {
    this.#surveyed = true;
    const { image } = this;
    const allocated = await image.file.facet('allocatedSize')?.allocatedSize();
    if (allocated === undefined || image.dead) return;
    const stored = Math.floor(allocated / this.clusterSize);
    const many = Math.max(Math.floor(stored * 10 / 9), stored + 2);
    try {
      const inFile = Math.ceil(image.file.size / this.clusterSize);
      image.preallocated = (await run(image.refcounts.countUsed(inFile, many))) >= many;
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
    }
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return resizeQcow2(this.#parts, size, options);
  }

  /** VM state lies behind the guest's disk, from the next L2 table on. */
  #vmState(): VmStateFacet {
    const { clusterBits, extended, l2Coverage } = this.image.geometry;
    const start = (): number => l1EntriesFor(this.size, clusterBits, extended) * l2Coverage;
    return {
      read: (offset, target) => andThen(this.debug('vmstate_load'), () => this.read(start() + offset, target)),
      write: (offset, source) => andThen(this.debug('vmstate_save'), () => this.write(start() + offset, source, 0)),
    };
  }

  /** Drops tables that were not used for `seconds`; 0: never. */
  cleanCaches(seconds: number): void {
    const { image } = this;
    clearInterval(this.#cleaner);
    if (seconds === 0) return;
    this.#cleaner = setInterval(() => {
      image.l2.dropUnused();
      image.refcounts.cache.dropUnused();
    }, Math.min(seconds * 1000, 0x7fff_ffff));
    // A timer must not keep a process alive (browsers have no such notion).
    (this.#cleaner as { unref?: () => void }).unref?.();
  }

  async close(): Promise<void> {
    clearInterval(this.#cleaner);
    await this.#settle();
  }

  override async reopen({ readOnly, options }: { readonly readOnly: boolean; readonly options?: Qcow2OpenOptions }): Promise<void> {
    const { image } = this;
    if (options !== undefined) await this.#change({ ...lasting(this.#options), ...options });
    if (readOnly === image.readOnly) return;
    if (readOnly) await this.#settle();
    image.readOnly = readOnly;
    if (!readOnly) await this.#bitmaps.claim();
  }

  async #change(options: Qcow2OpenOptions): Promise<void> {
    const { image } = this;
    const settings = settingsOf(options, image.header);
    const seconds = cleanInterval(options);
    await image.exclusive(() => run(image.change(settings)));
    this.#options = options;
    this.cleanCaches(seconds);
  }

  /** Everything that a writer leaves behind reaches the disk. */
  async #settle(): Promise<void> {
    const { image } = this;
    try {
      if (!image.readOnly && !image.dead) await this.#bitmaps.store();
    } finally {
      await image.exclusive(() => run(image.shutDown()));
    }
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: Req.COMPRESSED, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: false,
});
/** What is compressed would be stored in the clear. */
const writableEncrypted: Capabilities = Object.freeze({ ...writable, writeFlags: 0 });
const readOnly: Capabilities = Object.freeze({ ...writable, write: false, discard: false, resize: 'none' });

/** What lies at the host is not what the guest sees, nor is a hole there full of zeroes. */
function withoutHost(extent: LayerExtent): LayerExtent {
  if (extent.kind === 'child') return extent;
  const { host: _host, ...rest } = extent;
  return rest.kind === 'data' ? { ...rest, recurse: false } : rest;
}

/** Options that go on to hold when others change; sizes of caches are chosen anew each time. */
function lasting({ 'cache-size': _combined, 'l2-cache-size': _l2, 'refcount-cache-size': _refcount, 'overlap-check.template': _template, ...rest }: Qcow2OpenOptions): Qcow2OpenOptions {
  return rest;
}
