/** The open layer: requests, and what the image can do beyond them. */
import { AppendingFormat, Place, type EntryCodec } from '../../block/appending-format.js';
import type { BlockChild } from '../../block/child.js';
import { Req, type Capabilities, type LayerExtent, type OpenContext, type ResizeOptions } from '../../block/driver.js';
import { FlatTable } from '../../block/entry-tables.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { checkVdi } from './check.js';
import { blockEntries, entrySize, strideOf } from './entries.js';
import { Field, ImageType, type VdiHeader } from './header.js';
import { growVdi, shrinkVdi } from './resize.js';

export class VdiOps extends AppendingFormat {
  protected tables: FlatTable;
  protected entries: EntryCodec;
  /** Without a parent what is not there reads as zero anyway. */
  protected readonly storesZero: boolean;
  #header: VdiHeader;
  protected readonly facets: Partial<Facets>;
  /** Allocated blocks as the header on disk has them. */
  #recorded: number;

  /** `used`: blocks at the start of the file that may hold something. */
  constructor(context: OpenContext<object>, file: BlockChild, parent: BlockChild | undefined, header: VdiHeader, used: number) {
    const { blockSize, dataOffset, uuid } = header;
    super(context, file, parent, blockSize);
    this.#header = header;
    this.#recorded = header.allocated;
    this.storesZero = parent !== undefined;
    this.entries = blockEntries(header);
    this.tables = this.#tableOf(header);
    this.end = dataOffset + used * strideOf(header);
    this.facets = {
      identity: { id: uuid },
      formatInfo: { specific: () => undefined, clusterSize: blockSize },
      check: {
        check: async (options) => this.lookAtDisk(async () => {
          const { allocated, ...result } = await checkVdi(file, { ...this.#header, allocated: this.#recorded }, options);
          if (options.repair === 'none') return result;
          this.#recorded = allocated;
          this.end = this.#header.dataOffset + allocated * strideOf(this.#header);
          return result;
        }),
      },
    };
  }

  get size(): number {
    return this.#header.size;
  }

  get capabilities(): Capabilities {
    return this.readOnly ? readable : this.#header.type === ImageType.FIXED ? fixed : writable;
  }

  #tableOf({ tableOffset, blocks }: VdiHeader): FlatTable {
    return new FlatTable({ file: this.file, offset: tableOffset, length: blocks * entrySize }, entrySize, (event) => this.debug(event));
  }

  protected isPlace(offset: number): boolean {
    return offset < Math.max(this.end, this.file.size);
  }

  protected override extentOf(place: number, skip: number, length: number): LayerExtent {
    if (place === Place.NONE && this.cow === undefined) return { kind: 'zero', length, allocated: true };
    const extent = super.extentOf(place, skip, length);
    return extent.kind === 'data' && this.#header.type === ImageType.FIXED ? { ...extent, recurse: true } : extent;
  }

  /** The header comes first: with its count too low the next writer would use a block twice. */
  protected override *writeTables(): Steps<void> {
    if (this.tables.dirty) yield* this.#recordCount();
    yield* super.writeTables();
  }

  /** What was reserved and then not used is not counted any more. */
  protected override *settle(): Steps<void> {
    const recorded = this.#recorded;
    yield* this.#recordCount();
    if (this.#recorded !== recorded) yield* wait(this.file.flush());
  }

  *#recordCount(): Steps<void> {
    const count = (this.end - this.#header.dataOffset) / strideOf(this.#header);
    if (count === this.#recorded) return;
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, count, true);
    yield* wait(this.file.write(Field.ALLOCATED, bytes));
    this.#recorded = count;
  }

  override async resize(size: number, { preallocation, zeroNew }: ResizeOptions): Promise<void> {
    if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${preallocation}'`, { errno: Errno.ENOTSUP });
    if (size % 512 !== 0) throw new BlockError('INVALID_ARGUMENT', 'The new size must be a multiple of 512', { errno: Errno.EINVAL });
    const from = this.size;
    const moved = async (): Promise<void> => {
      this.tables.clear();
      await this.readsSettled();
    };
    // no write anywhere meanwhile: blocks may move
    await this.locks.withLock(0, Number.MAX_SAFE_INTEGER, 'exclusive', () => this.exclusive(async () => {
      await run(this.flushAll());
      const { dataOffset } = this.#header;
      const old = { ...this.#header, allocated: (this.end - dataOffset) / strideOf(this.#header) };
      if (size < from) await moved();
      const header = size < from ? await shrinkVdi(this.file, old, size) : await growVdi(this.file, old, size, moved);
      this.#header = header;
      this.#recorded = header.allocated;
      this.end = header.dataOffset + header.allocated * strideOf(header);
      this.entries = blockEntries(header);
      this.tables = this.#tableOf(header);
    }));
    if (size <= from) return;
    // what lies behind the old end of its last block need not be zeroes
    const blockEnd = Math.ceil(from / this.clusterSize) * this.clusterSize;
    await this.zeroRange(from, zeroNew ? size : Math.min(size, blockEnd));
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: false, resize: 'any', growsOnWrite: false,
});
/** Its blocks lie in the order of the disk. */
const fixed: Capabilities = Object.freeze({ ...writable, resize: 'none' });
const readable: Capabilities = Object.freeze({ ...fixed, write: false });
