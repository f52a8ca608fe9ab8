/**
 * Writing a streamOptimized disk without ever going back: header, descriptor, grains in the order of the disk with a table behind
 * each stretch they fill, and at last directory and footer. The sink may be a file, a pipe or an HTTP body.
 */
import { Errno, systemError } from '../../block/errors.js';
import type { MaybePromise } from '../../util/maybe.js';
import { wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { encodeMarker, encodeSparseHeader, MarkerType, sectorSize, tableSectors, type SparseHeader } from './header.js';

/** Takes the bytes that follow those it took before. */
export type StreamSink = (bytes: Uint8Array) => MaybePromise<void>;

const directoryPiece = 64 * 1024;

export class StreamWriter {
  readonly header: SparseHeader;
  readonly #sink: StreamSink;
  readonly #tableCount: number;
  /** Sectors of tables that have been written, by their number. */
  readonly #directory = new Map<number, number>();
  /** Entries of the table whose grains are being written. */
  readonly #entries: Uint32Array;
  #table = -1;
  #last = -1;
  #position: number;
  #directoryPlace: number | undefined;

  /** @param position where the first byte goes; other than 0 where a disk is continued */
  constructor(header: SparseHeader, sink: StreamSink, position = 0) {
    this.header = header;
    this.#sink = sink;
    this.#position = position;
    this.#entries = new Uint32Array(header.tableEntries);
    this.#tableCount = Math.ceil(header.capacity / (header.grain * header.tableEntries));
  }

  /** Bytes that have been written, or are being. */
  get position(): number {
    return this.#position;
  }

  /** The grain written last; -1: none. */
  get last(): number {
    return this.#last;
  }

  /** The table whose grains are being written; -1: none. */
  get table(): number {
    return this.#table;
  }

  /** Entry of a grain in that table. */
  entry(grain: number): number {
    return this.#entries[grain % this.header.tableEntries]!;
  }

  /** Where a finished table lies in bytes; 0: there is none. */
  tablePlace(table: number): number {
    return (this.#directory.get(table) ?? 0) * sectorSize;
  }

  /** Where the directory lies in bytes, once it has been written. */
  get directory(): number | undefined {
    return this.#directoryPlace;
  }

  /** Takes over what another writer left: tables by number and sector, and the entries of the last one, which is written anew. */
  resume(tables: Iterable<readonly [number, number]>, current: number, entries: Uint32Array): void {
    for (const [table, sector] of tables) if (table !== current) this.#directory.set(table, sector);
    this.#table = current;
    this.#entries.set(entries);
    this.#last = current * this.header.tableEntries + entries.findLastIndex((entry) => entry !== 0);
  }

  /** Header, descriptor, and room up to the first grain. */
  *begin(descriptor: Uint8Array): Steps<void> {
    const { header } = this;
    const bytes = new Uint8Array(header.overhead * sectorSize);
    bytes.set(encodeSparseHeader(header));
    bytes.set(descriptor, header.descriptor * sectorSize);
    yield* this.#write(bytes);
  }

  /** The next grain with its marker, in whole sectors. Grains come in the order of the disk. */
  *grain(grain: number, packed: Uint8Array): Steps<void> {
    yield* this.#reach(grain);
    const place = this.#position;
    yield* this.#write(packed);
    this.#enter(grain, place);
  }

  /** The next grain, which lies at `place` (in bytes) already. */
  *adopt(grain: number, place: number): Steps<void> {
    yield* this.#reach(grain);
    this.#enter(grain, place);
  }

  *#reach(grain: number): Steps<void> {
    if (grain <= this.#last) throw new RangeError('grains of a stream ascend');
    const table = Math.floor(grain / this.header.tableEntries);
    if (table === this.#table) return;
    yield* this.#finishTable();
    this.#table = table;
  }

  #enter(grain: number, place: number): void {
    this.#entries[grain % this.header.tableEntries] = place / sectorSize;
    this.#last = grain;
  }

  /** Everything that follows the last grain. Nothing may be written afterwards. */
  *finish(): Steps<void> {
    yield* this.#finishTable();
    const directoryBytes = tableSectors(this.#tableCount) * sectorSize;
    yield* this.#write(encodeMarker(MarkerType.DIRECTORY, directoryBytes / sectorSize));
    const directory = this.#position / sectorSize;
    this.#directoryPlace = this.#position;
    for (let at = 0; at < directoryBytes; at += directoryPiece) {
      const piece = new Uint8Array(Math.min(directoryPiece, directoryBytes - at));
      const view = viewOf(piece);
      for (let entry = 0; entry < piece.length; entry += 4) view.setUint32(entry, this.#directory.get((at + entry) / 4) ?? 0, true);
      yield* this.#write(piece);
    }
    const footer = new Uint8Array(3 * sectorSize);
    footer.set(encodeMarker(MarkerType.FOOTER, 1));
    footer.set(encodeSparseHeader({ ...this.header, directory }), sectorSize);
    footer.set(encodeMarker(MarkerType.END, 0), 2 * sectorSize);
    yield* this.#write(footer);
  }

  *#finishTable(): Steps<void> {
    if (this.#table === -1) return;
    const length = tableSectors(this.header.tableEntries);
    const bytes = new Uint8Array((1 + length) * sectorSize);
    bytes.set(encodeMarker(MarkerType.TABLE, length));
    const view = viewOf(bytes);
    this.#entries.forEach((sector, index) => view.setUint32(sectorSize + index * 4, sector, true));
    const sector = this.#position / sectorSize + 1;
    yield* this.#write(bytes);
    this.#directory.set(this.#table, sector);
    this.#entries.fill(0);
    this.#table = -1;
  }

  *#write(bytes: Uint8Array): Steps<void> {
    const before = this.#position;
    this.#position += bytes.length;
    if (this.#position > 2 ** 32 * sectorSize) {
      this.#position = before;
      throw systemError(Errno.EFBIG, { op: 'write' });
    }
    yield* wait(this.#sink(bytes));
  }
}
