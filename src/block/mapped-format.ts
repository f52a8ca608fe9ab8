/**
 * The data path that all formats share: a format says where bytes live and makes room, this class moves them.
 *
 * - Reads take no lock. A lookup and the read it leads to happen in one go; a read that then waits is remembered, and space is not
 *   given a new content before the reads that began earlier are done ({@link MappedFormat.readsSettled}).
 * - Writes in place share their range; whatever changes the mapping of a range (allocation, zeroing, discarding) holds its clusters alone.
 * - A new cluster is filled (copied padding included) before it becomes visible.
 * - While tables are cached and the children answer at once, requests complete synchronously.
 */
import { andThen, isPromise, together, type MaybePromise } from '../util/maybe.js';
import { RangeLock } from '../util/range-lock.js';
import { run, wait, type Steps } from '../util/steps.js';
import type { BlockChild } from './child.js';
import type { DataCipher } from './data-cipher.js';
import { BlockOps, Req, type LayerExtent } from './driver.js';
import { BlockError, Errno, systemError } from './errors.js';
import { chainStatus } from './status.js';

/** Guest bytes that lie at a place of a child. */
export interface HostRun {
  readonly child: BlockChild;
  /** Where the first of them lies. */
  readonly offset: number;
  /** How many of them lie there in a row; at least 1, at most what was asked. */
  readonly length: number;
}

/** Room for guest bytes, reserved and not yet visible. Exactly one of commit and cancel is called. */
export interface Allocation extends HostRun {
  /** Bytes before and behind the run that become visible with it: they are filled with what the guest sees there now. */
  readonly padBefore: number;
  readonly padAfter: number;
  /** The guest sees some of the run already: it holds what was written there until it is overwritten. */
  readonly inPlace?: boolean;
  commit(): MaybePromise<void>;
  /** Gives the room back. */
  cancel(): MaybePromise<void>;
}

/** Not known yet: a table is being loaded. Ask again when this resolves. */
export type AskAgain = Promise<void>;

function isUnknown(answer: object | undefined): answer is AskAgain {
  return answer instanceof Promise;
}

/** From this many bytes of all-zero padding on, zeroing the room is cheaper than writing the padding out. */
const zeroingThreshold = 16 * 1024;
/** Padding is put around the data in one buffer up to this size, else written by itself. */
const mergeLimit = 256 * 1024;

export abstract class MappedFormat extends BlockOps {
  /** Unit of locking: mappings of different clusters are independent. */
  abstract readonly clusterSize: number;
  /** The layer shown where this one decides nothing. */
  protected abstract readonly cow: BlockChild | undefined;
  protected readonly locks = new RangeLock();
  readonly #readsInFlight = new Set<Promise<unknown>>();

  /** What the tables say about a range. Only metadata is read, nothing changes. */
  protected abstract map(offset: number, length: number): LayerExtent | AskAgain;
  /** Where the range may be overwritten as it is, without a change of tables; undefined where it must be allocated. */
  protected abstract writable(offset: number, length: number): HostRun | undefined | AskAgain;
  /**
   * Reserves room for a range that is not, as a whole, writable in place; a run may begin with what is. The caller holds the clusters
   * of the range.
   * @param after end of the run that the request has written just before, so that the room can follow it
   */
  protected abstract allocate(offset: number, length: number, after: number | undefined): MaybePromise<Allocation>;
  /** Reads from a range that map() calls data without a host. */
  protected readEncoded(_offset: number, _target: Uint8Array): MaybePromise<void> {
    throw new Error('this format has no encoded data');
  }
  /** Reads what this layer leaves to the cow child. */
  protected readBacking(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.cow!.read(offset, target);
  }
  /** Stores a range encoded (Req.COMPRESSED). The caller holds its clusters. */
  protected writeEncoded(_offset: number, _source: Uint8Array): MaybePromise<void> {
    throw systemError(Errno.ENOTSUP);
  }
  /** Makes whole units of {@link zeroUnit} bytes (or up to the end of the disk) read as zero. The caller holds the clusters. */
  protected zero(_offset: number, _length: number, _flags: number): MaybePromise<void> {
    throw systemError(Errno.ENOTSUP);
  }
  /** Gives up whole clusters (or up to the end of the disk). The caller holds them. */
  protected unmap(_offset: number, _length: number): MaybePromise<void> {
    return undefined;
  }
  /** Encrypts what is stored at a host; formats with it take whole sectors only (limits.requestAlignment). */
  protected get cipher(): DataCipher | undefined {
    return undefined;
  }
  /** Unit of zero(). */
  protected get zeroUnit(): number {
    return this.clusterSize;
  }
  /** Named moment for blkdebug. */
  protected debug(_event: string): Promise<void> | undefined {
    return undefined;
  }

