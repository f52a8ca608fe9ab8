/** Vertex of the graph: checks, splits, pads, emulates, marks bitmaps; then calls the driver's ops. */
import { isPromise, andThen, type MaybePromise } from '../util/maybe.js';
import { RangeLock } from '../util/range-lock.js';
import type { BlockChild } from './child.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import { Perm, Req, type BlockDriver, type BlockOps, type ResizeOptions } from './driver.js';
import { BlockError, Errno, systemError } from './errors.js';
import type { Facets } from './facets.js';
import { describeFilename } from './filename.js';

/** Options every node has, whatever its driver. */
export interface NodeSettings {
  readonly discard: 'ignore' | 'unmap';
  readonly detectZeroes: 'off' | 'on' | 'unmap';
  readonly direct: boolean;
  readonly noFlush: boolean;
  readonly forceShare: boolean;
}

const BOUNCE = 1 << 20;
const zeroes = new Uint8Array(BOUNCE);

export class BlockNode {
  readonly name: string;
  readonly driver: BlockDriver;
  settings: NodeSettings;
  /** Options a user gave for this node, without children; what a json:{…} filename shows. */
  readonly explicitOptions: Readonly<Record<string, unknown>>;
  readonly children = new Map<string, BlockChild>();
  readonly parents = new Set<BlockChild>();
  readonly bitmaps = new Map<string, DirtyBitmap>();
  /** Names of children that the image's own metadata refers to, as opposed to those a user gave. */
  readonly implicit = new Set<string>();
  /** What all edges on this node take together and share in common (Perm bits), as last granted. */
  permissions = { take: 0, share: Perm.ALL as number };
  /** Opened for information only. */
  readonly noIo: boolean;
  /** A user left out the backing file the image names. */
  detached = false;
  /** The format was guessed from content. */
  readonly probed: boolean;
  ops!: BlockOps;
  readOnly: boolean;
  /** Users that hold the node without an edge (the opener, until it attaches). */
  holds = 0;
  readonly #unaligned = new RangeLock({ fair: false });
  #changed = false;
  readonly #onResize = new Set<(size: number) => void>();

  constructor(init: {
    name: string; driver: BlockDriver; settings: NodeSettings; readOnly: boolean; probed: boolean; noIo: boolean;
    explicitOptions: Readonly<Record<string, unknown>>;
  }) {
    this.name = init.name;
    this.driver = init.driver;
    this.settings = init.settings;
    this.readOnly = init.readOnly;
    this.probed = init.probed;
    this.noIo = init.noIo;
    this.explicitOptions = init.explicitOptions;
  }

  get size(): number {
    return this.ops.size;
  }

  /** The node this one shows through where nothing is allocated: its cow child, or that of the node it filters. */
  get backing(): BlockNode | undefined {
    for (const child of this.children.values()) {
      if (child.role === 'cow') return child.node;
      if (child.role === 'filtered') return child.node.backing;
    }
    return undefined;
  }

  /** A plain filename if it alone reopens this node, else json:{…}. */
  get filename(): string {
    return describeFilename(this);
  }

  facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return this.ops.facet(name);
  }

  /** Calls `listener` after each change of size; returns the way to stop. */
  onResize(listener: (size: number) => void): () => void {
    this.#onResize.add(listener);
    return () => this.#onResize.delete(listener);
  }

  read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    const { ops } = this;
    const length = target.length;
    const { requestAlignment, maxTransfer } = ops.limits;
    if (offset + length <= ops.size && (maxTransfer === 0 || length <= maxTransfer)
      && (requestAlignment === 1 || (offset % requestAlignment === 0 && length % requestAlignment === 0))) {
      return ops.read(offset, target, flags);
    }
    return this.#readSlowly(offset, target, flags);
  }

  write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    const { ops } = this;
    if (this.readOnly || !ops.capabilities.write) throw this.#readOnlyError('write', offset, source.length);
    if (this.settings.detectZeroes !== 'off' && (flags & Req.COMPRESSED) === 0 && isZero(source)) {
      return this.writeZeroes(offset, source.length, flags | (this.settings.detectZeroes === 'unmap' ? Req.MAY_UNMAP : 0));
    }
    this.#changed = true;
    if (this.bitmaps.size !== 0) this.#markDirty(offset, source.length);
    const { writeFlags } = ops.capabilities;
    if ((flags & Req.COMPRESSED & ~writeFlags) !== 0) throw new BlockError('NOT_SUPPORTED', systemError(Errno.ENOTSUP).message, { node: this.name, op: 'write', errno: Errno.ENOTSUP });
    const result = this.#writeAligned(offset, source, flags & writeFlags);
    if ((flags & Req.FUA & ~writeFlags) === 0) return result;
    return andThen(result, () => this.flush());
  }

  writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    const { ops } = this;
    if (this.readOnly || !ops.capabilities.write) throw this.#readOnlyError('writeZeroes', offset, length);
    if (length === 0) return undefined;
    this.#changed = true;
    if (this.bitmaps.size !== 0) this.#markDirty(offset, length);
    const { zeroFlags } = ops.capabilities;
    if (zeroFlags !== undefined && (flags & Req.NO_FALLBACK & ~zeroFlags) !== 0) throw systemError(Errno.ENOTSUP, { node: this.name, op: 'writeZeroes', offset, length });
    let passed = flags & (zeroFlags ?? 0);
    if (this.settings.discard !== 'unmap') passed &= ~Req.MAY_UNMAP;
    const done = zeroFlags === undefined
      ? this.#writeZeroBuffers(offset, length, flags)
      : this.#zeroPieces(offset, length, passed, flags);
    if ((flags & Req.FUA) === 0 || (zeroFlags !== undefined && (zeroFlags & Req.FUA) !== 0)) return done;
    return andThen(done, () => this.flush());
  }

  /** Advisory: what the layer cannot or may not discard stays. */
  discard(offset: number, length: number): MaybePromise<void> {
    const { ops } = this;
    if (this.readOnly) throw this.#readOnlyError('discard', offset, length);
    if (length <= 0 || this.settings.discard !== 'unmap' || !ops.capabilities.discard) return undefined;
    this.#changed = true;
    if (this.bitmaps.size !== 0) this.#markDirty(offset, length);
    const { requestAlignment, maxDiscard, discardAlignment } = ops.limits;
    const start = Math.ceil(offset / requestAlignment) * requestAlignment;
    const end = offset + length === ops.size ? ops.size : Math.floor((offset + length) / requestAlignment) * requestAlignment;
    return forEachPiece(start, end, maxDiscard, discardAlignment || requestAlignment, (at, bytes) => ops.discard(at, bytes));
  }

  flush(): MaybePromise<void> {
    if (this.settings.noFlush && this.driver.kind === 'protocol') return undefined;
    const below = (this.children.get('file') ?? this.children.get('image'))?.node.ops;
    return below?.debugEvent === undefined ? this.#flushChanges() : andThen(below.debugEvent('flush_to_os'), () => this.#flushChanges());
  }

  /** What never changed through a protocol or filter needs no flush; a format may have changed metadata by itself. */
  #flushChanges(): MaybePromise<void> {
    return this.#changed || this.driver.kind === 'format' ? this.ops.flush() : undefined;
  }

  /** What a longer layer below would show in the added range reads as zero. */
  async resize(size: number, options: ResizeOptions): Promise<void> {
    if (this.readOnly) throw new BlockError('PERMISSION', 'Image is read-only', { node: this.name, op: 'resize', errno: Errno.EACCES });
    if (!(size >= 0 && size < 2 ** 63)) throw systemError(Errno.EINVAL, { node: this.name, op: 'resize' }, 'Could not resize file');
    if (!Number.isSafeInteger(size)) throw systemError(Errno.EFBIG, { node: this.name, op: 'resize' }, this.ops.growthFailure);
    const { resize } = this.ops.capabilities;
    if (resize === 'none') throw new BlockError('NOT_SUPPORTED', 'Image format driver does not support resize', { node: this.name, op: 'resize', errno: Errno.ENOTSUP });
    if (resize === 'grow' && size < this.size) throw new BlockError('NOT_SUPPORTED', 'Shrinking images is currently not supported', { node: this.name, op: 'resize', errno: Errno.ENOTSUP });
    this.#changed = true;
    const hides = [...this.children.values()].some(({ role, size: below }) => role === 'cow' && below > this.size);
    await this.ops.resize(size, hides ? { ...options, zeroNew: true } : options);
    for (const bitmap of this.bitmaps.values()) bitmap.resize(size);
    for (const listener of this.#onResize) listener(size);
  }

  /** Grows to at least `size` as an ordinary request; never shrinks, never drains. */
  async grow(size: number): Promise<void> {
    if (size <= this.size) return;
    await this.resize(size, { preallocation: 'off', exact: false, zeroNew: false }).catch((error: unknown) => {
      // a layer of fixed size is full
      throw error instanceof BlockError && error.code === 'NOT_SUPPORTED' ? systemError(Errno.ENOSPC, { node: this.name, op: 'write' }, undefined, error) : error;
    });
  }

  #readSlowly(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    const { ops } = this;
    const inside = Math.min(target.length, Math.max(0, ops.size - offset));
    if (inside < target.length) target.fill(0, inside);
    if (inside === 0) return undefined;
    const { requestAlignment: alignment, maxTransfer } = ops.limits;
    const part = inside === target.length ? target : target.subarray(0, inside);
    if (offset % alignment === 0 && inside % alignment === 0) {
      return forEachPiece(offset, offset + inside, maxTransfer, alignment, (at, bytes) =>
        ops.read(at, part.subarray(at - offset, at - offset + bytes), flags));
    }
    const start = offset - (offset % alignment);
    const end = Math.ceil((offset + inside) / alignment) * alignment;
    const bounce = new Uint8Array(end - start);
    return andThen(
      forEachPiece(start, end, maxTransfer, alignment, (at, bytes) => ops.read(at, bounce.subarray(at - start, at - start + bytes), flags)),
      () => part.set(bounce.subarray(offset - start, offset - start + inside)));
  }

  #writeAligned(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    const { ops } = this;
    const { requestAlignment: alignment, maxTransfer } = ops.limits;
    if (alignment === 1) {
      if (ops.debugEvent !== undefined) return this.#announced('pwritev', () => this.#writePieces(offset, source, flags));
      if (maxTransfer === 0 || source.length <= maxTransfer) return ops.write(offset, source, flags);
      return this.#writePieces(offset, source, flags);
    }
    const start = offset - (offset % alignment);
    const end = Math.ceil((offset + source.length) / alignment) * alignment;
    const aligned = start === offset && end === offset + source.length;
    return this.#unaligned.withLock(start, end, aligned ? 'shared' : 'exclusive', () =>
      aligned ? this.#announced('pwritev', () => this.#writePieces(offset, source, flags)) : this.#readModifyWrite(offset, source, start, end, flags));
  }

  /** Caller holds the range [start, end) exclusively. */
  #readModifyWrite(offset: number, source: Uint8Array, start: number, end: number, flags: number): MaybePromise<void> {
    const { requestAlignment: alignment } = this.ops.limits;
    const buffer = new Uint8Array(end - start);
    const tail = end - alignment;
    const padsHead = offset > start;
    const padsTail = offset + source.length < end && !(padsHead && tail === start);
    const readPad = (at: number, name: string): MaybePromise<void> =>
      andThen(this.ops.debugEvent?.(`pwritev_rmw_${name}`), () =>
        andThen(this.#readSlowly(at, buffer.subarray(at - start, at - start + alignment), 0), () => this.ops.debugEvent?.(`pwritev_rmw_after_${name}`)));
    return andThen(padsHead ? readPad(start, 'head') : undefined, () =>
      andThen(padsTail ? readPad(tail, 'tail') : undefined, () => {
        buffer.set(source, offset - start);
        return this.#announced('pwritev', () => this.#writePieces(start, buffer, flags));
      }));
  }

  #writePieces(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    const { limits } = this.ops;
    return forEachPiece(offset, offset + source.length, limits.maxTransfer, limits.requestAlignment, (at, bytes) =>
      this.ops.write(at, bytes === source.length ? source : source.subarray(at - offset, at - offset + bytes), flags));
  }

  #announced(event: string, request: () => MaybePromise<void>): MaybePromise<void> {
    if (this.ops.debugEvent === undefined) return request();
    return andThen(this.ops.debugEvent(event), () => andThen(request(), () => this.ops.debugEvent?.('pwritev_done')));
  }

  #zeroPieces(offset: number, length: number, flags: number, wanted: number): MaybePromise<void> {
    const { ops } = this;
    const { requestAlignment: alignment, writeZeroesAlignment, maxWriteZeroes } = ops.limits;
    const start = Math.ceil(offset / alignment) * alignment;
    const end = Math.floor((offset + length) / alignment) * alignment;
    if (start > offset || end < offset + length) {
      if (start >= end) return this.#writeZeroBuffers(offset, length, wanted);
      return andThen(offset < start ? this.#writeZeroBuffers(offset, start - offset, wanted) : undefined, () =>
        andThen(this.#zeroPieces(start, end - start, flags, wanted), () =>
          end < offset + length ? this.#writeZeroBuffers(end, offset + length - end, wanted) : undefined));
    }
    return forEachPiece(offset, offset + length, maxWriteZeroes, writeZeroesAlignment || alignment, (at, bytes) => {
      const fallBack = (error: unknown): MaybePromise<void> => {
        if (!(error instanceof BlockError && error.code === 'NOT_SUPPORTED') || (wanted & Req.NO_FALLBACK) !== 0) throw error;
        return this.#writeZeroBuffers(at, bytes, wanted);
      };
      const zero = (): MaybePromise<void> => {
        try {
          const result = ops.writeZeroes(at, bytes, flags);
          return isPromise(result) ? result.catch(fallBack) : result;
        } catch (error) {
          return fallBack(error);
        }
      };
      return ops.debugEvent === undefined ? zero() : andThen(ops.debugEvent('pwritev_zero'), zero);
    });
  }

  #writeZeroBuffers(offset: number, length: number, flags: number): MaybePromise<void> {
    if ((flags & Req.NO_FALLBACK) !== 0) throw systemError(Errno.ENOTSUP, { node: this.name, op: 'writeZeroes', offset, length });
    return forEachPiece(offset, offset + length, BOUNCE, 1, (at, bytes) =>
      this.#writeAligned(at, bytes === BOUNCE ? zeroes : zeroes.subarray(0, bytes), 0));
  }

  #markDirty(offset: number, length: number): void {
    for (const bitmap of this.bitmaps.values()) if (bitmap.recording) bitmap.set(offset, length);
  }

  #readOnlyError(op: string, offset: number, length: number): BlockError {
    return new BlockError('PERMISSION', systemError(Errno.EPERM).message, { node: this.name, driver: this.driver.name, op, offset, length });
  }
}

/**
 * Calls `each` for the pieces of [start, end): at most `max` bytes (0: no limit), cut so that only the first and the last may be
 * unaligned to `alignment`. One after the other, synchronously for as long as the pieces are.
 */
function forEachPiece(start: number, end: number, max: number, alignment: number, each: (at: number, bytes: number) => MaybePromise<void>): MaybePromise<void> {
  let at = start;
  const next = (): MaybePromise<void> => {
    while (at < end) {
      const from = at;
      let bytes = end - from;
      const head = from % alignment;
      if (head !== 0) bytes = Math.min(bytes, alignment - head);
      else if (bytes > alignment) bytes -= bytes % alignment;
      if (max !== 0 && bytes > max) bytes = max - (max > alignment ? max % alignment : 0);
      at += bytes;
      const result = each(from, bytes);
      if (isPromise(result)) return result.then(next);
    }
    return undefined;
  };
  return next();
}

function isZero(bytes: Uint8Array): boolean {
  if (bytes.length === 0 || bytes[0] !== 0) return false;
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== 0) return false;
  return true;
}
