/** The open layer of fixed images: a file's bytes up to its footer. */
import type { BlockChild } from '../../block/child.js';
import { Req, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import type { Facets } from '../../block/facets.js';
import { FilterOps } from '../../block/filter-ops.js';
import type { Footer } from './header.js';
import { checkFixed } from './check.js';
import { resizeFixed } from './resize.js';

export class FixedOps extends FilterOps {
  footer: Footer;
  #size: number;
  readonly #facets: Partial<Facets>;

  constructor(file: BlockChild, footer: Footer, size: number) {
    super(file, ({ writeFlags, resize, ...rest }) =>
      ({ ...rest, writeFlags: writeFlags & ~Req.COMPRESSED, resize: resize === 'any' ? 'any' : 'none', growsOnWrite: false }));
    this.footer = footer;
    this.#size = size;
    const current = (): Footer => this.footer;
    this.#facets = {
      formatInfo: { specific: () => undefined },
      identity: { get id() { return current().uuid; }, get timestamp() { return current().timestamp; } },
      check: { check: (options) => checkFixed(file, options) },
    };
  }

  override get size(): number {
    return this.#size;
  }

  override status(offset: number, length: number): LayerExtent {
    return { kind: 'data', length, host: { child: this.child, offset }, recurse: true };
  }

  override async resize(size: number, options: ResizeOptions): Promise<void> {
    this.footer = await resizeFixed(this.child, this.footer, this.#size, size, options);
    this.#size = size;
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return name === 'allocatedSize' ? this.child.facet(name) : this.#facets[name];
  }
}
