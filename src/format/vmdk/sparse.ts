/** Extents whose tables lie in front of their grains: hosted sparse, COWD, and SESPARSE for reading. */
import type { Allocation, AskAgain } from '../../block/mapped-format.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { GrainExtent, type GrainExtentInit } from './grain-extent.js';
import { cowdFreeSectorOffset, sectorSize, uncleanOffset } from './header.js';
import { GrainPacker } from './packer.js';
import { absent, GrainTables, known, zeroed, type TableShape } from './grain-tables.js';

/** Entries count sectors with 32 bits. */
const maxHost = 2 ** 32 * sectorSize;

export interface SparseExtentInit extends GrainExtentInit {
  readonly shape: TableShape;
  readonly knowsZeroes: boolean;
  /** What the header keeps up to date while it is written: hosted ones whether somebody writes, COWD its end. */
  readonly kind: 'hosted' | 'cowd' | 'sesparse';
}

export class SparseExtent extends GrainExtent {
  readonly tables: GrainTables;
  readonly kind: SparseExtentInit['kind'];
  readonly #init: SparseExtentInit;
  readonly #packer: GrainPacker;
  /** Tables change, and room is taken, one after the other. */
  readonly #mutex = new Mutex();
  /** Room from here on is free; unknown until the first allocation. */
  #free: number | undefined;
  #begun = false;

  constructor(init: SparseExtentInit) {
    super(init);
    this.#init = init;
    this.kind = init.kind;
    this.tables = new GrainTables(init.file, init.shape);
    this.#packer = new GrainPacker(init.grainSize);
  }

  lookup(grain: number): number | AskAgain {
    return this.tables.lookup(grain);
  }

  tableOf(index: number): number | AskAgain {
    return this.tables.tableOf(index);
  }

  allocate(offset: number, length: number): MaybePromise<Allocation> {
    return this.#mutex.run(() => run(this.#allocate(offset, length)));
  }

  *#allocate(offset: number, length: number): Steps<Allocation> {
    const { grainSize, file } = this;
    const first = Math.floor(offset / grainSize);
    const within = offset % grainSize;
    const stop = Math.ceil((offset + length) / grainSize);
    const place = yield* known(() => this.lookup(first));
    let end = first + 1;
    if (place > zeroed) {
      for (; end < stop && (yield* known(() => this.lookup(end))) === place + (end - first) * grainSize; end++);
      const bytes = Math.min(end * grainSize, offset + length) - offset;
      return { child: file, offset: place + within, length: bytes, padBefore: 0, padAfter: 0, commit: () => undefined, cancel: () => undefined };
    }
    while (end < stop && (yield* known(() => this.lookup(end))) <= zeroed) end++;
    yield* this.#makeTables(first, end);
    const bytes = Math.min(end * grainSize, offset + length) - offset;
    const host = this.#take((end - first) * grainSize, grainSize);
    return {
      child: file, offset: host + within, length: bytes, padBefore: within, padAfter: (end - first) * grainSize - within - bytes,
      commit: () => this.#mutex.run(() => run(this.#assign(first, end - first, host))),
      cancel: () => {
        if (this.#free === host + (end - first) * grainSize) this.#free = host;
      },
    };
  }

  *#assign(first: number, count: number, host: number): Steps<void> {
    yield* this.tables.assign(first, count, host, this.grainSize);
    if (this.tables.crowded) yield* this.#writeBack();
  }

  /** Room at the end of the file. */
  #take(length: number, alignment: number): number {
    const free = this.#free ?? Math.max(this.dataStart, this.file.size);
    const host = Math.ceil(free / alignment) * alignment;
    if (host + length > maxHost) throw systemError(Errno.EFBIG, { op: 'write' });
    this.#free = host + length;
    return host;
  }

  *#makeTables(first: number, end: number): Steps<void> {
    const { tableEntries } = this;
    for (let index = Math.floor(first / tableEntries); index * tableEntries < end; index++) {
      if ((yield* known(() => this.tableOf(index))) !== 0) continue;
      if (this.#init.shape.redundant !== undefined) {
        throw new BlockError('CORRUPT_IMAGE', 'A grain table is missing', { op: 'write', errno: Errno.EIO });
      }
      yield* this.tables.addTable(index, this.#take(tableEntries * 4, sectorSize));
    }
  }

  zero(offset: number, length: number): MaybePromise<void> {
    if (!this.#init.knowsZeroes || this.compressed) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    const first = offset / this.grainSize;
    if (!Number.isInteger(first)) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    const end = Math.ceil((offset + length) / this.grainSize);
    return this.#mutex.run(() => run(this.#zero(first, end)));
  }

  *#zero(first: number, end: number): Steps<void> {
    yield* this.#makeTables(first, end);
    yield* this.#assign(first, end - first, zeroed);
  }

  *writeEncoded(offset: number, source: Uint8Array): Steps<void> {
    const grain = offset / this.grainSize;
    yield* this.#packer.pack(grain, source, (packed) => this.#storePacked(grain, packed));
  }

  *#storePacked(grain: number, packed: Uint8Array): Steps<void> {
    const host = yield* wait(this.#mutex.run(() => run(this.#placePacked(grain, packed.length))));
    yield* wait(this.file.write(host, packed));
    yield* wait(this.#mutex.run(() => run(this.#assign(grain, 1, host))));
  }

  *#placePacked(grain: number, length: number): Steps<number> {
    if ((yield* known(() => this.lookup(grain))) !== absent) throw alreadyStored(grain * this.grainSize);
    yield* this.#makeTables(grain, grain + 1);
    return this.#take(length, sectorSize);
  }

  *begin(): Steps<void> {
    if (this.#begun) return;
    if (this.kind === 'hosted') yield* wait(this.file.write(uncleanOffset, Uint8Array.of(1)));
    this.#begun = true;
  }

  *flush(): Steps<void> {
    yield* wait(this.#mutex.run(() => run(this.#writeBack())));
  }

  /** Data first, then tables, then what names the tables. */
  *#writeBack(): Steps<void> {
    yield* wait(this.file.flush());
    if (!this.tables.dirty) return;
    if (this.kind === 'cowd' && this.#free !== undefined) {
      const end = new DataView(new ArrayBuffer(4));
      end.setUint32(0, Math.ceil(this.#free / sectorSize), true);
      yield* wait(this.file.write(cowdFreeSectorOffset, new Uint8Array(end.buffer)));
    }
    yield* this.tables.writeBack(() => this.file.flush());
    yield* wait(this.file.flush());
  }

  *end(): Steps<void> {
    yield* this.flush();
    if (!this.#begun) return;
    this.#begun = false;
    if (this.kind !== 'hosted') return;
    yield* wait(this.file.write(uncleanOffset, Uint8Array.of(0)));
    yield* wait(this.file.flush());
  }
}

/** Streams are written once. */
export function alreadyStored(offset: number): BlockError {
  return systemError(Errno.EIO, { op: 'write', offset });
}
