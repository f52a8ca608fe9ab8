/** Where metadata lies, so that no write hits it by mistake (a damaged image would otherwise be destroyed by its first writer). */

/** Structures, as a bit mask. */
export const Structure = {
  MAIN_HEADER: 1, ACTIVE_L1: 2, ACTIVE_L2: 4, REFCOUNT_TABLE: 8, REFCOUNT_BLOCK: 16, SNAPSHOT_TABLE: 32, INACTIVE_L1: 64,
  INACTIVE_L2: 128, BITMAP_DIRECTORY: 256,
} as const;

const names: readonly (readonly [bit: number, option: string, text: string])[] = [
  [Structure.MAIN_HEADER, 'main-header', 'qcow2_header'],
  [Structure.ACTIVE_L1, 'active-l1', 'active L1 table'],
  [Structure.ACTIVE_L2, 'active-l2', 'active L2 table'],
  [Structure.REFCOUNT_TABLE, 'refcount-table', 'refcount table'],
  [Structure.REFCOUNT_BLOCK, 'refcount-block', 'refcount block'],
  [Structure.SNAPSHOT_TABLE, 'snapshot-table', 'snapshot table'],
  [Structure.INACTIVE_L1, 'inactive-l1', 'inactive L1 table'],
  [Structure.INACTIVE_L2, 'inactive-l2', 'inactive L2 table'],
  [Structure.BITMAP_DIRECTORY, 'bitmap-directory', 'bitmap directory'],
];

/** Bits by the names that options give the structures ('active-l1'). */
export const structureOptions: readonly (readonly [bit: number, option: string])[] = names.map(([bit, option]) => [bit, option]);

const constant = Structure.MAIN_HEADER | Structure.ACTIVE_L1 | Structure.REFCOUNT_TABLE | Structure.SNAPSHOT_TABLE | Structure.BITMAP_DIRECTORY;
const cached = constant | Structure.ACTIVE_L2 | Structure.REFCOUNT_BLOCK | Structure.INACTIVE_L1;

/** What the values of the option `overlap-check` stand for. */
export const overlapTemplates: Readonly<Record<string, number>> = { none: 0, constant, cached, all: cached | Structure.INACTIVE_L2 };

/** Name of the first structure in a mask, for messages. */
export function structureName(mask: number): string {
  return names.find(([bit]) => (mask & bit) !== 0)?.[2] ?? 'metadata';
}

/** Host clusters that hold metadata. Memory goes with the number of tables, not with the size of the disk. */
export class MetadataMap {
  readonly #clusters = new Map<number, number>();
  readonly #clusterSize: number;
  /** No metadata was ever noted from here on: where new data mostly goes. */
  #end = 0;

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize;
  }

  add(structure: number, offset: number, length: number): void {
    const end = offset + length;
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster * this.#clusterSize < end; cluster++) {
      this.#clusters.set(cluster, (this.#clusters.get(cluster) ?? 0) | structure);
    }
    this.#end = Math.max(this.#end, end);
  }

  remove(structure: number, offset: number, length: number): void {
    const end = offset + length;
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster * this.#clusterSize < end; cluster++) {
      const rest = (this.#clusters.get(cluster) ?? 0) & ~structure;
      if (rest === 0) this.#clusters.delete(cluster);
      else this.#clusters.set(cluster, rest);
    }
  }

  /** Structures that a range touches. */
  find(offset: number, length: number): number {
    const end = Math.min(offset + length, this.#end);
    let found = 0;
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster * this.#clusterSize < end; cluster++) {
      found |= this.#clusters.get(cluster) ?? 0;
    }
    return found;
  }

  clear(): void {
    this.#clusters.clear();
    this.#end = 0;
  }
}
