/** What a disk is made of: extents, one behind the other. */
import type { BlockChild } from '../../block/child.js';
import { Req, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import type { Allocation, AskAgain, HostRun } from '../../block/mapped-format.js';
import type { MaybePromise } from '../../util/maybe.js';
import { wait, type Steps } from '../../util/steps.js';

/** Offsets are bytes from the extent's start; the methods are those of MappedFormat. */
export interface Extent {
  /** Undefined where it needs none. */
  readonly file: BlockChild | undefined;
  /** In bytes. */
  readonly size: number;
  /** As the descriptor calls it; empty in a file that holds its own descriptor. */
  readonly type: string;
  /** Bytes that are allocated together; undefined: all of them always are. */
  readonly grainSize: number | undefined;
  readonly compressed: boolean;
  map(offset: number, length: number): LayerExtent | AskAgain;
  writable(offset: number, length: number): HostRun | undefined | AskAgain;
  allocate(offset: number, length: number): MaybePromise<Allocation>;
  /** Whole grains. @throws ENOTSUP where the extent cannot mark zeroes */
  zero(offset: number, length: number, flags: number): MaybePromise<void>;
  readEncoded(offset: number, target: Uint8Array): MaybePromise<void>;
  /** Whole grains. */
  writeEncoded(offset: number, source: Uint8Array): Steps<void>;
  /** A writer begins, before its first change. */
  begin(): Steps<void>;
  /** Brings tables to the file, behind the data they speak of; all of it is durable then. */
  flush(): Steps<void>;
  /** The writer is done. */
  end(): Steps<void>;
  /** Makes it longer; what is added reads as zero. It is durable when this is done, and the size changes at once. */
  grow(size: number, options: ResizeOptions): Steps<void>;
}

/** Bytes of a file as they are. */
export class FlatExtent implements Extent {
  readonly file: BlockChild;
  size: number;
  readonly type: string;
  readonly grainSize = undefined;
  readonly compressed = false;
  readonly #start: number;

  constructor(file: BlockChild, init: { readonly start: number; readonly size: number; readonly type: string }) {
    this.file = file;
    this.#start = init.start;
    this.size = init.size;
    this.type = init.type;
  }

  map(offset: number, length: number): LayerExtent {
    return { kind: 'data', length, host: { child: this.file, offset: this.#start + offset }, recurse: true };
  }

  writable(offset: number, length: number): HostRun {
    return { child: this.file, offset: this.#start + offset, length };
  }

  allocate(): never {
    throw new Error('a flat extent is allocated');
  }

  /** The file does it, if it can. */
  zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.file.writeZeroes(this.#start + offset, length, flags & (Req.MAY_UNMAP | Req.NO_FALLBACK));
  }

  readEncoded(): never {
    throw new Error('a flat extent is not encoded');
  }

  writeEncoded(): never {
    throw new Error('a flat extent is not encoded');
  }

  *begin(): Steps<void> {}

  *flush(): Steps<void> {
    const done = this.file.flush();
    if (done !== undefined) yield done;
  }

  *end(): Steps<void> {}

  *grow(size: number, { preallocation, signal }: ResizeOptions): Steps<void> {
    const end = this.#start + size;
    const former = this.#start + this.size;
    const filled = Math.min(this.file.size, end);
    if (filled > former) yield* wait(this.file.writeZeroes(former, filled - former, Req.MAY_UNMAP));
    if (end > this.file.size) yield* wait(this.file.resize(end, { exact: false, preallocation, ...(signal && { signal }) }));
    yield* wait(this.file.flush());
    this.size = size;
  }

  /** Undoes grow(). */
  *cut(size: number): Steps<void> {
    yield* wait(this.file.resize(this.#start + size, { exact: false }));
    this.size = size;
  }
}

/** Zeroes without a file. */
export class ZeroExtent implements Extent {
  readonly file = undefined;
  size: number;
  readonly type = 'ZERO';
  readonly grainSize = undefined;
  readonly compressed = false;

  constructor(size: number) {
    this.size = size;
  }

  map(_offset: number, length: number): LayerExtent {
    return { kind: 'zero', length, allocated: true };
  }

  writable(): undefined {
    return undefined;
  }

  allocate(): never {
    throw systemError(Errno.EACCES, { op: 'write' });
  }

  zero(): undefined {
    return undefined;
  }

  readEncoded(): never {
    throw new Error('nothing is encoded here');
  }

  writeEncoded(): never {
    throw systemError(Errno.EACCES, { op: 'write' });
  }

  *begin(): Steps<void> {}

  *flush(): Steps<void> {}

  *end(): Steps<void> {}

  *grow(size: number): Steps<void> {
    this.size = size;
  }
}
