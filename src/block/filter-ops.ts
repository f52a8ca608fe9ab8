/** A layer that hands every request on to one child: what filters, and raw, start from. */
import { andThen, type MaybePromise } from '../util/maybe.js';
import type { BlockChild } from './child.js';
import { BlockOps, Req, type Capabilities, type LayerExtent, type ResizeOptions } from './driver.js';
import type { Facets, FormatInfoFacet } from './facets.js';

const passedFlags = Req.FUA | Req.UNCHANGED | Req.SERIALISING;

/** Facets by which requests would pass a layer by, and those about the image file rather than the disk. */
const withheld: ReadonlySet<keyof Facets> = new Set(['descriptor', 'copyRange', 'check', 'bitmaps', 'backing']);

/** What a passthrough layer can do: as much as the layer below. */
function passthroughCapabilities(below: Capabilities): Capabilities {
  return {
    write: below.write,
    writeFlags: passedFlags | (below.writeFlags & Req.COMPRESSED),
    zeroFlags: passedFlags | Req.MAY_UNMAP | Req.NO_FALLBACK,
    discard: true,
    resize: below.resize,
    growsOnWrite: below.growsOnWrite,
  };
}

/** What a filter has in common with the format below: the sizes that requests should heed. */
function measuresOf({ clusterSize, subclusterSize, vmStateOffset, needsCompressedWrites }: FormatInfoFacet): FormatInfoFacet {
  return {
    specific: () => undefined,
    ...(clusterSize !== undefined && { clusterSize }),
    ...(subclusterSize !== undefined && { subclusterSize }),
    ...(vmStateOffset !== undefined && { vmStateOffset }),
    ...(needsCompressedWrites !== undefined && { needsCompressedWrites }),
  };
}

/** Passes everything on unchanged. Subclasses override what they are about. */
export abstract class FilterOps extends BlockOps {
  protected readonly child: BlockChild;
  readonly #adapt: (passed: Capabilities) => Capabilities;
  #below: Capabilities | undefined;
  #capabilities!: Capabilities;

  /** `adapt` says what the layer makes of the abilities it would pass on. */
  constructor(child: BlockChild, adapt: (passed: Capabilities) => Capabilities = (passed) => passed) {
    super();
    this.child = child;
    this.#adapt = adapt;
  }

  /** Follows the layer below, whose abilities change when it is reopened. */
  get capabilities(): Capabilities {
    const below = this.child.node.ops.capabilities;
    if (below !== this.#below) {
      this.#below = below;
      this.#capabilities = this.#adapt(passthroughCapabilities(below));
    }
    return this.#capabilities;
  }

  /** For subclasses whose `adapt` would answer anew. */
  protected capabilitiesChanged(): void {
    this.#below = undefined;
  }

  get size(): number {
    return this.child.size;
  }

  read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    return this.child.read(offset, target, flags);
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    return this.child.write(offset, source, flags);
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.child.writeZeroes(offset, length, flags);
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    return this.child.discard(offset, length);
  }

  override flush(): MaybePromise<void> {
    const below = this.child.node.ops;
    if (below.debugEvent === undefined) return this.child.flush();
    return andThen(below.debugEvent('flush_to_disk'), () => this.child.flush());
  }

  status(offset: number, length: number, _wantZero: boolean): MaybePromise<LayerExtent> {
    return { kind: 'child', length, host: { child: this.child, offset } };
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return this.child.resize(size, options);
  }

  override reopen(_change: { readonly readOnly: boolean }): Promise<void> {
    return Promise.resolve();
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    if (withheld.has(name)) return undefined;
    const facet = this.child.facet(name);
    return name === 'formatInfo' && facet !== undefined ? measuresOf(facet as FormatInfoFacet) as Facets[K] : facet;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