  read(offset: number, target: Uint8Array, _flags = 0): MaybePromise<void> {
    const extent = this.map(offset, target.length);
    if (isUnknown(extent)) return extent.then(() => this.read(offset, target));
    if (extent.length === target.length) return this.#readExtent(extent, offset, target, true);
    return together(this.#pieces(extent, offset, target));
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    if ((flags & Req.COMPRESSED) !== 0) return this.#locked(offset, source.length, () => this.writeEncoded(offset, source));
    if (this.locks.isFree(offset, offset + source.length, 'shared')) {
      const place = this.writable(offset, source.length);
      if (place !== undefined && !isUnknown(place) && place.length === source.length) return this.#writeInPlace(place, offset, source);
    }
    return this.#locked(offset, source.length, () => run(this.writeHeld(offset, source)));
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.#locked(offset, length, () => run(this.#zeroSlowly(offset, length, flags)));
  }

  /** Partial clusters are left alone. */
  override discard(offset: number, length: number): MaybePromise<void> {
    const start = Math.ceil(offset / this.clusterSize) * this.clusterSize;
    const end = offset + length === this.size ? this.size : Math.floor((offset + length) / this.clusterSize) * this.clusterSize;
    if (start >= end) return undefined;
    return this.#locked(start, end - start, () => this.unmap(start, end - start));
  }

  status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent> {
    const extent = this.map(offset, length);
    return isUnknown(extent) ? extent.then(() => this.status(offset, length, wantZero)) : extent;
  }

  /** Resolves when all reads that are waiting now are done. Space freed before this call may then be given a new content. */
  protected readsSettled(): MaybePromise<void> {
    return this.#readsInFlight.size === 0 ? undefined : Promise.allSettled([...this.#readsInFlight]).then(() => undefined);
  }

  #locked<T>(offset: number, length: number, request: () => MaybePromise<T>): MaybePromise<T> {
    const start = offset - (offset % this.clusterSize);
    const end = Math.ceil((offset + length) / this.clusterSize) * this.clusterSize;
    return this.locks.withLock(start, end, 'exclusive', request);
  }

  /** `announce` false: a breakpoint before this read has been passed already. */
  #readExtent(extent: LayerExtent, offset: number, target: Uint8Array, announce: boolean): MaybePromise<void> {
    if (extent.kind === 'zero' || (extent.kind === 'backing' && this.cow === undefined)) {
      target.fill(0);
      return undefined;
    }
    if (announce) {
      const pause = this.debug(extent.kind === 'backing' ? 'read_backing_aio' : extent.host === undefined ? 'read_compressed' : 'read_aio');
      if (pause !== undefined) return pause.then(() => this.#readAfterPause(offset, target));
    }
    if (extent.kind === 'backing') return this.readBacking(offset, target);
    const done = extent.host === undefined ? this.readEncoded(offset, target) : this.#readHost(extent.host.child, extent.host.offset, offset, target);
    return isPromise(done) ? this.#track(done) : done;
  }

