/** Writing sparse extents anew: grains in the order of the disk, nothing between them. */
import type { BlockChild } from '../../block/child.js';
import type { CompactFile } from '../../block/facets.js';
import { settled } from '../../block/mapped-format.js';
import { isZero } from '../../platform/bytes.js';
import { Pauses } from '../../platform/pauses.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { layOut } from './create.js';
import type { DescriptorPlace } from './image.js';
import { cowdHeaderSectors, growCowdHeader, parseCowdHeader, parseSparseHeader, sectorSize, sparseLayout } from './header.js';
import { cowdExtent, hostedExtent } from './hosted.js';
import type { VmdkImage } from './image.js';
import { SparseExtent } from './sparse.js';

type Control = Parameters<CompactFile['write']>[1];

/** Bytes of the disk copied at a time. */
const pieceBytes = 1 << 20;

/** Flat extents have an order already. */
export function compactFiles(image: VmdkImage): CompactFile[] {
  return image.extents.flatMap((extent, index) => {
    const alone = extent.file === image.file;
    if (!(extent instanceof SparseExtent) || extent.kind === 'sesparse' || (alone && extent.kind === 'cowd')) return [];
    const rewrite = new Rewriting(image, extent, image.starts[index]!);
    return [{
      path: extent.file.node.filename, size: extent.size,
      write: async (target, control) => run(rewrite.write(target, control, alone ? image.place : undefined)),
    } satisfies CompactFile];
  });
}

class Rewriting {
  readonly #image: VmdkImage;
  readonly #source: SparseExtent;
  /** Of the extent on the disk. */
  readonly #start: number;

  constructor(image: VmdkImage, source: SparseExtent, start: number) {
    this.#image = image;
    this.#source = source;
    this.#start = start;
  }

  /** `descriptor`: the file holds one. */
  *write(file: BlockChild, control: Control, descriptor: DescriptorPlace | undefined): Steps<void> {
    const source = this.#source;
    const target = source.kind === 'cowd' ? yield* this.#newCowd(file) : yield* this.#newHosted(file, descriptor);
    const buffer = new Uint8Array(Math.max(pieceBytes, source.grainSize));
    const pauses = new Pauses();
    for (let offset = 0; offset < source.size;) {
      yield* wait(pauses.take());
      control.signal?.throwIfAborted();
      const extent = yield* settled(() => source.map(offset, Math.min(source.size - offset, buffer.length - offset % source.grainSize)));
      if (extent.kind === 'zero' && !(control.dropZeroes && (yield* this.#isZeroBelow(offset, extent.length, buffer)))) {
        yield* wait(target.zero(offset, extent.length));
      } else if (extent.kind === 'data') {
        const content = buffer.subarray(0, extent.length);
        yield* wait(source.file.read(extent.host!.offset, content));
        yield* this.#copy(target, offset, content, control.dropZeroes);
      }
      offset += extent.length;
      control.progress?.(offset);
    }
    yield* target.flush();
    yield* wait(file.flush());
  }

  *#newHosted(file: BlockChild, descriptor: DescriptorPlace | undefined): Steps<SparseExtent> {
    const { source, former } = { source: this.#source, former: parseSparseHeader(yield* this.#head()) };
    const header = {
      ...sparseLayout(former.capacity, {
        zeroedGrain: source.knowsZeroes, grain: former.grain, tableEntries: former.tableEntries,
        descriptorLength: Math.max(20, descriptor === undefined ? 0 : descriptor.length / sectorSize),
      }),
      version: former.version,
    };
    yield* layOut(file, header, descriptor === undefined ? new Uint8Array(0) : yield* this.#image.readText());
    return hostedExtent(file, header, source.type);
  }

  *#newCowd(file: BlockChild): Steps<SparseExtent> {
    const head = new Uint8Array(cowdHeaderSectors * sectorSize);
    yield* wait(this.#source.file.read(0, head));
    const { capacity, directoryEntries } = parseCowdHeader(head);
    const end = cowdHeaderSectors + Math.ceil(directoryEntries * 4 / sectorSize);
    growCowdHeader(head, { capacity, directory: cowdHeaderSectors, directoryEntries, end });
    yield* wait(file.resize(end * sectorSize, { exact: false }));
    yield* wait(file.write(0, head));
    return cowdExtent(file, parseCowdHeader(head), this.#source.type);
  }

  *#head(): Steps<Uint8Array> {
    const head = new Uint8Array(sectorSize);
    yield* wait(this.#source.file.read(0, head));
    return head;
  }

  /** Whole grains, but for the disk's end. */
  *#copy(target: SparseExtent, offset: number, content: Uint8Array, dropZeroes: boolean): Steps<void> {
    const { grainSize } = target;
    const scratch = dropZeroes ? new Uint8Array(grainSize) : undefined;
    let first = 0;
    for (let at = 0; at < content.length; at += grainSize) {
      const grain = content.subarray(at, at + grainSize);
      if (scratch === undefined || !isZero(grain)) continue;
      const below = yield* this.#isZeroBelow(offset + at, grain.length, scratch);
      if (!below && !target.knowsZeroes) continue;
      yield* this.#store(target, offset + first, content.subarray(first, at));
      if (!below) yield* wait(target.zero(offset + at, grain.length));
      first = at + grainSize;
    }
    yield* this.#store(target, offset + first, content.subarray(first));
  }

  *#store(target: SparseExtent, offset: number, content: Uint8Array): Steps<void> {
    for (let done = 0; done < content.length;) {
      const room = yield* wait(target.allocate(offset + done, content.length - done));
      yield* wait(room.child.write(room.offset, content.subarray(done, done + room.length)));
      if (room.padAfter > 0) yield* wait(room.child.write(room.offset + room.length, new Uint8Array(room.padAfter)));
      yield* wait(room.commit());
      done += room.length;
    }
  }

  /** Whether the range reads as zero where the extent has nothing. */
  *#isZeroBelow(offset: number, length: number, scratch: Uint8Array): Steps<boolean> {
    const { backing, descriptor } = this.#image;
    if (backing === undefined) return descriptor.parentHint === undefined;
    for (let done = 0; done < length; done += scratch.length) {
      const piece = scratch.subarray(0, Math.min(scratch.length, length - done));
      yield* wait(backing.read(this.#start + offset + done, piece));
      if (!isZero(piece)) return false;
    }
    return true;
  }
}
