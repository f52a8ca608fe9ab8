/** A filter that only hands on: what conformance compositions and tests put between layers. */
import type { BlockChild } from '../block/child.js';
import { BlockOps, Req, unlimited, type BlockDriver, type BlockLimits, type Capabilities, type LayerExtent, type ResizeOptions } from '../block/driver.js';
import type { MaybePromise } from '../util/maybe.js';

export interface PassthroughOptions {
  /** Request alignment in bytes the layer asks for. */
  readonly align?: number;
}

class PassthroughOps extends BlockOps {
  override readonly limits: BlockLimits;
  readonly #child: BlockChild;

  constructor(child: BlockChild, align: number) {
    super();
    this.#child = child;
    this.limits = { ...unlimited, requestAlignment: align };
  }

  get capabilities(): Capabilities {
    const below = this.#child.node.ops.capabilities;
    return { ...below, zeroFlags: Req.FUA | Req.MAY_UNMAP | Req.NO_FALLBACK, growsOnWrite: false };
  }
  get size(): number { return this.#child.size; }
  read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> { return this.#child.read(offset, target, flags); }
  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> { return this.#child.write(offset, source, flags); }
  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> { return this.#child.writeZeroes(offset, length, flags); }
  override discard(offset: number, length: number): MaybePromise<void> { return this.#child.discard(offset, length); }
  override flush(): MaybePromise<void> { return this.#child.flush(); }
  status(offset: number, length: number): LayerExtent { return { kind: 'child', length, host: { child: this.#child, offset } }; }
  override resize(size: number, options: ResizeOptions): Promise<void> { return this.#child.resize(size, options); }
  close(): Promise<void> { return Promise.resolve(); }
}

export const passthrough: BlockDriver<PassthroughOptions> = {
  name: 'passthrough',
  kind: 'filter',
  options: { align: { type: 'size', default: 1 } },
  children: { file: { role: 'filtered' } },
  open: (context) => new PassthroughOps(context.child('file')!, context.options.align ?? 1),
};
