/** Reference counts gathered by a check, for every cluster of the file. Memory follows what is referenced, not the file's size. */

const pageSize = 32768;
const overflow = 0xffff;

export class ReferenceCounts {
  /** Clusters of the file, and of what lies behind its end but is referenced. */
  clusters: number;
  readonly #pages = new Map<number, Uint16Array>();
  /** The page set last: neighbours follow. */
  #lastIndex = -1;
  #lastPage: Uint16Array = new Uint16Array(0);
  /** Counts that do not fit into a page. */
  readonly #large = new Map<number, number>();

  constructor(clusters: number) {
    this.clusters = clusters;
  }

  get(cluster: number): number {
    const index = Math.floor(cluster / pageSize);
    const count = (index === this.#lastIndex ? this.#lastPage : this.#pages.get(index))?.[cluster - index * pageSize] ?? 0;
    return count === overflow ? this.#large.get(cluster)! : count;
  }

  set(cluster: number, count: number): void {
    const index = Math.floor(cluster / pageSize);
    if (index !== this.#lastIndex) this.#turnTo(index);
    if (count >= overflow) this.#large.set(cluster, count);
    this.#lastPage[cluster - index * pageSize] = Math.min(count, overflow);
    if (cluster >= this.clusters) this.clusters = cluster + 1;
  }

  #turnTo(index: number): void {
    let page = this.#pages.get(index);
    if (page === undefined) this.#pages.set(index, page = new Uint16Array(pageSize));
    this.#lastIndex = index;
    this.#lastPage = page;
  }

  increment(cluster: number): void {
    this.set(cluster, this.get(cluster) + 1);
  }

  /** First referenced cluster in [from, end); `end` where there is none. */
  nextReferenced(from: number, end: number): number {
    for (let cluster = from; cluster < end;) {
      const index = Math.floor(cluster / pageSize);
      const pageEnd = Math.min(end, (index + 1) * pageSize);
      const page = this.#pages.get(index);
      if (page !== undefined) {
        for (; cluster < pageEnd; cluster++) if (page[cluster - index * pageSize] !== 0) return cluster;
      }
      cluster = pageEnd;
    }
    return end;
  }

  /** Takes the first `count` free clusters in a row at or after `from`, behind the end of the file if need be. */
  allocate(count: number, from: number): number {
    let start = from;
    for (let cluster = from; cluster < start + count; cluster++) {
      if (this.get(cluster) !== 0) start = cluster + 1;
    }
    for (let cluster = start; cluster < start + count; cluster++) this.increment(cluster);
    return start;
  }

  /** Gives up clusters taken with {@link allocate}. */
  release(start: number, count: number): void {
    for (let cluster = start; cluster < start + count; cluster++) this.set(cluster, 0);
  }
}
