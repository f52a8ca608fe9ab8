/** The open layer: requests, and what the image can do beyond them. */
import { AppendingFormat } from '../../block/appending-format.js';
import type { BlockChild } from '../../block/child.js';
import type { DataCipher } from '../../block/data-cipher.js';
import { Req, type Capabilities, type LayerExtent, type OpenContext, type ResizeOptions } from '../../block/driver.js';
import { misplaced, TwoLevelTables, type TablePlace } from '../../block/entry-tables.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { BackingFacet, Facets } from '../../block/facets.js';
import { settled } from '../../block/mapped-format.js';
import { rawDeflate } from '../../platform/compression.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { checkQcow } from './check.js';
import { clusterEntries, compressedPlace, entryAt, isCompressed, setCompressedPlace, setEntry } from './entries.js';
import { Crypt, directoryEntries, headerBytes, serialiseHeader, type QcowHeader } from './header.js';

const copyChunk = 1 << 20;
/** Compressed data begins with a sector of its own, so that nothing that is stored is written again. */
const sector = 512;

export class QcowOps extends AppendingFormat {
  protected readonly tables: TwoLevelTables;
  protected readonly entries = clusterEntries;
  protected readonly storesZero = false;
  protected readonly facets: Partial<Facets>;
  readonly #cipher: DataCipher | undefined;
  #header: QcowHeader;
  #directory: TablePlace;
  /** The cluster decompressed last, by its place. Nothing else comes to lie there. */
  #last: { readonly offset: number; readonly bytes: Uint8Array } | undefined;

