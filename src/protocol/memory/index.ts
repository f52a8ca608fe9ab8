/** Driver `memory`: a disk held in memory, sparse, gone when it is closed. Runs anywhere, browsers included. */
import { type BlockDriver, BlockOps, type Capabilities, type LayerExtent, Req, type ResizeOptions } from '../../block/driver.js';
import type { Facets } from '../../block/facets.js';

export interface MemoryOptions {
  /** Initial size in bytes; the disk grows when written past its end. */
  readonly size?: number;
}

/** Bytes per page: what is stored, zeroed and reported as one. */
const pageSize = 64 * 1024;

const capabilities: Capabilities = Object.freeze({
  write: true, writeFlags: Req.FUA, zeroFlags: Req.FUA | Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: true,
});

class MemoryOps extends BlockOps {
  size: number;
  readonly capabilities = capabilities;
  private readonly pages = new Map<number, Uint8Array>();
  private readonly facets: Partial<Facets> = { allocatedSize: { allocatedSize: () => Promise.resolve(this.pages.size * pageSize) } };

  constructor(size: number) {
    super();
    this.size = size;
  }

  read(offset: number, target: Uint8Array): void {
    for (let done = 0; done < target.length;) {
      const inPage = (offset + done) % pageSize;
      const end = Math.min(done + pageSize - inPage, target.length);
      const page = this.pages.get((offset + done - inPage) / pageSize);
      if (page === undefined) target.fill(0, done, end);
      else target.set(page.subarray(inPage, inPage + end - done), done);
      done = end;
    }
  }

  override write(offset: number, source: Uint8Array): void {
    for (let done = 0; done < source.length;) {
      const inPage = (offset + done) % pageSize;
      const length = Math.min(pageSize - inPage, source.length - done);
      this.pageForWriting((offset + done - inPage) / pageSize).set(source.subarray(done, done + length), inPage);
      done += length;
    }
    this.size = Math.max(this.size, offset + source.length);
  }

  override writeZeroes(offset: number, length: number): void {
    this.clear(offset, length);
    this.size = Math.max(this.size, offset + length);
  }

  override discard(offset: number, length: number): void {
    this.clear(offset, length);
  }

  status(offset: number, length: number): LayerExtent {
    const end = offset + length;
    let index = Math.floor(offset / pageSize);
    const stored = this.pages.has(index);
    do index++; while (index * pageSize < end && this.pages.has(index) === stored);
    const found = Math.min(index * pageSize, end) - offset;
    return stored ? { kind: 'data', length: found } : { kind: 'zero', length: found, allocated: true };
  }

  override resize(size: number, _options: ResizeOptions): Promise<void> {
    if (size < this.size) this.clear(size, this.size - size);
    this.size = size;
    return Promise.resolve();
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.facets[name];
  }

  close(): Promise<void> {
    this.pages.clear();
    return Promise.resolve();
  }

  private pageForWriting(index: number): Uint8Array {
    let page = this.pages.get(index);
    if (page === undefined) this.pages.set(index, page = new Uint8Array(pageSize));
    return page;
  }

  /** Drops whole pages and zeroes the parts of others. */
  private clear(offset: number, length: number): void {
    const end = Math.min(offset + length, this.size);
    const first = Math.floor(offset / pageSize);
    const last = Math.ceil(end / pageSize);
    // A huge range over few pages: walk the pages instead of the range.
    const touched = last - first > this.pages.size ? [...this.pages.keys()].filter((index) => index >= first && index < last) : numbers(first, last);
    for (const index of touched) {
      const from = Math.max(offset - index * pageSize, 0);
      const to = Math.min(end - index * pageSize, pageSize);
      const reachesEnd = to === pageSize || end === this.size;
      if (from === 0 && reachesEnd) this.pages.delete(index);
      else this.pages.get(index)?.fill(0, from, to);
    }
  }
}

function* numbers(first: number, last: number): Iterable<number> {
  for (let index = first; index < last; index++) yield index;
}

export const memory: BlockDriver<MemoryOptions> = {
  name: 'memory',
  kind: 'protocol',
  options: { size: { type: 'size', default: 0, help: 'Initial size in bytes' } },
  children: {},
  open: ({ options }) => new MemoryOps(options.size ?? 0),
};
