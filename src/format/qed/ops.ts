/** The open layer: requests, and what the image can do beyond them. */
import { AppendingFormat } from '../../block/appending-format.js';
import type { BlockChild } from '../../block/child.js';
import { Req, type Capabilities, type OpenContext, type ResizeOptions } from '../../block/driver.js';
import { misplaced, TwoLevelTables } from '../../block/entry-tables.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { BackingFacet, Facets } from '../../block/facets.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { checkQed, type CheckOptions } from './check.js';
import { backingFeatures } from './create.js';
import { Feature, largestImage, maxBackingName, serialiseHeader, type QedHeader } from './header.js';
import { clusterEntries, entryAt, setEntry } from './entries.js';

/** Milliseconds without allocation after which the image is marked consistent again. */
const idleTimeMs = 5000;

export class QedOps extends AppendingFormat {
  protected readonly tables: TwoLevelTables;
  protected readonly entries = clusterEntries;
  protected readonly storesZero = true;
  protected readonly facets: Partial<Facets>;
  #header: QedHeader;
  #idle: ReturnType<typeof setTimeout> | undefined;

  constructor(context: OpenContext<object>, file: BlockChild, backing: BlockChild | undefined, header: QedHeader) {
    const { clusterSize, tableSize, l1Offset } = header;
    super(context, file, backing, clusterSize);
    this.#header = header;
    this.alignment = clusterSize;
    this.end = file.size;
    const tableBytes = tableSize * clusterSize;
    this.tables = new TwoLevelTables({
      directory: { file, offset: l1Offset, length: tableBytes },
      tableEntries: tableBytes / 8,
      tableOffset: (view, at) => {
        const offset = entryAt(view, at);
        if (offset !== 0 && !(this.isPlace(offset) && this.isPlace(offset + tableBytes - clusterSize))) throw misplaced('a table', offset);
        return offset;
      },
      setTableOffset: setEntry,
      reserve: (bytes) => this.reserve(bytes),
      giveBack: (offset, bytes) => this.giveBack(offset, bytes),
    }, (event) => this.debug(event));
    this.facets = {
      check: { check: (options) => this.#check(options) },
      backing: this.#backing(),
      formatInfo: { specific: () => undefined, clusterSize },
    };
  }

  get size(): number {
    return this.#header.size;
  }

  get capabilities(): Capabilities {
    return this.readOnly ? readable : writable;
  }

  protected isPlace(offset: number): boolean {
    const { headerSize, clusterSize } = this.#header;
    return offset % clusterSize === 0 && offset >= headerSize * clusterSize && offset + clusterSize <= this.end;
  }

  /** Tables of an overlay are always right, for they are written behind their data; without a backing file the peer asks for the mark. */
  protected override *claim(): Steps<void> {
    if (this.#header.backingFile !== undefined || (this.#header.features & Feature.NEED_CHECK) !== 0) return;
    yield* this.#setFeatures(this.#header.features | Feature.NEED_CHECK);
    this.#idle = setTimeout(() => this.#settleIdle(), idleTimeMs);
    // A timer must not keep a process alive (browsers have no such notion).
    (this.#idle as { unref?: () => void }).unref?.();
  }

  protected override *settle(): Steps<void> {
    clearTimeout(this.#idle);
    if ((this.#header.features & Feature.NEED_CHECK) !== 0) yield* this.#setFeatures(this.#header.features & ~Feature.NEED_CHECK);
  }

  #settleIdle(): void {
    void Promise.resolve(this.exclusive(() => run(this.#settleNow()))).catch(() => undefined);
  }

  *#settleNow(): Steps<void> {
    if (this.readOnly) return;
    yield* this.flushAll();
    yield* this.settle();
  }

  *#setFeatures(features: number): Steps<void> {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setUint32(0, features, true);
    yield* wait(this.file.write(16, bytes));
    yield* wait(this.file.flush());
    this.#header = { ...this.#header, features };
  }

  /** What a writer does first: features unknown to us are switched off, and (but for a check) damage that another left is repaired, or refused. */
  async takeOver(forCheck: boolean): Promise<void> {
    if (this.#header.autoclear !== 0n) {
      this.#header = { ...this.#header, autoclear: 0n };
      await this.file.write(32, new Uint8Array(8));
      await this.file.flush();
    }
    if (forCheck) return;
    if ((this.#header.features & Feature.NEED_CHECK) !== 0) {
      const { checkErrors } = await this.#check({ repair: 'all' });
      if (checkErrors > 0) throw new BlockError('CORRUPT_IMAGE', strerror(Errno.EIO), { errno: Errno.EIO });
    } else if (this.file.size % this.#header.clusterSize !== 0) await this.#refuseCut();
  }

  /** A new cluster behind a cut one would make that look whole. @throws BlockError where the cut one is in use */
  async #refuseCut(): Promise<void> {
    const { corruptions } = await this.#check({ repair: 'none' });
    if (corruptions > 0) throw new BlockError('CORRUPT_IMAGE', 'Clusters lie behind the end of the file', { errno: Errno.EIO });
  }

  async #check(options: CheckOptions): ReturnType<typeof checkQed> {
    const result = await this.lookAtDisk(() => checkQed({
      file: this.file, header: this.#header, isPlace: (offset) => this.isPlace(offset), reserve: (bytes) => this.reserve(bytes),
    }, options));
    if (options.repair !== 'none' && result.checkErrors === 0) await this.exclusive(() => run(this.settle()));
    return result;
  }

  override async reopen(change: { readonly readOnly: boolean }): Promise<void> {
    const wasReadOnly = this.readOnly;
    await super.reopen(change);
    if (wasReadOnly && !change.readOnly) await this.takeOver(false);
  }

  override async close(): Promise<void> {
    clearTimeout(this.#idle);
    await super.close();
  }

  override async resize(size: number, { preallocation, zeroNew }: ResizeOptions): Promise<void> {
    const { clusterSize, tableSize } = this.#header;
    if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${preallocation}'`, { errno: Errno.ENOTSUP });
    if (size % 512 !== 0 || BigInt(size) > largestImage(clusterSize, tableSize)) {
      throw new BlockError('INVALID_ARGUMENT', 'Invalid image size specified', { errno: Errno.EINVAL });
    }
    const from = this.size;
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, BigInt(size), true);
    await this.file.write(48, bytes);
    await this.file.flush();
    this.#header = { ...this.#header, size };
    if (zeroNew) await this.zeroRange(from, size);
  }

  #backing(): BackingFacet {
    const header = (): QedHeader => this.#header;
    return {
      get filename() { return header().backingFile; },
      get format() { return header().backingFile !== undefined && (header().features & Feature.BACKING_RAW) !== 0 ? 'raw' : undefined; },
      change: async (filename, format) => {
        if (filename !== undefined && new TextEncoder().encode(filename).length > maxBackingName) {
          throw new BlockError('INVALID_ARGUMENT', strerror(Errno.EINVAL), { errno: Errno.EINVAL });
        }
        const features = (header().features & Feature.NEED_CHECK) | backingFeatures(filename, format);
        await this.exclusive(() => run(this.#rewriteHeader({ ...header(), features, backingFile: filename })));
      },
    };
  }

  *#rewriteHeader(header: QedHeader): Steps<void> {
    yield* wait(this.file.write(0, serialiseHeader(header)));
    yield* wait(this.file.flush());
    this.#header = header;
  }

  override drainBegin(): MaybePromise<void> {
    clearTimeout(this.#idle);
    return this.exclusive(() => undefined);
  }

  override drainEnd(): void {
    if ((this.#header.features & Feature.NEED_CHECK) !== 0 && !this.readOnly) this.#settleIdle();
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: false, resize: 'grow', growsOnWrite: false,
});
const readable: Capabilities = Object.freeze({ ...writable, write: false, resize: 'none' });
