/** The open layer: requests on one side, the image's table on the other. */
import type { BlockChild } from '../../block/child.js';
import { Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { MappedFormat, type Allocation, type AskAgain, type HostRun } from '../../block/mapped-format.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { ParallelsBitmaps } from './bitmaps.js';
import { checkParallels, prepareWriting } from './check.js';
import type { ParallelsImage } from './image.js';
import { resizeParallels } from './resize.js';

/** Clusters looked at for one answer. */
const mostClusters = 1 << 16;

export class ParallelsOps extends MappedFormat {
  readonly clusterSize: number;
  override readonly limits: BlockLimits;
  protected readonly cow: BlockChild | undefined;
  readonly #image: ParallelsImage;
  readonly #facets: Partial<Facets>;
  readonly #bitmaps: ParallelsBitmaps;
  readonly #report: (line: string) => void;
  #readOnly: boolean;

  constructor(image: ParallelsImage, { readOnly, backing, bitmaps, report }: {
    readonly readOnly: boolean; readonly backing: BlockChild | undefined; readonly bitmaps: ParallelsBitmaps; readonly report: (line: string) => void;
  }) {
    super();
    this.#image = image;
    this.#readOnly = readOnly;
    this.#report = report;
    this.#bitmaps = bitmaps;
    this.cow = backing;
    this.clusterSize = image.clusterSize;
    this.limits = { ...unlimited, writeZeroesAlignment: this.clusterSize, discardAlignment: this.clusterSize };
    image.readsSettled = () => this.readsSettled();
    this.#facets = {
      check: {
        check: async ({ repair, report: say = () => undefined }) => image.exclusive(() => run(checkParallels(image, repair, say))),
      },
      bitmaps,
    };
  }

  get size(): number {
    return this.#image.size;
  }

  get capabilities(): Capabilities {
    if (this.#readOnly) return readable;
    return this.cow === undefined ? writable : overlay;
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const found = this.#place(offset, length);
    if (found instanceof Promise) return found;
    return found.host === 0
      ? { kind: 'backing', length: found.length }
      : { kind: 'data', length: found.length, host: { child: this.#image.file, offset: found.host } };
  }

  protected writable(offset: number, length: number): HostRun | undefined | AskAgain {
    if (!this.#image.claimed) return undefined;
    const found = this.#place(offset, length);
    if (found instanceof Promise) return found;
    return found.host === 0 ? undefined : { child: this.#image.file, offset: found.host, length: found.length };
  }

  /** Where guest bytes lie in a row, or how many of them lie nowhere (host 0). */
  #place(offset: number, length: number): { host: number; length: number } | AskAgain {
    const { clusterSize } = this;
    const first = Math.floor(offset / clusterSize);
    const inCluster = offset - first * clusterSize;
    const { header: { tableEntries } } = this.#image;
    if (first >= tableEntries) return { host: 0, length };
    const host = this.#image.hostOf(first);
    if (typeof host !== 'number') return host;
    const last = Math.min(tableEntries, first + mostClusters);
    let end = clusterSize - inCluster;
    for (let index = first + 1; end < length && index < last; index++, end += clusterSize) {
      const next = this.#image.hostOf(index);
      // what is not at hand is asked for by the next request
      if (next !== (host === 0 ? 0 : host + (index - first) * clusterSize)) break;
    }
    return { host: host === 0 ? 0 : host + inCluster, length: Math.min(length, end) };
  }

  protected allocate(offset: number, length: number, after: number | undefined): MaybePromise<Allocation> {
    return this.#image.exclusive(() => run(this.#allocate(offset, length, after)));
  }

  *#allocate(offset: number, length: number, after: number | undefined): Steps<Allocation> {
    const { clusterSize } = this;
    const image = this.#image;
    yield* image.claim();
    let found = this.#place(offset, length);
    while (found instanceof Promise) {
      yield* wait(found);
      found = this.#place(offset, length);
    }
    const child = image.file;
    if (found.host !== 0) {
      return { child, offset: found.host, length: found.length, padBefore: 0, padAfter: 0, commit: () => undefined, cancel: () => undefined };
    }
    const first = Math.floor(offset / clusterSize);
    const wanted = Math.ceil((offset + found.length) / clusterSize) - first;
    if (first + wanted > image.header.tableEntries) throw systemError(Errno.EINVAL, { op: 'write', offset });
    const { host, count } = yield* image.allocate(wanted, after);
    const padBefore = offset - first * clusterSize;
    const taken = Math.min(length, count * clusterSize - padBefore);
    return {
      child, offset: host + padBefore, length: taken, padBefore, padAfter: count * clusterSize - padBefore - taken,
      commit: () => image.exclusive(() => run(image.link(first, count, host))),
      cancel: () => image.cancel(host, count),
    };
  }

  /** Only what no backing file would show through can be taken away. */
  protected override zero(offset: number, length: number): MaybePromise<void> {
    if (this.cow !== undefined) throw systemError(Errno.ENOTSUP);
    return this.unmap(offset, length);
  }

  protected override unmap(offset: number, length: number): MaybePromise<void> {
    const image = this.#image;
    if (this.cow !== undefined) return undefined;
    const first = Math.floor(offset / this.clusterSize);
    const count = Math.ceil((offset + length) / this.clusterSize) - first;
    return image.exclusive(() => run((function* () {
      yield* image.claim();
      yield* image.unlink(first, count);
    })()));
  }

  override flush(): MaybePromise<void> {
    return this.#readOnly ? undefined : this.#image.exclusive(() => run(this.#image.flush()));
  }

  override async resize(size: number, { preallocation }: ResizeOptions): Promise<void> {
    if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode: ${preallocation}`);
    // clusters may move: nobody else may be writing
    await this.locks.withLock(0, Number.MAX_SAFE_INTEGER, 'exclusive', () => this.#image.exclusive(() => run(resizeParallels(this.#image, size))));
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.#facets[name];
  }

  override async reopen({ readOnly }: { readonly readOnly: boolean }): Promise<void> {
    if (readOnly === this.#readOnly) return;
    const image = this.#image;
    await image.exclusive(() => run(readOnly ? this.#shutDown() : prepareWriting(image, this.#report)));
    this.#bitmaps.follow(readOnly);
    this.#readOnly = readOnly;
  }

  async close(): Promise<void> {
    await this.#image.exclusive(() => run(this.#shutDown()));
  }

  *#shutDown(): Steps<void> {
    try {
      if (!this.#readOnly) yield* this.#bitmaps.store();
    } finally {
      yield* this.#image.shutDown();
    }
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: false,
});
/** What its backing file shows behind its end must not come to light. */
const overlay: Capabilities = Object.freeze({ ...writable, resize: 'none' });
const readable: Capabilities = Object.freeze({ ...writable, write: false, discard: false, resize: 'none' });
