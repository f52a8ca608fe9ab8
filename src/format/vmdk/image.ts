/** A disk as it is open: its descriptor and its extents. */
import type { BlockChild } from '../../block/child.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { wait, type Steps } from '../../util/steps.js';
import { decodeText, formatCid, newCid, noParent, parseDescriptor, withCid, type Descriptor } from './descriptor.js';
import { editDescriptor, type DescriptorEdit } from './descriptor-text.js';
import type { Extent } from './extent.js';
import { sectorSize, type SparseHeader } from './header.js';

/** Where grains of one extent may share their place on the disk with those of the next, all requests wait for each other. */
const apart = 2 ** 50;

export interface DescriptorPlace {
  readonly offset: number;
  /** Bytes of it, padding included. */
  readonly length: number;
}

export class VmdkImage {
  readonly file: BlockChild;
  readonly backing: BlockChild | undefined;
  /** Of the one extent that holds the descriptor, too. */
  readonly header: SparseHeader | undefined;
  readonly place: DescriptorPlace;
  readonly extents: Extent[];
  /** Guest offset of each extent. */
  starts: readonly number[] = [];
  size = 0;
  #descriptor: Descriptor;
  #parentKnown = false;

  constructor(init: {
    readonly file: BlockChild; readonly backing: BlockChild | undefined; readonly descriptor: Descriptor; readonly place: DescriptorPlace;
    readonly extents: readonly Extent[]; readonly header?: SparseHeader | undefined;
  }) {
    this.file = init.file;
    this.backing = init.backing;
    this.#descriptor = init.descriptor;
    this.place = init.place;
    this.extents = [...init.extents];
    this.header = init.header;
    this.measure();
  }

  get descriptor(): Descriptor {
    return this.#descriptor;
  }

  /** The extents have changed. */
  measure(): void {
    let size = 0;
    this.starts = this.extents.map((extent) => {
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

  /** It stands on another disk, whose size it has. */
  get isChild(): boolean {
    return this.descriptor.parentCid !== noParent || this.descriptor.parentHint !== undefined;
  }

  /** The descriptor lies in an extent's file. */
  get embedded(): boolean {
    return this.place.offset > 0;
  }

  /** The content changes: children that were made for the former one must see that. */
  *renewCid(): Steps<void> {
    const cid = newCid();
    const former = formatCid(this.descriptor.cid);
    const long = this.descriptor.database.get('longContentID');
    const text = withCid(yield* this.readText(), cid);
    const entries = long?.toLowerCase().endsWith(former) ? new Map([['longContentID', long.slice(0, -former.length) + formatCid(cid)]]) : undefined;
    yield* this.#writeText(entries === undefined ? text : editDescriptor(text, { entries }));
  }

  /** It is durable when this is done. @throws BlockError NO_SPACE where the descriptor has no room for it */
  *edit(edit: DescriptorEdit): Steps<void> {
    yield* this.#writeText(editDescriptor(yield* this.readText(), edit));
    yield* wait(this.file.flush());
  }

  /** The descriptor's bytes, without padding. */
  *readText(): Steps<Uint8Array> {
    const bytes = yield* this.#readPlace();
    const end = bytes.indexOf(0);
    return end === -1 ? bytes : bytes.subarray(0, end);
  }

  *#readPlace(): Steps<Uint8Array> {
    const bytes = new Uint8Array(this.embedded ? this.place.length : this.file.size);
    yield* wait(this.file.read(this.place.offset, bytes));
    return bytes;
  }

  /** In place where that changes one sector, or where there is no other way; else the file is replaced at once. */
  *#writeText(text: Uint8Array): Steps<void> {
    const descriptor = parseDescriptor(decodeText(text), this.file.node.filename, this.embedded);
    const before = yield* this.#readPlace();
    if (this.embedded && text.length > before.length) {
      throw new BlockError('NO_SPACE', 'The descriptor has no room for this', { op: 'write', errno: Errno.ENOSPC });
    }
    const after = new Uint8Array(this.embedded ? before.length : text.length);
    after.set(text);
    const [start, end] = changedSectors(before, after);
    const rewrite = this.file.facet('rewrite');
    if (!this.embedded && rewrite !== undefined && (end - start > sectorSize || after.length < before.length)) {
      yield* wait(rewrite.rewrite(after));
    } else {
      if (end > start) yield* wait(this.file.write(this.place.offset + start, after.subarray(start, end)));
      if (after.length < before.length) yield* wait(this.file.resize(after.length, { exact: false }));
    }
    this.#descriptor = descriptor;
  }

  /** @throws BlockError EINVAL where the parent is not what this disk was made for */
  checkParent(): void {
    if (this.#parentKnown || this.backing === undefined) return;
    const parent = this.backing.facet('formatInfo')?.specific();
    if (parent?.type !== 'vmdk' || parent.data['cid'] !== this.descriptor.parentCid) {
      throw systemError(Errno.EINVAL, { op: 'read', filename: this.backing.node.filename, fault: 'parent-changed' });
    }
    this.#parentKnown = true;
  }

  /** Unit in which mappings are independent of each other: the largest grain, if all extents start with one. */
  get lockUnit(): number {
    const unit = this.extents.reduce((largest, { grainSize = sectorSize }) => Math.max(largest, grainSize), 64 * 1024);
    return this.starts.every((start) => start % unit === 0) ? unit : apart;
  }
}

/** Where two texts differ, in whole sectors; those of the second one. */
function changedSectors(before: Uint8Array, after: Uint8Array): readonly [start: number, end: number] {
  const differs = (sector: number): boolean => {
    for (let at = sector * sectorSize; at < (sector + 1) * sectorSize; at++) if (before[at] !== after[at]) return true;
    return false;
  };
  const sectors = Math.ceil(after.length / sectorSize);
  let first = 0;
  while (first < sectors && !differs(first)) first++;
  let last = sectors;
  while (last > first && !differs(last - 1)) last--;
  return [first * sectorSize, Math.min(last * sectorSize, after.length)];
}
