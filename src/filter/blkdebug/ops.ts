import type { BlockChild } from '../../block/child.js';
import type { BlockLimits, LayerExtent, ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { FilterOps } from '../../block/filter-ops.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import type { RequestType } from './events.js';
import type { DebugScript } from './script.js';

export interface ExtraPermissions {
  /** Perm bits the edge to the image takes, whatever its users need. */
  readonly take: number;
  /** Perm bits it shares with nobody. */
  readonly unshare: number;
}

export class BlkdebugOps extends FilterOps {
  override readonly limits: BlockLimits;
  readonly #script: DebugScript;
  readonly #facets: Partial<Facets>;
  readonly #permissions: ExtraPermissions;
  readonly #config: string | undefined;
  readonly #isPlain: boolean;
  #changes = 0;
  #flushed = 0;

  /** `isPlain`: a filename can say all there is, with `config` in it. */
  constructor(image: BlockChild, script: DebugScript, limits: BlockLimits, permissions: ExtraPermissions, config: string | undefined, isPlain: boolean) {
    super(image);
    this.#script = script;
    this.#facets = { blkdebug: script };
    this.limits = limits;
    this.#permissions = permissions;
    this.#config = config;
    this.#isPlain = isPlain;
  }

  override read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    return andThen(this.#check('read', offset, target.length), () => super.read(offset, target, flags));
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    return this.#change(() => andThen(this.#check('write', offset, source.length), () => super.write(offset, source, flags)));
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    if (length < Math.max(this.limits.requestAlignment, this.limits.writeZeroesAlignment)) throw systemError(Errno.ENOTSUP, { driver: 'blkdebug', op: 'writeZeroes' });
    return this.#change(() => andThen(this.#check('write-zeroes', offset, length), () => super.writeZeroes(offset, length, flags)));
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    if (length < this.limits.requestAlignment) return undefined;
    return this.#change(() => andThen(this.#check('discard', offset, length), () => super.discard(offset, length)));
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    return Promise.resolve(this.#change(() => super.resize(size, options)));
  }

  /** What did not change since the last flush is not flushed once more, and no rule applies. */
  override flush(): MaybePromise<void> {
    const changes = this.#changes;
    if (changes === this.#flushed) return undefined;
    return andThen(this.#check('flush', 0, 0), () => andThen(super.flush(), () => { this.#flushed = changes; }));
  }

  override status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent> {
    return andThen(this.#check('block-status', offset, length), () => super.status(offset, length, wantZero));
  }

  override debugEvent(event: string): Promise<void> | undefined {
    return this.#script.event(event);
  }

  override childPermissions(_name: string, { take, share }: { readonly take: number; readonly share: number }): { take: number; share: number } {
    return { take: take | this.#permissions.take, share: share & ~this.#permissions.unshare };
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return name === 'allocatedSize' ? undefined : this.#facets[name] ?? super.facet(name);
  }

  override filename(): string | undefined {
    const image = this.child.node.filename;
    return this.#isPlain && !image.startsWith('json:') ? `blkdebug:${this.#config ?? ''}:${image}` : undefined;
  }

  /** Counts at both ends: a flush in between does not cover the request. */
  #change(request: () => MaybePromise<void>): MaybePromise<void> {
    this.#changes++;
    return andThen(request(), () => { this.#changes++; });
  }

  #check(type: RequestType, offset: number, length: number): MaybePromise<void> {
    const failure = this.#script.check(type, offset, length);
    if (failure === undefined) return undefined;
    if (failure.immediately) throw failure.error;
    return Promise.reject<void>(failure.error);
  }
}

/** Throws INVALID_ARGUMENT where limits contradict each other. */
export function checkedLimits(image: BlockChild, options: Readonly<Record<string, number | undefined>>): BlockLimits {
  const limit = (name: string, multipleOf: number): number => {
    const value = options[name] ?? 0;
    if (value !== 0 && (value >= 2 ** 31 - 1 || value % multipleOf !== 0)) throw unmet(name, value);
    return value;
  };
  const requestAlignment = limit('align', 1) || 1;
  if (!Number.isInteger(Math.log2(requestAlignment))) throw unmet('align', requestAlignment);
  const unit = Math.max(requestAlignment, image.node.ops.limits.requestAlignment);
  const writeZeroesAlignment = limit('opt-write-zero', unit);
  const discardAlignment = limit('opt-discard', unit);
  return {
    requestAlignment,
    maxTransfer: limit('max-transfer', unit),
    writeZeroesAlignment,
    maxWriteZeroes: limit('max-write-zero', Math.max(writeZeroesAlignment, unit)),
    discardAlignment,
    maxDiscard: limit('max-discard', Math.max(discardAlignment, unit)),
  };
}

function unmet(name: string, value: number): BlockError {
  return new BlockError('INVALID_ARGUMENT', `Cannot meet constraints with ${name} ${value}`, { driver: 'blkdebug' });
}
