/** Which clusters of a file are taken, for checks. */
const bitsPerPart = 8 * 65_536;

/** A set of cluster numbers below `size`, in memory only around those that are in it. */
export class ClusterSet {
  readonly size: number;
  count = 0;
  readonly #parts = new Map<number, Uint8Array>();

  constructor(size: number) {
    this.size = size;
  }

  /** False: it was there, or is no number below the size. */
  add(cluster: number): boolean {
    if (cluster >= this.size) return false;
    const index = Math.floor(cluster / bitsPerPart);
    let part = this.#parts.get(index);
    if (part === undefined) this.#parts.set(index, part = new Uint8Array(bitsPerPart / 8));
    const bit = cluster % bitsPerPart;
    const mask = 1 << (bit & 7);
    if ((part[bit >> 3]! & mask) !== 0) return false;
    part[bit >> 3]! |= mask;
    this.count++;
    return true;
  }
}
