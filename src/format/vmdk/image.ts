/** A disk as it is open: its descriptor and its extents. */
import type { BlockChild } from '../../block/child.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { wait, type Steps } from '../../util/steps.js';
import { newCid, withCid, type Descriptor } from './descriptor.js';
import type { Extent } from './extent.js';
import { sectorSize, type SparseHeader } from './header.js';

export interface DescriptorPlace {
  readonly offset: number;
  /** Bytes of it, padding included. */
  readonly length: number;
}

export class VmdkImage {
  readonly file: BlockChild;
  readonly backing: BlockChild | undefined;
  readonly descriptor: Descriptor;
  readonly extents: readonly Extent[];
  /** Guest offset of each extent. */
  readonly starts: readonly number[];
  readonly size: number;
  /** Of the one extent that holds the descriptor, too. */
  readonly header: SparseHeader | undefined;
  readonly #place: DescriptorPlace;
  #parentKnown = false;

  constructor(init: {
    readonly file: BlockChild; readonly backing: BlockChild | undefined; readonly descriptor: Descriptor; readonly place: DescriptorPlace;
    readonly extents: readonly Extent[]; readonly header?: SparseHeader | undefined;
  }) {
    this.file = init.file;
    this.backing = init.backing;
    this.descriptor = init.descriptor;
    this.#place = init.place;
    this.extents = init.extents;
    this.header = init.header;
    let size = 0;
    this.starts = init.extents.map((extent) => {
      const start = size;
      size += extent.size;
      return start;
    });
    this.size = size;
    if (!Number.isSafeInteger(size)) {
      throw new BlockError('UNSUPPORTED_FEATURE', 'Could not refresh total sector count: File too large', { errno: Errno.EFBIG });
    }
  }

  /** Number of the extent that holds a guest offset. */
  extentAt(offset: number): number {
    const { starts } = this;
    let low = 0;
    for (let high = starts.length - 1; low < high;) {
      const middle = (low + high + 1) >>> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The content changes: children that were made for the former one must see that. */
  *renewCid(): Steps<void> {
    const cid = newCid();
    const bytes = new Uint8Array(this.#place.length);
    yield* wait(this.file.read(this.#place.offset, bytes));
    const end = bytes.indexOf(0);
    const text = withCid(end === -1 ? bytes : bytes.subarray(0, end), cid);
    if (this.#place.offset > 0 && text.length > bytes.length) throw systemError(Errno.ENOSPC, { op: 'write' });
    yield* wait(this.file.write(this.#place.offset, text));
    this.descriptor.cid = cid;
  }

  /** @throws BlockError EINVAL where the parent is not what this disk was made for */
  checkParent(): void {
    if (this.#parentKnown || this.backing === undefined) return;
    const parent = this.backing.facet('formatInfo')?.specific();
    if (parent?.type !== 'vmdk' || parent.data['cid'] !== this.descriptor.parentCid) {
      throw systemError(Errno.EINVAL, { op: 'read', filename: this.backing.node.filename });
    }
    this.#parentKnown = true;
  }

  /** Unit in which mappings are independent of each other: the largest grain, if all extents start with one. */
  get lockUnit(): number {
    const unit = this.extents.reduce((largest, { grainSize = sectorSize }) => Math.max(largest, grainSize), 64 * 1024);
    return this.starts.every((start) => start % unit === 0) ? unit : Math.max(this.size, unit);
  }
}
