/** The open layer of fixed images: a file's bytes up to its footer. */
import type { BlockChild } from '../../block/child.js';
import { Req, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import type { Facets } from '../../block/facets.js';
import { FilterOps } from '../../block/filter-ops.js';
import type { Footer } from './header.js';
import { checkFixed } from './check.js';
import { findFormerFooter, removeFormerFooter, resizeFixed } from './resize-fixed.js';

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
      check: { check: (options) => checkFixed(this, options) },
    };
  }

  override get size(): number {
    return this.#size;
  }

  override status(offset: number, length: number): LayerExtent {
    return { kind: 'data', length, host: { child: this.child, offset }, recurse: true };
  }

  override async resize(size: number, options: ResizeOptions): Promise<void> {
    await this.finishGrowing();
    this.footer = await resizeFixed(this.child, this.footer, this.#size, size, options);
    this.#size = size;
  }

  /** Where the disk shows its former footer, since its growing was cut off. */
  formerFooter(): Promise<number | undefined> {
    return findFormerFooter(this.child, this.footer);
  }

  /** Ends a growing that was cut off. Does nothing where there is none. */
  async finishGrowing(): Promise<void> {
    const at = await this.formerFooter();
    if (at !== undefined) this.footer = await removeFormerFooter(this.child, this.footer, at);
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return name === 'allocatedSize' ? this.child.facet(name) : this.#facets[name];
  }
}
