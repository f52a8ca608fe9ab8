/** Which clusters of the file are in use. */

/** A run of clusters by their number; cluster 0 is the first one of data. */
export interface Clusters { readonly first: number; readonly count: number }

export class Space {
  #bits = new Uint8Array(64);
  /** Behind the last cluster in use. */
  #end = 0;
  #used = 0;
  /** No cluster in front of it is free. */
  #lowest = 0;

  /** Number of clusters from the first to the last one in use. */
  get end(): number { return this.#end; }

  isUsed(cluster: number): boolean {
    return cluster < this.#end && (this.#bits[cluster >>> 3]! & (1 << (cluster & 7))) !== 0;
  }

  use({ first, count }: Clusters): void {
    this.#makeRoom(first + count);
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.isUsed(cluster)) continue;
      this.#bits[cluster >>> 3]! |= 1 << (cluster & 7);
      this.#used++;
      if (cluster >= this.#end) this.#end = cluster + 1;
    }
  }

  free({ first, count }: Clusters): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      if (!this.isUsed(cluster)) continue;
      this.#bits[cluster >>> 3]! &= ~(1 << (cluster & 7));
      this.#used--;
    }
    this.#lowest = Math.min(this.#lowest, first);
    while (this.#end > 0 && !this.isUsed(this.#end - 1)) this.#end--;
  }

  /** Takes up to `count` clusters in a row: those from `after` on if they are free, else the first hole, else behind the end. */
  take(count: number, after: number | undefined): Clusters {
    const first = after !== undefined && !this.isUsed(after) ? after : this.#firstFree();
    let taken = 1;
    while (taken < count && !this.isUsed(first + taken)) taken++;
    const found = { first, count: taken };
    this.use(found);
    return found;
  }

  #firstFree(): number {
    if (this.#used === this.#end) return this.#end;
    let cluster = this.#lowest;
    while (cluster < this.#end && this.isUsed(cluster)) cluster = (cluster & 7) === 0 && this.#bits[cluster >>> 3] === 0xff ? cluster + 8 : cluster + 1;
    this.#lowest = Math.min(cluster, this.#end);
    return this.#lowest;
  }

  #makeRoom(end: number): void {
    if (end <= this.#bits.length * 8) return;
    const larger = new Uint8Array(Math.max(this.#bits.length * 2, Math.ceil(end / 8)));
    larger.set(this.#bits);
    this.#bits = larger;
  }
}
