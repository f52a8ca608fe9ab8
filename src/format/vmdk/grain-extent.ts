/** Extents made of grains: looking them up, and reading those that are compressed. */
import type { BlockChild } from '../../block/child.js';
import type { LayerExtent } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import type { Allocation, AskAgain, HostRun } from '../../block/mapped-format.js';
import { zlibStream } from '../../platform/compression.js';
import type { MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import type { Extent } from './extent.js';
import { grainMarkerLength, sectorSize } from './header.js';
import { absent, known, zeroed } from './grain-tables.js';

/** Longest answer to one lookup, in grains: whoever asks about more asks again. */
const maxRun = 1 << 20;
/** Read at a time where compressed grains are read one after the other. */
const readAhead = 1 << 20;
/** A compressed grain is no longer than this many times its content. */
const maxGrowth = 2;

export interface GrainExtentInit {
  readonly file: BlockChild;
  /** Bytes. */
  readonly size: number;
  readonly grainSize: number;
  readonly tableEntries: number;
  readonly type: string;
  readonly compressed: boolean;
  readonly markers: boolean;
  /** Place behind which grains lie. */
  readonly dataStart: number;
}

export abstract class GrainExtent implements Extent {
  readonly file: BlockChild;
  size: number;
  readonly type: string;
  readonly grainSize: number;
  readonly compressed: boolean;
  readonly tableEntries: number;
  /** Compressed grains begin with a marker. */
  readonly markers: boolean;
  /** Grains lie behind this place. */
  readonly dataStart: number;
  /** Part of the file read last. */
  #window: { readonly offset: number; readonly bytes: Uint8Array } | undefined;
  /** What the former window was read into. */
  #spare: Uint8Array | undefined;
  /** The grain decompressed last. */
  #last: { readonly host: number; readonly bytes: Uint8Array } | undefined;
  #nextHost = 0;

  constructor(init: GrainExtentInit) {
    this.file = init.file;
    this.size = init.size;
    this.type = init.type;
    this.grainSize = init.grainSize;
    this.compressed = init.compressed;
    this.tableEntries = init.tableEntries;
    this.markers = init.markers;
    this.dataStart = init.dataStart;
  }

  /** Place of a grain in the file, `absent` or `zeroed`. */
  abstract lookup(grain: number): number | AskAgain;
  /** Place of a grain table; 0: there is none, and all its grains are absent. */
  abstract tableOf(index: number): number | AskAgain;
  abstract allocate(offset: number, length: number): MaybePromise<Allocation>;
  abstract zero(offset: number, length: number, flags: number): MaybePromise<void>;
  abstract writeEncoded(offset: number, source: Uint8Array): Steps<void>;
  abstract begin(): Steps<void>;
  abstract flush(): Steps<void>;
  abstract end(): Steps<void>;
  abstract grow(size: number): Steps<void>;

  get grains(): number {
    return Math.ceil(this.size / this.grainSize);
  }

  map(offset: number, length: number): LayerExtent | AskAgain {
    const { grainSize } = this;
    const first = Math.floor(offset / grainSize);
    const place = this.lookup(first);
    if (typeof place !== 'number') return place;
    const stop = Math.min(Math.ceil((offset + length) / grainSize), first + maxRun);
    const end = this.#runEnd(first, place, stop);
    const bytes = Math.min(end * grainSize, offset + length) - offset;
    if (place === absent) return { kind: 'backing', length: bytes };
    if (place === zeroed) return { kind: 'zero', length: bytes, allocated: true };
    if (this.compressed) return { kind: 'data', length: bytes, compressed: true };
    return { kind: 'data', length: bytes, host: { child: this.file, offset: place + offset % grainSize } };
  }

  /** Where the grains from `first` on, which lies at `place`, end to have the same answer, as far as is known without waiting. */
  #runEnd(first: number, place: number, stop: number): number {
    const { grainSize, tableEntries } = this;
    const step = place > zeroed && !this.compressed ? grainSize : 0;
    for (let grain = first + 1, expected = place + step; grain < stop; grain++, expected += step) {
      if (place === absent && grain % tableEntries === 0) {
        const table = this.tableOf(grain / tableEntries);
        if (typeof table !== 'number') return grain;
        if (table === 0) {
          grain += tableEntries - 1;
          continue;
        }
      }
      const next = this.lookup(grain);
      if (typeof next !== 'number') return grain;
      if (this.compressed && place > zeroed ? next <= zeroed : next !== expected) return grain;
    }
    return stop;
  }

  writable(offset: number, length: number): HostRun | undefined | AskAgain {
    if (this.compressed) return undefined;
    const { grainSize } = this;
    const first = Math.floor(offset / grainSize);
    const place = this.lookup(first);
    if (typeof place !== 'number') return place;
    if (place <= zeroed) return undefined;
    const end = this.#runEnd(first, place, Math.ceil((offset + length) / grainSize));
    return { child: this.file, offset: place + offset % grainSize, length: Math.min(end * grainSize, offset + length) - offset };
  }

  readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    return run(this.#readEncoded(offset, target));
  }

  *#readEncoded(offset: number, target: Uint8Array): Steps<void> {
    const { grainSize } = this;
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      const grain = Math.floor(at / grainSize);
      const within = at % grainSize;
      const length = Math.min(grainSize - within, target.length - done);
      const host = yield* known(() => this.lookup(grain));
      if (length === grainSize && this.#last?.host !== host) yield* this.#unpack(grain, host, target.subarray(done, done + length));
      else target.set((yield* this.#grain(grain, host)).subarray(within, within + length), done);
      done += length;
    }
  }

  *#grain(grain: number, host: number): Steps<Uint8Array> {
    if (this.#last?.host === host) return this.#last.bytes;
    const bytes = new Uint8Array(this.grainSize);
    yield* this.#unpack(grain, host, bytes);
    this.#last = { host, bytes };
    return bytes;
  }

  *#unpack(grain: number, host: number, bytes: Uint8Array): Steps<void> {
    try {
      this.#decompress(yield* this.#packed(grain, host), bytes, Math.min(this.grainSize, this.size - grain * this.grainSize));
    } catch (error) {
      if (error instanceof BlockError) throw error;
      throw this.broken(grain, error);
    }
  }

  /** The last grain of a disk may have been cut. */
  #decompress(packed: Uint8Array, bytes: Uint8Array, needed: number): void {
    try {
      zlibStream.decompress(packed, bytes);
    } catch (error) {
      if (needed === bytes.length) throw error;
      zlibStream.decompress(packed, bytes.subarray(0, needed));
    }
  }

  /** Bytes that hold until the caller next waits. */
  *#packed(grain: number, host: number): Steps<Uint8Array> {
    if (!this.markers) return yield* this.#hostBytes(host, maxGrowth * this.grainSize, 1);
    const head = yield* this.#hostBytes(host, grainMarkerLength, grainMarkerLength);
    const view = viewOf(head);
    const length = view.getUint32(8, true);
    const place = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
    if (length === 0 || length > maxGrowth * this.grainSize || place * sectorSize !== grain * this.grainSize) throw this.broken(grain);
    return yield* this.#hostBytes(host + grainMarkerLength, length, length);
  }

  /** Bytes of the file: as many as wanted, or at least `least` where the file ends before. They hold until the caller next waits. */
  *#hostBytes(offset: number, wanted: number, least: number): Steps<Uint8Array> {
    const available = Math.min(wanted, this.file.size - offset);
    if (available < least) throw this.broken(Math.floor(offset / this.grainSize));
    let window = this.#window;
    if (window === undefined || offset < window.offset || offset + available > window.offset + window.bytes.length) {
      const sequential = offset === this.#nextHost || (window !== undefined && offset >= window.offset && offset <= window.offset + window.bytes.length + sectorSize);
      const length = Math.min(Math.max(available, sequential ? readAhead : this.grainSize + sectorSize), this.file.size - offset);
      const memory = length === readAhead ? this.#spare ?? new Uint8Array(readAhead) : new Uint8Array(length);
      this.#spare = undefined;
      yield* wait(this.file.read(offset, memory));
      if (this.#window?.bytes.length === readAhead) this.#spare = this.#window.bytes;
      this.#window = window = { offset, bytes: memory };
    }
    this.#nextHost = offset + available;
    return window.bytes.subarray(offset - window.offset, offset - window.offset + available);
  }

  /** Whether a compressed grain lies at `host`, unharmed. */
  *isWhole(grain: number, host: number): Steps<boolean> {
    try {
      yield* this.#grain(grain, host);
      return true;
    } catch (error) {
      if (error instanceof BlockError) return false;
      throw error;
    }
  }

  /** The file is about to be written where it was read before. */
  protected forgetRead(): void {
    this.#window = undefined;
    this.#last = undefined;
  }

  protected broken(grain: number, cause?: unknown): BlockError {
    return new BlockError('IO_ERROR', 'Input/output error', { op: 'read', offset: grain * this.grainSize, errno: Errno.EIO }, cause);
  }
}
