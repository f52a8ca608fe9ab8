import type { BlockChild } from '../../block/child.js';
import { Req, unlimited, type BlockLimits } from '../../block/driver.js';
import { FilterOps } from '../../block/filter-ops.js';
import type { MaybePromise } from '../../util/maybe.js';

export class CompressOps extends FilterOps {
  /** Whole clusters, so that the node completes smaller writes. */
  override readonly limits: BlockLimits;

  constructor(file: BlockChild) {
    super(file, ({ writeFlags, ...rest }) => ({ ...rest, writeFlags: writeFlags & ~Req.COMPRESSED }));
    this.limits = { ...unlimited, requestAlignment: file.facet('formatInfo')?.clusterSize ?? 1 };
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    const length = Math.min(source.length, this.size - offset); // the last cluster may reach past the end
    return this.child.write(offset, length === source.length ? source : source.subarray(0, length), flags | Req.COMPRESSED);
  }
}
