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

export class CopyOnReadOps extends FilterOps {
  readonly #base: BlockNode | undefined;
  readonly #copying = new RangeLock();

  /** Layers from `base` on down are not copied from. */
  constructor(file: BlockChild, base: BlockNode | undefined) {
    super(file);
    this.#base = base;
  }

  override read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    const facts = this.child.facet('formatInfo');
    const cluster = facts?.subclusterSize ?? facts?.clusterSize ?? 1;
    const end = Math.min(Math.ceil((offset + target.length) / cluster) * cluster, this.size);
    const start = offset - (offset % cluster);
    if (target.length === 0) return undefined;
    return this.#copying.withLock(start, end, 'exclusive', () =>
      andThen(this.#copy(start, end), () => this.child.read(offset, target, flags)));
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

  /** Writes to the top layer what lower ones decide in the range. */
  #copy(start: number, end: number): MaybePromise<void> {
    let at = start;
    const next = (): MaybePromise<void> => {
      if (at >= end) return undefined;
      return andThen(this.child.status(at, end - at, false), (own) => {
        if (own.length === 0) return undefined;
        if (own.allocated) {
          at += own.length;
          return next();
        }
        return andThen(chainStatus(this.child.node, at, own.length, { base: this.#base }), (below) => {
          const from = at;
          const isCopied = this.#base === undefined || below.allocated;
          const length = isCopied && !below.zero ? Math.min(below.length, longestCopy) : below.length;
          at += length;
          if (!isCopied) return next();
          return andThen(below.zero ? this.#writeZeroes(from, length) : this.#copyPiece(from, length), next);
        });
      });
    };
    return next();
  }

  #copyPiece(offset: number, length: number): MaybePromise<void> {
    const buffer = new Uint8Array(length);
    return andThen(this.child.read(offset, buffer), () => {
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
