/** The open layer: requests, and what the image can do beyond them. */
import { AppendingFormat, Place, type EntryCodec } from '../../block/appending-format.js';
import type { BlockChild } from '../../block/child.js';
import { Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type OpenContext } from '../../block/driver.js';
import { FlatTable } from '../../block/entry-tables.js';
import type { Facets } from '../../block/facets.js';
import { wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { checkVdi } from './check.js';
import { Field, ImageType, type VdiHeader } from './header.js';
import { blockEntries, entrySize, strideOf } from './entries.js';

export class VdiOps extends AppendingFormat {
  readonly size: number;
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected readonly file: BlockChild;
  protected readonly cow: BlockChild | undefined;
  protected readonly tables: FlatTable;
  protected readonly entries: EntryCodec;
  /** Without a parent what is not there reads as zero anyway. */
  protected readonly storesZero: boolean;
  readonly #context: OpenContext<object>;
  readonly #header: VdiHeader;
  readonly #facets: Partial<Facets>;
  /** Allocated blocks as the header on disk has them. */
  #recorded: number;

  /** `used`: blocks at the start of the file that may hold something. */
  constructor(context: OpenContext<object>, file: BlockChild, parent: BlockChild | undefined, header: VdiHeader, used: number) {
    super(context.readOnly);
    const { blockSize, tableOffset, blocks, dataOffset, size, uuid } = header;
    this.#context = context;
    this.#header = header;
    this.#recorded = header.allocated;
    this.file = file;
    this.cow = parent;
    this.size = size;
    this.clusterSize = blockSize;
    this.limits = { ...unlimited, writeZeroesAlignment: blockSize, discardAlignment: blockSize };
    this.storesZero = parent !== undefined;
    this.entries = blockEntries(header);
    this.tables = new FlatTable({ file, offset: tableOffset, length: blocks * entrySize }, entrySize, (event) => this.debug(event));
    this.end = dataOffset + used * strideOf(header);
    this.#facets = {
      identity: { id: uuid },
      formatInfo: { specific: () => undefined, clusterSize: blockSize },
      check: {
        check: async (options) => {
          if (!this.readOnly) await this.flush();
          const { allocated, ...result } = await this.exclusive(() => checkVdi(file, { ...header, allocated: this.#recorded }, options));
          if (options.repair === 'none') return result;
          this.tables.clear();
          this.#recorded = allocated;
          this.end = dataOffset + allocated * strideOf(header);
          return result;
        },
      },
    };
  }

  get capabilities(): Capabilities {
    return this.readOnly ? readable : writable;
  }

  protected override debug(event: string): Promise<void> | undefined {
    return this.#context.debugPoint(event);
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

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: false, resize: 'none', growsOnWrite: false,
});
const readable: Capabilities = Object.freeze({ ...writable, write: false });