  #readHost(child: BlockChild, host: number, guest: number, target: Uint8Array): MaybePromise<void> {
    const done = child.read(host, target);
    const { cipher } = this;
    return cipher === undefined ? done : andThen(done, () => cipher.decrypt(guest, host, target));
  }

  #writeHost(child: BlockChild, host: number, guest: number, source: Uint8Array): MaybePromise<void> {
    return child.write(host, this.cipher === undefined ? source : this.cipher.encrypt(guest, host, source));
  }

  /** The mapping may have changed meanwhile. */
  #readAfterPause(offset: number, target: Uint8Array): MaybePromise<void> {
    const extent = this.map(offset, target.length);
    if (isUnknown(extent)) return extent.then(() => this.#readAfterPause(offset, target));
    if (extent.length === target.length) return this.#readExtent(extent, offset, target, false);
    return together(this.#pieces(extent, offset, target));
  }

  /** One after the other; those that wait do so beside one another. */
  *#pieces(first: LayerExtent, offset: number, target: Uint8Array): Iterable<MaybePromise<void>> {
    let extent = first;
    for (let done = 0;;) {
      yield this.#readExtent(extent, offset + done, target.subarray(done, done + extent.length), true);
      done += extent.length;
      if (done === target.length) return;
      const next = this.map(offset + done, target.length - done);
      if (isUnknown(next)) {
        const rest = target.subarray(done);
        const from = offset + done;
        yield next.then(() => this.read(from, rest));
        return;
      }
      extent = next;
    }
  }

  #track(read: Promise<void>): Promise<void> {
    this.#readsInFlight.add(read);
    const forget = (): void => void this.#readsInFlight.delete(read);
    read.then(forget, forget);
    return read;
  }

  /** Nothing is in the way of a shared lock. */
  #writeInPlace(place: HostRun, offset: number, source: Uint8Array): MaybePromise<void> {
    const pause = this.debug('write_aio');
    const done = pause === undefined
      ? this.#writeHost(place.child, place.offset, offset, source)
      : pause.then(() => this.#writeHost(place.child, place.offset, offset, source));
    // Granted at once, before anyone else can run.
    return isPromise(done) ? this.locks.withLock(offset, offset + source.length, 'shared', () => done) : done;
  }

  /** Writes where allocation may be needed. The caller holds the clusters. */
  protected *writeHeld(offset: number, source: Uint8Array): Steps<void> {
    let after: number | undefined;
    for (let done = 0; done < source.length;) {
      const at = offset + done;
      const place = yield* settled(() => this.writable(at, source.length - done));
      if (place !== undefined && place.length === source.length - done) {
        yield* wait(this.debug('write_aio'));
        yield* wait(this.#writeHost(place.child, place.offset, at, source.subarray(done)));
        return;
      }
      const allocation = yield* wait(this.allocate(at, source.length - done, after));
      yield* this.#fill(allocation, at, source.subarray(done, done + allocation.length));
      done += allocation.length;
      after = allocation.offset + allocation.length;
    }
  }

  /** Writes data and padding to new room and makes it visible. */
  *#fill(room: Allocation, offset: number, source: Uint8Array): Steps<void> {
    try {
      if (room.padBefore === 0 && room.padAfter === 0) {
        yield* wait(this.debug('write_aio'));
        yield* wait(this.#writeHost(room.child, room.offset, offset, source));
      } else {
        yield* this.#fillPadded(room, offset, source);
      }
    } catch (error) {
      yield* wait(room.cancel());
      throw error;
    }
    yield* wait(room.commit());
  }

  *#fillPadded(room: Allocation, offset: number, source: Uint8Array): Steps<void> {
    const { padBefore, padAfter, child } = room;
    const start = room.offset - padBefore;
    const total = padBefore + source.length + padAfter;
    if (this.cipher === undefined && !room.inPlace && padBefore + padAfter >= zeroingThreshold && (yield* this.#readsAsZero(offset - padBefore, padBefore))
      && (yield* this.#readsAsZero(offset + source.length, padAfter)) && (yield* zeroRoom(child, start, total))) {
      yield* wait(this.debug('write_aio'));
      yield* wait(child.write(room.offset, source));
      return;
    }
    if (total <= mergeLimit) {
      const merged = new Uint8Array(total);
      yield* this.#readPad(offset - padBefore, merged.subarray(0, padBefore));
      yield* this.#readPad(offset + source.length, merged.subarray(total - padAfter));
      merged.set(source, padBefore);
      yield* wait(this.debug('write_aio'));
      yield* wait(this.debug('cow_write'));
      yield* wait(this.#writeHost(child, start, offset - padBefore, merged));
      return;
    }
    const before = new Uint8Array(padBefore);
    const behind = new Uint8Array(padAfter);
    yield* this.#readPad(offset - padBefore, before);
    yield* this.#readPad(offset + source.length, behind);
    yield* wait(this.debug('write_aio'));
    yield* wait(this.#writeHost(child, room.offset, offset, source));
    yield* wait(this.debug('cow_write'));
    if (padBefore > 0) yield* wait(this.#writeHost(child, start, offset - padBefore, before));
    if (padAfter > 0) yield* wait(this.#writeHost(child, room.offset + source.length, offset + source.length, behind));
  }

  *#readPad(offset: number, pad: Uint8Array): Steps<void> {
    if (pad.length === 0) return;
    yield* wait(this.debug('cow_read'));
    // Padding may reach past the end of a disk that does not end with its last cluster.
    const inside = Math.max(0, Math.min(pad.length, this.mappedSize - offset));
    if (inside > 0) yield* wait(this.read(offset, pad.subarray(0, inside)));
  }

  /** How far map() can be asked: the disk, and whatever the format keeps behind it. */
  protected get mappedSize(): number {
    return this.size;
  }

  *#zeroSlowly(offset: number, length: number, flags: number): Steps<void> {
    const unit = this.zeroUnit;
    const start = offset - (offset % unit);
    let end = offset + length;
    if (end !== this.size) end = Math.ceil(end / unit) * unit;
    end = Math.min(end, Math.max(this.size, offset + length));
    const widened = start < offset || end > offset + length;
    if (widened && !((yield* this.#readsAsZero(start, offset - start)) && (yield* this.#readsAsZero(offset + length, end - offset - length)))) {
      throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    }
    yield* wait(this.zero(start, end - start, flags));
  }

  /** Whether the guest is known to see zeroes. Parts past the end of the disk do. */
  *#readsAsZero(offset: number, length: number): Steps<boolean> {
    const end = Math.min(offset + length, this.mappedSize);
    for (let at = offset; at < end;) {
      const extent = yield* settled(() => this.map(at, end - at));
      if (extent.kind === 'data' || extent.kind === 'child') return false;
      if (extent.kind === 'backing' && this.cow !== undefined && at < this.cow.size) {
        const below = yield* wait(chainReadsAsZero(this.cow, at, Math.min(extent.length, this.cow.size - at)));
        if (!below) return false;
      }
      at += extent.length;
    }
    return true;
  }
}

/** Asks until the answer is known. It holds until the caller next waits. */
export function* settled<T extends object | undefined>(ask: () => T | AskAgain): Steps<T> {
  for (;;) {
    const answer = ask();
    if (!isUnknown(answer)) return answer;
    yield* wait(answer);
  }
}

/** Zeroes new room if the child can do so without writing zeroes out. */
function* zeroRoom(child: BlockChild, offset: number, length: number): Steps<boolean> {
  try {
    yield* wait(child.writeZeroes(offset, length, Req.NO_FALLBACK));
    return true;
  } catch (error) {
    if (error instanceof BlockError && error.code === 'NOT_SUPPORTED') return false;
    throw error;
  }
}

function chainReadsAsZero(cow: BlockChild, offset: number, length: number): MaybePromise<boolean> {
  return andThen(chainStatus(cow.node, offset, length), (status) => {
    if (status.length === 0) return true;
    if (!status.zero && status.depth !== 0) return false;
    return status.length >= length || chainReadsAsZero(cow, offset + status.length, length - status.length);
  });
}
