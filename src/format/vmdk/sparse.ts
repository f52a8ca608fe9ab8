/** Extents whose tables lie in front of their grains: hosted sparse, COWD, and SESPARSE for reading. */
import type { Allocation, AskAgain } from '../../block/mapped-format.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { Req } from '../../block/driver.js';
import type { MaybePromise } from '../../util/maybe.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { GrainExtent, type GrainExtentInit } from './grain-extent.js';
import { cowdFreeSectorOffset, growCowdHeader, growHeader, sectorSize, uncleanOffset } from './header.js';
import { GrainPacker } from './packer.js';
import { absent, GrainTables, known, zeroed, type TableShape } from './grain-tables.js';

/** Entries count sectors with 32 bits. */
const maxHost = 2 ** 32 * sectorSize;
/** So do headers of COWD. */
const maxCowd = (2 ** 32 - 1) * sectorSize;

export interface SparseExtentInit extends GrainExtentInit {
  readonly shape: TableShape;
  readonly knowsZeroes: boolean;
  /** What the header keeps up to date while it is written: hosted ones whether somebody writes, COWD its end. */
  readonly kind: 'hosted' | 'cowd' | 'sesparse';
  /** Where the file ends, by its header. */
  readonly free?: number;
}

export class SparseExtent extends GrainExtent {
  readonly tables: GrainTables;
  readonly kind: SparseExtentInit['kind'];
  /** Entries can say that a grain reads as zero. */
  readonly knowsZeroes: boolean;
  readonly #leastFree: number;
  readonly #packer: GrainPacker;
  /** Tables change, and room is taken, one after the other. */
  readonly #mutex = new Mutex();
  /** Room from here on is free; unknown until the first allocation. */
  #free: number | undefined;
  #begun = false;

  constructor(init: SparseExtentInit) {
    super(init);
    this.knowsZeroes = init.knowsZeroes;
    this.#leastFree = Math.max(init.dataStart, init.free ?? 0);
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
    const free = this.#free ?? Math.max(this.#leastFree, this.file.size);
    const host = Math.ceil(free / alignment) * alignment;
    if (host + length > maxHost) throw systemError(Errno.EFBIG, { op: 'write' });
    this.#free = host + length;
    return host;
  }

  *#makeTables(first: number, end: number): Steps<void> {
    const { tableEntries } = this;
    for (let index = Math.floor(first / tableEntries); index * tableEntries < end; index++) {
      if ((yield* known(() => this.tableOf(index))) !== 0) continue;
      if (this.tables.shape.redundant !== undefined) {
        throw new BlockError('CORRUPT_IMAGE', 'A grain table is missing', { op: 'write', errno: Errno.EIO });
      }
      yield* this.tables.addTable(index, this.#take(tableEntries * 4, sectorSize));
    }
  }

  zero(offset: number, length: number): MaybePromise<void> {
    if (!this.knowsZeroes || this.compressed) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
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
    yield* this.#packer.pack(grain, source, (at, packed) => this.#storePacked(at, packed));
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

  *grow(size: number): Steps<void> {
    yield* wait(this.#mutex.run(() => run(this.#grow(size))));
  }

  /** What is new is durable before the header's one sector names it. */
  *#grow(size: number): Steps<void> {
    const { file, tables } = this;
    const tableCount = Math.max(tables.shape.tableCount, Math.ceil(size / (this.grainSize * this.tableEntries)));
    if (this.kind === 'cowd' && size > maxCowd) throw systemError(Errno.EFBIG, { op: 'resize' });
    yield* this.#writeBack();
    yield* this.#clearTail();
    const { directory, redundant } = tableCount === tables.shape.tableCount ? tables.shape : yield* this.#newDirectories(tableCount);
    yield* wait(file.flush());
    const header = new Uint8Array(sectorSize);
    yield* wait(file.read(0, header));
    (this.kind === 'cowd' ? growCowdHeader : growHeader)(header, {
      capacity: size / sectorSize, directory: directory / sectorSize, directoryEntries: tableCount,
      ...(redundant !== undefined && { redundantDirectory: redundant / sectorSize }), ...(this.#free !== undefined && { end: Math.ceil(this.#free / sectorSize) }),
    });
    yield* wait(file.write(0, header));
    yield* wait(file.flush());
    tables.shape = { ...tables.shape, tableCount, directory, ...(redundant !== undefined && { redundant }) };
    this.size = size;
  }

  /** What lies in the last grain behind the disk's end is about to be seen. */
  *#clearTail(): Steps<void> {
    const within = this.size % this.grainSize;
    const place = within === 0 ? absent : yield* known(() => this.lookup(Math.floor(this.size / this.grainSize)));
    if (place > zeroed) yield* wait(this.file.writeZeroes(place + within, this.grainSize - within));
  }

  /** Longer copies of the directories, at the end of the file; new tables follow each, where tables are made in advance. */
  *#newDirectories(tableCount: number): Steps<Pick<TableShape, 'directory' | 'redundant'>> {
    const { shape } = this.tables;
    const directoryBytes = Math.ceil(tableCount * 4 / sectorSize) * sectorSize;
    const tableBytes = this.kind === 'hosted' ? Math.ceil(this.tableEntries * 4 / sectorSize) * sectorSize : 0;
    const length = directoryBytes + (tableCount - shape.tableCount) * tableBytes;
    const copies = shape.redundant === undefined ? 1 : 2;
    const place = this.#take(copies * length, this.kind === 'hosted' ? this.grainSize : sectorSize);
    try {
      yield* wait(this.file.writeZeroes(place, copies * length, Req.MAY_UNMAP));
      const directory = place + (copies - 1) * length;
      yield* this.#copyDirectory(shape.directory, directory, tableCount, directory + directoryBytes, tableBytes);
      if (shape.redundant === undefined) return { directory };
      yield* this.#copyDirectory(shape.redundant, place, tableCount, place + directoryBytes, tableBytes);
      return { directory, redundant: place };
    } catch (error) {
      // nobody else has taken room since
      this.#free = place;
      if (this.file.size > place) yield* wait(this.file.resize(place, { exact: false }));
      throw error;
    }
  }

  /** `tables`: place of the first new table, `tableBytes` of each; 0: there are none yet. */
  *#copyDirectory(from: number, to: number, tableCount: number, tables: number, tableBytes: number): Steps<void> {
    const former = this.tables.shape.tableCount;
    for (let first = 0; first < tableCount; first += directoryPiece / 4) {
      const count = Math.min(directoryPiece / 4, tableCount - first);
      const piece = new Uint8Array(count * 4);
      const copied = Math.max(0, Math.min(count, former - first));
      yield* wait(this.file.read(from + first * 4, piece.subarray(0, copied * 4)));
      const view = viewOf(piece);
      if (tableBytes > 0) {
        for (let at = copied; at < count; at++) view.setUint32(at * 4, (tables + (first + at - former) * tableBytes) / sectorSize, true);
      }
      yield* wait(this.file.write(to + first * 4, piece));
    }
  }
}

/** Bytes of a directory that are copied at a time. */
const directoryPiece = 1 << 20;

/** Streams are written once. */
export function alreadyStored(offset: number): BlockError {
  return systemError(Errno.EIO, { op: 'write', offset, fault: 'out-of-order' });
}
