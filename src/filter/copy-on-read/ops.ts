import type { BlockChild } from '../../block/child.js';
import { Perm, Req } from '../../block/driver.js';
import { FilterOps } from '../../block/filter-ops.js';
import type { BlockNode } from '../../block/node.js';
import { chainStatus } from '../../block/status.js';
import { isZero } from '../../platform/bytes.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { RangeLock } from '../../util/range-lock.js';

/** Longest piece that is read and written at once. */
const longestCopy = 2 << 20;

interface Wanted { readonly offset: number; readonly target: Uint8Array; readonly flags: number }

export class CopyOnReadOps extends FilterOps {
  readonly #base: BlockNode | undefined;
  readonly #copying = new RangeLock();

  /** Layers from `base` on down are not copied from. */
  constructor(file: BlockChild, base: BlockNode | undefined) {
    super(file);
    this.#base = base;
  }

  override read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    if (target.length === 0) return undefined;
    const facts = this.child.facet('formatInfo');
    const cluster = facts?.subclusterSize ?? facts?.clusterSize ?? 1;
    const start = offset - (offset % cluster);
    const end = Math.min(Math.ceil((offset + target.length) / cluster) * cluster, this.size);
    return this.#copying.withLock(start, end, 'exclusive', () => this.#readAndCopy(start, end, { offset, target, flags }));
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    return this.#copying.withLock(offset, offset + source.length, 'shared', () => super.write(offset, source, flags));
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.#copying.withLock(offset, offset + length, 'shared', () => super.writeZeroes(offset, length, flags));
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    return this.#copying.withLock(offset, offset + length, 'shared', () => super.discard(offset, length));
  }

  override childPermissions(_name: string, { take, share }: { readonly take: number; readonly share: number }): { take: number; share: number } {
    return { take: take | Perm.WRITE_UNCHANGED, share };
  }

  /** Reads the range piece by piece, and writes to the top layer what lower ones decide. */
  #readAndCopy(start: number, end: number, wanted: Wanted): MaybePromise<void> {
    let at = start;
    const next = (): MaybePromise<void> => {
      if (at >= end) return undefined;
      return andThen(this.child.status(at, end - at, false), (own) => {
        if (own.allocated) return advance(own.length, this.#readPlainly(at, own.length, wanted));
        return andThen(chainStatus(this.child.node, at, own.length, { base: this.#base }), (below) => {
          if (this.#base !== undefined && !below.allocated) return advance(below.length, this.#readPlainly(at, below.length, wanted));
          if (below.zero) {
            part(wanted, at, below.length)?.fill(0);
            return advance(below.length, this.#writeZeroes(at, below.length));
          }
          const length = Math.min(below.length, longestCopy);
          return advance(length, this.#copyPiece(at, length, wanted));
        });
      });
    };
    const advance = (length: number, step: MaybePromise<void>): MaybePromise<void> => {
      at += length;
      return andThen(step, next);
    };
    return next();
  }

  #readPlainly(offset: number, length: number, wanted: Wanted): MaybePromise<void> {
    const target = part(wanted, offset, length);
    return target && this.child.read(Math.max(offset, wanted.offset), target, wanted.flags);
  }

  #copyPiece(offset: number, length: number, wanted: Wanted): MaybePromise<void> {
    const buffer = new Uint8Array(length);
    return andThen(this.child.read(offset, buffer), () => {
      part(wanted, offset, length)?.set(part({ offset, target: buffer, flags: 0 }, wanted.offset, wanted.target.length)!);
      if (isZero(buffer)) return this.#writeZeroes(offset, length);
      return andThen(this.#announce(), () => this.child.write(offset, buffer, Req.UNCHANGED));
    });
  }

  #writeZeroes(offset: number, length: number): MaybePromise<void> {
    return andThen(this.#announce(), () => this.child.writeZeroes(offset, length, Req.UNCHANGED));
  }

  #announce(): MaybePromise<void> {
    return this.child.node.ops.debugEvent?.('cor_write');
  }
}

/** What of a request's buffer lies in [offset, offset + length); undefined: nothing. */
function part(request: Wanted, offset: number, length: number): Uint8Array | undefined {
  const from = Math.max(0, offset - request.offset);
  const to = Math.min(request.target.length, offset + length - request.offset);
  return from < to ? request.target.subarray(from, to) : undefined;
}
