/** A bundle: images side by side (a split disk) and one above the other (snapshots), opened through their DiskDescriptor.xml. */
import type { BlockChild } from '../../block/child.js';
import { BlockOps, Perm, Req, unlimited, type BlockLimits, type Capabilities, type LayerExtent, type OpenContext } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { andThen, together, type MaybePromise } from '../../util/maybe.js';
import { RangeLock } from '../../util/range-lock.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { parseDescriptor, type Bundle } from './descriptor.js';

const longestDescriptor = 1 << 20;

/** A part of the disk with its images opened, the one that is written to first. */
interface Part {
  readonly start: number;
  readonly length: number;
  readonly images: readonly BlockChild[];
}

/** @throws BlockError CORRUPT_IMAGE | UNSUPPORTED_FEATURE */
export async function openBundle(file: BlockChild, context: OpenContext<object>): Promise<BundleOps> {
  if (file.size > longestDescriptor) throw new BlockError('CORRUPT_IMAGE', 'DiskDescriptor.xml is too long', { errno: Errno.EFBIG });
  const bytes = new Uint8Array(file.size);
  await file.read(0, bytes);
  const bundle = parseDescriptor(new TextDecoder().decode(bytes));
  const parts: Part[] = [];
  const written = new Set<string>();
  for (const [index, { start, length, images }] of bundle.storages.entries()) {
    const opened: BlockChild[] = [];
    for (const [depth, { filename, format }] of images.entries()) {
      const name = `storage.${index}.${depth}`;
      const child = await context.implicitChild(name, { kind: 'extent', filename, isPath: true, format, role: 'data', readOnly: depth > 0 });
      if (child === undefined) throw new BlockError('INVALID_ARGUMENT', `'${name}' is required for this image`);
      if (child.size < length) throw new BlockError('CORRUPT_IMAGE', `Image '${filename}' is shorter than its part of the disk`, { errno: Errno.EINVAL });
      if (depth === 0) written.add(name);
      opened.push(child);
    }
    parts.push({ start, length, images: opened });
  }
  return new BundleOps(bundle, parts, written, context.readOnly);
}

export class BundleOps extends BlockOps {
  readonly size: number;
  override readonly limits: BlockLimits;
  readonly #clusterSize: number;
  readonly #parts: readonly Part[];
  readonly #written: ReadonlySet<string>;
  readonly #copies = new RangeLock();
  #readOnly: boolean;

  constructor({ size, clusterSize }: Bundle, parts: readonly Part[], written: ReadonlySet<string>, readOnly: boolean) {
    super();
    this.size = size;
    this.limits = { ...unlimited, writeZeroesAlignment: clusterSize, discardAlignment: clusterSize };
    this.#clusterSize = clusterSize;
    this.#parts = parts;
    this.#written = written;
    this.#readOnly = readOnly;
  }

  get capabilities(): Capabilities {
    return this.#readOnly ? readable : writable;
  }

  /** Only the images on top are written to, never the descriptor. */
  override childPermissions(name: string, wanted: { readonly take: number; readonly share: number }): { take: number; share: number } {
    return { take: this.#written.has(name) ? wanted.take : wanted.take & Perm.CONSISTENT_READ, share: wanted.share };
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return run(this.#read(offset, target));
  }

  *#read(offset: number, target: Uint8Array): Steps<void> {
    for (let done = 0; done < target.length;) {
      const { child, offset: place, length } = yield* wait(this.#find(offset + done, target.length - done));
      yield* wait(child.read(place, target.subarray(done, done + length)));
      done += length;
    }
  }

  status(offset: number, length: number): MaybePromise<LayerExtent> {
    return andThen(this.#find(offset, length), ({ child, offset: place, length: found }) => ({ kind: 'child', length: found, host: { child, offset: place } }));
  }

  /** The image that decides what is at an offset. */
  #find(offset: number, length: number, images?: readonly BlockChild[]): MaybePromise<{ child: BlockChild; offset: number; length: number }> {
    const part = this.#partAt(offset);
    const place = offset - part.start;
    const wanted = Math.min(length, part.length - place);
    const [child, ...rest] = images ?? part.images;
    const here = { child: child!, offset: place, length: wanted };
    if (rest.length === 0) return here;
    return andThen(child!.status(place, wanted, false), ({ allocated, length: found }) =>
      allocated || found === 0 ? { ...here, length: Math.max(1, found) } : this.#find(offset, found, rest));
  }

  #partAt(offset: number): Part {
    return this.#parts.findLast(({ start }) => start <= offset)!;
  }

  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    const part = this.#partAt(offset);
    if (part.images.length === 1 && offset + source.length <= part.start + part.length) return part.images[0]!.write(offset - part.start, source);
    // clusters are counted from the start of their part
    const start = Math.max(0, offset - this.#clusterSize);
    return this.#copies.withLock(start, offset + source.length + this.#clusterSize, 'exclusive', () => run(this.#write(offset, source)));
  }

  *#write(offset: number, source: Uint8Array): Steps<void> {
    for (let done = 0; done < source.length;) {
      const at = offset + done;
      const { start, length, images } = this.#partAt(at);
      const place = at - start;
      const top = images[0]!;
      const wanted = Math.min(source.length - done, length - place);
      const { child, length: found } = images.length === 1 ? { child: top, length: wanted } : yield* wait(this.#find(at, wanted));
      const piece = source.subarray(done, done + found);
      if (child === top) yield* wait(top.write(place, piece));
      else yield* this.#copyUp(top, start, place, piece, length);
      done += found;
    }
  }

  /** Writes what the image on top does not hold yet, in whole clusters: what it does not write shows no more. */
  *#copyUp(top: BlockChild, start: number, place: number, piece: Uint8Array, limit: number): Steps<void> {
    const from = place - (place % this.#clusterSize);
    const to = Math.min(limit, Math.ceil((place + piece.length) / this.#clusterSize) * this.#clusterSize);
    if (from === place && to === place + piece.length) return yield* wait(top.write(place, piece));
    const whole = new Uint8Array(to - from);
    yield* this.#read(start + from, whole.subarray(0, place - from));
    yield* this.#read(start + place + piece.length, whole.subarray(place + piece.length - from));
    whole.set(piece, place - from);
    yield* wait(top.write(from, whole));
  }

  /** Where nothing lies below, holding nothing is zero. */
  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    const part = this.#partAt(offset);
    if (part.images.length > 1 || offset + length > part.start + part.length) throw systemError(Errno.ENOTSUP);
    return part.images[0]!.writeZeroes(offset - part.start, length, flags);
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    const part = this.#partAt(offset);
    if (part.images.length > 1 || offset + length > part.start + part.length) return undefined;
    return part.images[0]!.discard(offset - part.start, length);
  }

  override flush(): MaybePromise<void> {
    const parts = this.#parts;
    return together(function* () { for (const { images } of parts) yield images[0]!.flush(); }());
  }

  override reopen({ readOnly }: { readonly readOnly: boolean }): Promise<void> {
    this.#readOnly = readOnly;
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'none', growsOnWrite: false,
});
const readable: Capabilities = Object.freeze({ ...writable, write: false, discard: false });