  constructor(context: OpenContext<object>, file: BlockChild, backing: BlockChild | undefined, header: QcowHeader, cipher: DataCipher | undefined) {
    super(context, file, backing, 2 ** header.clusterBits, header.crypt === Crypt.NONE ? 1 : 512);
    this.#header = header;
    this.#directory = directoryOf(file, header);
    this.#cipher = cipher;
    this.alignment = this.clusterSize;
    this.end = Math.max(file.size, this.#directory.offset + this.#directory.length);
    const directory = (): TablePlace => this.#directory;
    const tableBytes = 8 * 2 ** header.tableBits;
    this.tables = new TwoLevelTables({
      get directory() { return directory(); },
      tableEntries: tableBytes / 8,
      tableOffset: (view, at) => {
        const offset = entryAt(view, at);
        if (offset !== 0 && (offset < headerBytes || offset + tableBytes > Math.max(this.end, file.size))) throw misplaced('a table', offset);
        return offset;
      },
      setTableOffset: setEntry,
      reserve: (bytes) => this.reserve(bytes),
      giveBack: (offset, bytes) => this.giveBack(offset, bytes),
    }, (event) => this.debug(event));
    this.facets = {
      backing: this.#backing(),
      formatInfo: { specific: () => undefined, clusterSize: this.clusterSize, encrypted: header.crypt !== Crypt.NONE },
      makeEmpty: { makeEmpty: () => this.#makeEmpty() },
      check: {
        check: async (options) => this.lookAtDisk(() => checkQcow({
          file, directory: this.#directory, tableBytes, size: this.size, clusterBits: this.#header.clusterBits, reserve: (bytes) => this.reserve(bytes),
        }, options)),
      },
    };
  }

  get size(): number {
    return this.#header.size;
  }

  get capabilities(): Capabilities {
    return this.readOnly ? readable : this.#header.crypt === Crypt.NONE ? writable : writableEncrypted;
  }

  protected override get cipher(): DataCipher | undefined {
    return this.#cipher;
  }

  protected isPlace(offset: number): boolean {
    const { offset: start, length } = this.#directory;
    const onDirectory = offset < start + length && offset + this.clusterSize > start;
    return offset % 512 === 0 && offset >= headerBytes && offset < Math.max(this.end, this.file.size) && !onDirectory;
  }

  /** A table lies before the first data it shows, as at the peer. */
  protected override *claim(cluster: number): Steps<void> {
    yield* this.tables.lookupForWriting(cluster);
  }

  /** What lies in the file is not what the guest sees. */
  override status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent> {
    const extent = super.status(offset, length, wantZero);
    if (this.#header.crypt === Crypt.NONE) return extent;
    return andThen(extent, (found): LayerExtent => (found.kind === 'data' ? { kind: 'data', length: found.length, compressed: found.compressed === true } : found));
  }

  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    return run(this.#readCompressed(offset, target));
  }

  *#readCompressed(offset: number, target: Uint8Array): Steps<void> {
    const cluster = Math.floor(offset / this.clusterSize);
    const spot = yield* settled(() => this.tables.lookup(cluster));
    // written anew since it was looked up
    if (spot === undefined || !isCompressed(spot.table.view, spot.at)) return yield* wait(this.read(offset, target));
    const place = compressedPlace(spot.table.view, spot.at, this.#header.clusterBits);
    let bytes = this.#last?.offset === place.offset ? this.#last.bytes : undefined;
    if (bytes === undefined) {
      const packed = new Uint8Array(place.length);
      yield* wait(this.file.read(place.offset, packed));
      bytes = new Uint8Array(this.clusterSize);
      try {
        rawDeflate.decompress(packed, bytes);
      } catch (error) {
        throw new BlockError('IO_ERROR', 'Input/output error', { node: this.context.nodeName, op: 'read', offset, errno: Errno.EIO }, error);
      }
      this.#last = { offset: place.offset, bytes };
    }
    const start = offset - cluster * this.clusterSize;
    target.set(bytes.subarray(start, start + target.length));
  }

  protected override writeEncoded(offset: number, source: Uint8Array): MaybePromise<void> {
    return run(this.#writeCompressed(offset, source));
  }

  *#writeCompressed(offset: number, source: Uint8Array): Steps<void> {
    const { clusterSize } = this;
    const end = offset + source.length;
    if (offset % clusterSize !== 0 || (end % clusterSize !== 0 && end !== this.size)) throw systemError(Errno.EINVAL, { op: 'write', offset });
    for (let at = offset; at < end; at += clusterSize) {
      const piece = source.subarray(at - offset, Math.min(at + clusterSize, end) - offset);
      let whole = piece;
      if (piece.length < clusterSize) {
        whole = new Uint8Array(clusterSize);
        whole.set(piece);
      }
      const packed = rawDeflate.compress(whole);
      if (packed.length < clusterSize) yield* this.#storeCompressed(at / clusterSize, packed);
      else yield* this.writeHeld(at, piece);
    }
  }

  *#storeCompressed(cluster: number, packed: Uint8Array): Steps<void> {
    yield* wait(this.exclusive(() => run(this.claim(cluster))));
    const offset = this.reserve(packed.length, sector);
    try {
      yield* wait(this.debug('write_compressed'));
      yield* wait(this.file.write(offset, packed));
    } catch (error) {
      this.giveBack(offset, packed.length);
      throw error;
    }
    yield* wait(this.exclusive(() => run(this.#linkCompressed(cluster, { offset, length: packed.length }))));
  }

  *#linkCompressed(cluster: number, place: { offset: number; length: number }): Steps<void> {
    const spot = yield* this.tables.lookupForWriting(cluster);
    setCompressedPlace(spot.table.view, spot.at, this.#header.clusterBits, place);
    this.tables.changed(spot);
  }

  /** The name has no room to grow in, and there is no feature that says which format the file has. */
  #backing(): BackingFacet {
    return {
      filename: this.#header.backingFile,
      format: undefined,
      change: () => Promise.reject(systemError(Errno.ENOTSUP)),
    };
  }

  /** Empties the L1 table, then cuts off what it referred to. Other requests must not run meanwhile. */
  async #makeEmpty(): Promise<void> {
    await this.exclusive(async () => {
      const { offset, length } = this.#directory;
      this.tables.clear();
      this.#last = undefined;
      await this.file.writeZeroes(offset, length);
      await this.file.flush();
      if (offset + length < this.file.size) await this.file.resize(offset + length, { exact: false });
      this.end = offset + length;
    });
  }

  /** A longer L1 table goes to the end of the file; the header names it in the same sector as the new size. */
  override async resize(size: number, { preallocation, zeroNew }: ResizeOptions): Promise<void> {
    if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${preallocation}'`, { errno: Errno.ENOTSUP });
    if (size % 512 !== 0) throw new BlockError('INVALID_ARGUMENT', 'The new size must be a multiple of 512', { errno: Errno.EINVAL });
    const from = this.size;
    const entries = directoryEntries({ ...this.#header, size });
    await this.exclusive(async () => {
      await run(this.flushAll());
      const l1Offset = entries * 8 > this.#directory.length ? await this.#moveDirectory(entries * 8) : this.#header.l1Offset;
      const header = { ...this.#header, size, l1Offset };
      await this.file.write(24, serialiseHeader(header).subarray(24, headerBytes));
      await this.file.flush();
      this.#header = header;
      this.#directory = directoryOf(this.file, header);
      this.tables.clear();
    });
    if (zeroNew) await this.zeroRange(from, size);
  }

  async #moveDirectory(bytes: number): Promise<number> {
    const old = this.#directory;
    const offset = this.reserve(bytes);
    await this.file.writeZeroes(offset, bytes);
    for (let done = 0; done < old.length; done += copyChunk) {
      const chunk = new Uint8Array(Math.min(copyChunk, old.length - done));
      await this.file.read(old.offset + done, chunk);
      await this.file.write(offset + done, chunk);
    }
    await this.file.flush();
    return offset;
  }
}

function directoryOf(file: BlockChild, header: QcowHeader): TablePlace {
  return { file, offset: header.l1Offset, length: directoryEntries(header) * 8 };
}

const writable: Capabilities = Object.freeze({
  write: true, writeFlags: Req.COMPRESSED, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: false, resize: 'grow', growsOnWrite: false,
});
/** Zeroes must be encrypted like all else, and what is compressed would be stored in the clear. */
const writableEncrypted: Capabilities = Object.freeze({ ...writable, writeFlags: 0, zeroFlags: undefined });
const readable: Capabilities = Object.freeze({ ...writable, write: false, resize: 'none' });
