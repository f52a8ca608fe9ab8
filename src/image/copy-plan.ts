/** What a copy has to do for each part of the disk: read and write it, zero it, or leave it to the target's backing file. */
import type { BlockBackend } from '../block/child.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { chainStatus, type ChainStatus } from '../block/status.js';
import { wait, type Steps } from '../util/steps.js';

const sector = 512;

export interface CopySource {
  readonly image: BlockBackend;
  /** Where its content ends and the target's backing file begins to show the same; absent: the whole chain is copied. */
  readonly base?: BlockNode | undefined;
}

export interface CopySegment {
  readonly kind: 'data' | 'zero' | 'backing';
  readonly offset: number;
  readonly length: number;
  /** Where its bytes lie plainly, if in one file. */
  readonly host?: { readonly node: BlockNode; readonly offset: number } | undefined;
  /** Compressed clusters behind each other: the length of each. */
  readonly unit?: number | undefined;
}

/** Compressed clusters are taken together up to this many bytes. */
const enoughCompressed = 2 << 20;
/** Of data no more is asked at once: what follows is looked up while this is copied. */
const enoughData = 64 << 20;

export interface PlanControl {
  /** The target is an overlay: what the sources leave to their bases is left to its backing file, which ends here. */
  readonly targetBackingSize?: number | undefined;
  /** Segments start and end at multiples of this (or at the end): clusters that are written whole. */
  readonly alignment: number;
  /** Go on where a status cannot be had: the range is taken for data. Called for each. */
  readonly onUnknown?: ((offset: number, error: BlockError) => void) | undefined;
}

/** The sources one behind the other. */
export class CopyPlan {
  readonly size: number;
  readonly #sources: readonly CopySource[];
  readonly #control: PlanControl;
  /** Of the segment asked for last. */
  #known: CopySegment | undefined;

  constructor(sources: readonly CopySource[], control: PlanControl) {
    this.#sources = sources;
    this.#control = control;
    this.size = sources.reduce((sum, { image }) => sum + image.size, 0);
  }

  /** What to do from `offset` on, for at most `longest` bytes. @throws BlockError that names the offset */
  *segment(offset: number, longest: number): Steps<CopySegment> {
    const { alignment } = this.#control;
    const first = yield* this.#plainSegment(offset);
    const length = Math.min(first.length, longest);
    if (alignment === 1 || offset + length === this.size) return { ...first, length };
    const whole = length - (length % alignment);
    if (whole > 0) return { ...first, length: whole };
    const end = Math.min(offset + alignment, this.size);
    return { kind: yield* this.#mixedKind(first, end), offset, length: end - offset };
  }

  /** Fills the buffer from `offset` on, from as many sources as it takes. */
  *read(offset: number, target: Uint8Array): Steps<void> {
    for (let done = 0; done < target.length;) {
      const { source, start } = this.#at(offset + done);
      const length = Math.min(target.length - done, start + source.image.size - offset - done);
      yield* wait(source.image.read(offset + done - start, target.subarray(done, done + length)));
      done += length;
    }
  }

  /** A unit that no single answer covers is copied as data, unless it is zero or left out throughout. */
  *#mixedKind(first: CopySegment, end: number): Steps<CopySegment['kind']> {
    for (let at = first.offset + first.length; at < end;) {
      const next = yield* this.#plainSegment(at);
      if (next.kind !== first.kind) return 'data';
      at += next.length;
    }
    return first.kind;
  }

  *#plainSegment(offset: number): Steps<CopySegment> {
    const known = this.#known;
    if (known !== undefined && offset >= known.offset && offset < known.offset + known.length) {
      const skipped = offset - known.offset;
      const host = known.host && { node: known.host.node, offset: known.host.offset + skipped };
      return { ...known, offset, length: known.length - skipped, host };
    }
    const { source, start } = this.#at(offset);
    let status = yield* this.#status(source, offset, offset - start, enoughData);
    let kind = this.#kind(source, offset, status);
    if (kind !== 'data' && status.length === enoughData) {
      status = yield* this.#status(source, offset, offset - start);
      kind = this.#kind(source, offset, status);
    }
    if (kind === 'data' && status.compressed) return this.#known = yield* this.#compressedSegment(source, offset, start, status.length);
    return this.#known = { kind, offset, length: status.length, host: kind === 'data' ? status.host : undefined };
  }

  *#compressedSegment(source: CopySource, offset: number, start: number, unit: number): Steps<CopySegment> {
    const end = Math.min(start + source.image.size, offset + enoughCompressed);
    let at = offset + unit;
    while (at < end) {
      const status = yield* this.#status(source, at, at - start, enoughCompressed);
      if (!status.compressed || this.#kind(source, at, status) !== 'data') break;
      at += status.length;
    }
    return { kind: 'data', offset, length: at - offset, unit };
  }

  #kind({ base }: CopySource, offset: number, { zero, data, depth }: ChainStatus): CopySegment['kind'] {
    const { targetBackingSize } = this.#control;
    if (targetBackingSize === undefined) return zero ? 'zero' : 'data';
    const leftToBase = base !== undefined && depth === 0;
    if (zero) return leftToBase && offset >= targetBackingSize ? 'backing' : 'zero';
    return data && !leftToBase ? 'data' : 'backing';
  }

  #at(offset: number): { source: CopySource; start: number } {
    let start = 0;
    for (const source of this.#sources) {
      if (offset < start + source.image.size) return { source, start };
      start += source.image.size;
    }
    throw new RangeError(`nothing lies at ${offset}`);
  }

  /** With onUnknown, smaller and smaller ranges are asked for until the bad sector stands alone. */
  *#status({ image, base }: CopySource, offset: number, start: number, longest = Infinity): Steps<ChainStatus> {
    for (let length = Math.min(longest, image.size - start);;) {
      try {
        return yield* wait(chainStatus(image.node, start, length, { base }));
      } catch (error) {
        if (!(error instanceof BlockError)) throw error;
        const { onUnknown } = this.#control;
        if (onUnknown === undefined) {
          throw new BlockError(error.code, `error while reading block status at offset ${offset}: ${error.message}`, error.context, error);
        }
        if (length <= sector) {
          onUnknown(offset, error);
          return { length, data: true, zero: false, allocated: true, compressed: false, eof: false, depth: 1 };
        }
        length = Math.min(length - 1, Math.ceil(length / 4 / sector) * sector);
      }
    }
  }
}
