/** The open layer. A catalog says where extents lie; each begins with a bitmap of the sectors it holds. */
import type { BlockChild } from '../../block/child.js';
import type { LayerExtent } from '../../block/driver.js';
import type { AskAgain } from '../../block/mapped-format.js';
import { ReadOnlyFormat } from '../../block/read-only-format.js';
import { TableCache } from '../../block/table-cache.js';
import { viewOf } from '../../util/view.js';
import { sectorSize, type BochsHeader } from './header.js';

const absent = 0xffff_ffff;
const cachedBitmaps = 512;

export class BochsOps extends ReadOnlyFormat {
  readonly size: number;
  readonly clusterSize: number;
  readonly #file: BlockChild;
  readonly #catalog: DataView;
  readonly #bitmaps: TableCache;
  readonly #start: number;
  readonly #bitmapSpace: number;

  /** @param catalog as much of it as the file holds */
  constructor(file: BlockChild, header: BochsHeader, catalog: Uint8Array) {
    super();
    this.#file = file;
    this.#catalog = viewOf(catalog);
    this.size = header.size;
    this.clusterSize = header.extentSize;
    this.#start = header.headerSize + header.extents * 4;
    this.#bitmapSpace = Math.ceil(Math.max(header.bitmapSize, 1) / sectorSize) * sectorSize;
    this.#bitmaps = new TableCache(Math.ceil(header.extentSize / sectorSize / 8), cachedBitmaps, {
      load: (offset, target) => file.read(offset, target),
      store: () => undefined,
    });
  }

  protected map(offset: number, length: number): LayerExtent | AskAgain {
    const { clusterSize } = this;
    const index = Math.floor(offset / clusterSize);
    const inExtent = offset - index * clusterSize;
    const wanted = Math.min(length, clusterSize - inExtent);
    const place = this.#place(index);
    if (place === undefined) return { kind: 'zero', length: wanted, allocated: true };
    if (this.#bitmaps.get(place) === undefined) {
      const loading = this.#bitmaps.fetch(place);
      if (loading !== undefined) return loading;
    }
    const { bytes } = this.#bitmaps.get(place)!;
    const has = (sector: number): boolean => (bytes[sector >>> 3]! & (1 << (sector & 7))) !== 0;
    const first = Math.floor(inExtent / sectorSize);
    let end = first + 1;
    while (end * sectorSize < inExtent + wanted && has(end) === has(first)) end++;
    const found = Math.min(wanted, end * sectorSize - inExtent);
    if (!has(first)) return { kind: 'zero', length: found, allocated: true };
    return { kind: 'data', length: found, host: { child: this.#file, offset: place + this.#bitmapSpace + inExtent } };
  }

  /** Byte of the file where an extent's bitmap lies. */
  #place(index: number): number | undefined {
    if (index * 4 + 4 > this.#catalog.byteLength) return undefined;
    const entry = this.#catalog.getUint32(index * 4, true);
    return entry === absent ? undefined : this.#start + entry * (this.#bitmapSpace + this.clusterSize);
  }
}
