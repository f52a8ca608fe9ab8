/** A streamOptimized disk whose directory comes last: read anywhere, written in order only. */
import type { AskAgain, Allocation } from '../../block/mapped-format.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { Mutex, run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { GrainExtent, type GrainExtentInit } from './grain-extent.js';
import { sectorSize, type SparseHeader } from './header.js';
import { GrainPacker } from './packer.js';
import { alreadyStored } from './sparse.js';
import { StreamWriter } from './stream.js';
import { GrainTables, known, sectorShape, zeroed } from './grain-tables.js';

export interface StreamExtentInit extends GrainExtentInit {
  readonly header: SparseHeader;
  /** Place of the directory; undefined where the file has no end yet. */
  readonly directory: number | undefined;
  readonly knowsZeroes: boolean;
}

export class StreamExtent extends GrainExtent {
  readonly header: SparseHeader;
  readonly #init: StreamExtentInit;
  readonly #packer: GrainPacker;
  readonly #mutex = new Mutex();
  #tables: GrainTables | undefined;
  #directory: number | undefined;
  #writer: StreamWriter | undefined;

  constructor(init: StreamExtentInit) {
    super(init);
    this.#init = init;
    this.header = init.header;
    this.#packer = new GrainPacker(init.grainSize);
    this.#setDirectory(init.directory);
  }

  /** The file has neither directory nor footer: whoever wrote it was cut off. */
  get unfinished(): boolean {
    return this.#directory === undefined && this.#writer === undefined;
  }

  /** Place of the directory in bytes. */
  get directory(): number | undefined {
    return this.#directory;
  }

  #setDirectory(directory: number | undefined): void {
    this.#directory = directory;
    this.#tables = directory === undefined ? undefined : new GrainTables(this.file, sectorShape({
      directory, tableCount: this.tableCount, tableEntries: this.tableEntries,
    }, this.#init.knowsZeroes));
  }

  get tableCount(): number {
    return Math.ceil(this.grains / this.tableEntries);
  }

  lookup(grain: number): number | AskAgain {
    const writer = this.#writer;
    if (writer === undefined) return this.#tables?.lookup(grain) ?? 0;
    const table = Math.floor(grain / this.tableEntries);
    if (table === writer.table) {
      const entry = writer.entry(grain);
      return entry === 1 && this.#init.knowsZeroes ? zeroed : entry * sectorSize;
    }
    const place = writer.tablePlace(table);
    return place === 0 ? 0 : this.#tables!.entryOf(place, grain % this.tableEntries);
  }

  tableOf(index: number): number | AskAgain {
    const writer = this.#writer;
    if (writer === undefined) return this.#tables?.tableOf(index) ?? 0;
    return index === writer.table ? writer.position : writer.tablePlace(index);
  }

  allocate(): Allocation {
    throw systemError(Errno.EINVAL, { op: 'write' });
  }

  zero(offset: number, length: number): never {
    throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
  }

  *writeEncoded(offset: number, source: Uint8Array): Steps<void> {
    const grain = offset / this.grainSize;
    if ((yield* known(() => this.lookup(grain))) !== 0) throw alreadyStored(offset);
    yield* this.#packer.pack(grain, source, (at, packed) => this.#append(at, packed));
  }

  *#append(grain: number, packed: Uint8Array): Steps<void> {
    yield* wait(this.#mutex.run(() => run(this.appendHeld(grain, packed))));
  }

  protected *appendHeld(grain: number, packed: Uint8Array): Steps<void> {
    const writer = this.#writer ??= yield* this.#resume();
    if (grain <= writer.last) {
      throw new BlockError('NOT_SUPPORTED', 'A streamOptimized disk is written from its start to its end', {
        op: 'write', offset: grain * this.grainSize, errno: Errno.EIO, fault: 'out-of-order',
      });
    }
    yield* writer.grain(grain, packed);
  }

  /** Takes off the end that makes the file complete, and goes on where it began. */
  *#resume(): Steps<StreamWriter> {
    const directory = this.#directory;
    if (directory === undefined) throw systemError(Errno.EIO, { op: 'write' });
    const tables: [number, number][] = [];
    for (let index = 0; index < this.tableCount; index++) {
      const place = yield* known(() => this.#tables!.tableOf(index));
      if (place !== 0) tables.push([index, place / sectorSize]);
    }
    let position = directory - sectorSize;
    const entries = new Uint32Array(this.tableEntries);
    const [current = -1, sector = 0] = tables.at(-1) ?? [];
    if (current !== -1) {
      const bytes = new Uint8Array(this.tableEntries * 4);
      yield* wait(this.file.read(sector * sectorSize, bytes));
      const view = viewOf(bytes);
      entries.forEach((_, index) => { entries[index] = view.getUint32(index * 4, true); });
      // it is written anew, in its own place if nothing but the directory follows
      if (sector * sectorSize + Math.ceil(bytes.length / sectorSize) * sectorSize === position) position = (sector - 1) * sectorSize;
    }
    const writer = this.#writerAt(position);
    if (current !== -1) writer.resume(tables, current, entries);
    yield* wait(this.file.resize(position, { exact: false }));
    this.forgetRead();
    return writer;
  }

  #writerAt(position: number): StreamWriter {
    const writer: StreamWriter = new StreamWriter(this.header, (bytes) => this.file.write(writer.position - bytes.length, bytes), position);
    return writer;
  }

  /** Writes tables and footer for the grains found, which end at `position`; the file is complete then. */
  *rebuild(grains: Iterable<readonly [grain: number, place: number]>, position: number): Steps<void> {
    const writer = this.#writerAt(position);
    yield* wait(this.file.resize(position, { exact: false }));
    for (const [grain, place] of grains) yield* writer.adopt(grain, place);
    this.#writer = writer;
    this.forgetRead();
    yield* this.end();
  }

  *begin(): Steps<void> {}

  grow(): never {
    throw new Error('a stream does not grow');
  }

  /** What has been written is durable. Tables and footer follow when the image is closed: until then the grains' markers tell what is there. */
  *flush(): Steps<void> {
    yield* wait(this.file.flush());
  }

  *end(): Steps<void> {
    yield* wait(this.#mutex.run(() => run(this.#end())));
  }

  *#end(): Steps<void> {
    const writer = this.#writer;
    if (writer === undefined) return;
    yield* writer.finish();
    yield* wait(this.file.flush());
    this.#writer = undefined;
    this.#setDirectory(writer.directory);
  }
}
