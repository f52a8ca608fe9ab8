/** Dirty bitmaps stored with the image: read at open, marked as in use meanwhile, written back at close. */
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { BitmapFacet, StoredBitmap } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { Autoclear } from './header.js';
import type { Qcow2Image } from './image.js';
import { Structure } from './overlap.js';
import { BitmapFlag, bitmapTableEntryHasReservedBits, entryHi, entryLo, entryOffset, hiOf, loOf, maxBitmapDirectorySize, maxBitmapNameSize, maxBitmaps, maxBitmapTableSize, maxGranularityBits, minGranularityBits, parseBitmapDirectory, serialiseBitmapDirectory, setEntry, type BitmapEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

/** A stored bitmap may take so many bytes at most. */
const maxStoredBytes = 0x2000_0000;

/** Whether what the directory says of a bitmap can be true of this image. */
export function isPlausible({ flags, granularityBits, tableOffset, tableSize }: BitmapEntry, { size, geometry: { clusterSize } }: Pick<Qcow2Image, 'size' | 'geometry'>): boolean {
  if (granularityBits < minGranularityBits || granularityBits > maxGranularityBits) return false;
  if (tableOffset % clusterSize !== 0 || tableSize * 8 > maxBitmapTableSize) return false;
  const storedBytes = Math.ceil(Math.ceil(size / 2 ** granularityBits) / 8);
  return (flags & BitmapFlag.IN_USE) !== 0 || tableSize === Math.ceil(storedBytes / clusterSize);
}

/** Bitmaps of an open image. */
export class Qcow2Bitmaps implements BitmapFacet {
  readonly #image: Qcow2Image;
  #entries: BitmapEntry[] = [];
  /** What was read at open, until the node takes it over; then the node's own. */
  #live = new Map<string, DirtyBitmap>();

  private constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /**
   * Reads the directory and the content of all sound bitmaps. On a writable image they are marked as in use, durably.
   * An image opened to be checked leaves its bitmaps alone.
   */
  static async open(image: Qcow2Image): Promise<Qcow2Bitmaps> {
    const bitmaps = new Qcow2Bitmaps(image);
    if (image.context.mode.check) return bitmaps;
    await run(bitmaps.#load());
    if (!image.readOnly) await bitmaps.claim();
    return bitmaps;
  }

  get supported(): boolean {
    return this.#image.header.version >= 3;
  }

  /** Whether the node has any, stored or not. */
  get some(): boolean {
    return this.#live.size > 0;
  }

  /** @throws BlockError CORRUPT_IMAGE where there is one whose table cannot be brought to another size */
  assertResizable(): void {
    for (const bitmap of this.#live.values()) bitmap.assertUsable({ busy: true });
  }

  attach(live: Map<string, DirtyBitmap>): void {
    for (const [name, bitmap] of this.#live) live.set(name, bitmap);
    this.#live = live;
  }

  /** As in the directory. */
  stored(): readonly StoredBitmap[] {
    return this.#entries.map(({ name, granularityBits, flags }) => ({
      name, granularity: 2 ** granularityBits, inconsistent: (flags & BitmapFlag.IN_USE) !== 0 && this.#live.get(name)?.inconsistent !== false,
      flags: [...((flags & BitmapFlag.IN_USE) !== 0 ? ['in-use'] : []), ...((flags & BitmapFlag.AUTO) !== 0 ? ['auto'] : [])],
    }));
  }

  list(): Promise<readonly StoredBitmap[]> {
    return Promise.resolve(this.stored());
  }

  canStore(name: string, granularity: number): Promise<void> {
    const { context, size } = this.#image;
    const refuse = (reason: string, errno: number): Promise<void> => Promise.reject(new BlockError(
      'INVALID_ARGUMENT', `Can't make bitmap '${name}' persistent in '${context.nodeName}': ${reason}`, { errno }));
    if (size === 0) return refuse('The disk is empty', Errno.EINVAL);
    if (!this.supported) return refuse('Cannot store dirty bitmaps in qcow2 v2 files', Errno.ENOTSUP);
    const bits = Math.log2(granularity);
    if (bits < minGranularityBits) return refuse(`Granularity is under minimum (${2 ** minGranularityBits} bytes)`, Errno.EINVAL);
    if (bits > maxGranularityBits) return refuse(`Granularity exceeds maximum (${2 ** maxGranularityBits} bytes)`, Errno.EINVAL);
    const nameSize = new TextEncoder().encode(name).length;
    if (nameSize > maxBitmapNameSize) return refuse(`Name length exceeds maximum (${maxBitmapNameSize} characters)`, Errno.EINVAL);
    const stored = Math.ceil(Math.ceil(size / granularity) / 8);
    if (stored > maxStoredBytes || Math.ceil(stored / this.#image.geometry.clusterSize) * 8 > maxBitmapTableSize) {
      return refuse('Too much space will be occupied by the bitmap. Use larger granularity', Errno.EINVAL);
    }
    const entries = [...this.#entries.map((entry) => entry.name), ...this.#unstored().map((bitmap) => bitmap.name)];
    if (entries.length >= maxBitmaps) return refuse('Maximum number of persistent bitmaps is already reached', Errno.EINVAL);
    const directory = entries.reduce((total, entry) => total + entrySize(entry), entrySize(name));
    if (directory > maxBitmapDirectorySize) return refuse('Not enough space in the bitmap directory', Errno.EINVAL);
    return Promise.resolve();
  }

  async remove(name: string): Promise<void> {
    const entry = this.#entries.find((candidate) => candidate.name === name);
    if (entry === undefined) return;
    await this.#image.exclusive(() => run(this.#replaceDirectory(this.#entries.filter((candidate) => candidate !== entry), [entry])));
  }

  /** Marks all stored bitmaps as in use: a crash from here on shows. */
  async claim(): Promise<void> {
    for (const bitmap of this.#live.values()) bitmap.readOnly = false;
    if (this.#entries.length === 0 || this.#entries.every(({ flags }) => (flags & BitmapFlag.IN_USE) !== 0)) return;
    const claimed = this.#entries.map((entry) => ({ ...entry, flags: entry.flags | BitmapFlag.IN_USE }));
    await this.#image.exclusive(() => run(this.#rewriteDirectory(claimed)));
  }

  /**
   * Stores all persistent bitmaps of the node; from then on they are read-only.
   * @throws BlockError where one could not be stored; it and those after it are lost
   */
  async store(): Promise<void> {
    const image = this.#image;
    const persistent = [...this.#live.values()].filter(({ persistent: keep, inconsistent, readOnly }) => keep && !inconsistent && !readOnly);
    if (persistent.length === 0) return;
    try {
      await image.exclusive(() => run(this.#store(persistent)));
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      throw new BlockError(error.code, `Lost persistent bitmaps during inactivation of node '${image.context.nodeName}': ${error.message}`, error.context, error);
    }
    for (const bitmap of persistent) bitmap.readOnly = true;
  }

  #unstored(): DirtyBitmap[] {
    return [...this.#live.values()].filter(({ persistent, name }) => persistent && !this.#entries.some((entry) => entry.name === name));
  }

  // -- Reading -----------------------------------------------------------------------------------------------------------------

  *#load(): Steps<void> {
    const { file, header, readOnly } = this.#image;
    if (header.bitmaps === undefined) return;
    const bytes = new Uint8Array(header.bitmaps.directorySize);
    if (bytes.length === 0) throw new BlockError('CORRUPT_IMAGE', 'Requested bitmap directory size is zero');
    yield* wait(file.read(header.bitmaps.directoryOffset, bytes));
    this.#entries = parseBitmapDirectory(bytes, header.bitmaps.count);
    for (const entry of this.#entries) {
      const bitmap = yield* this.#loadBitmap(entry);
      bitmap.readOnly = readOnly;
      this.#live.set(entry.name, bitmap);
    }
  }

  *#loadBitmap(entry: BitmapEntry): Steps<DirtyBitmap> {
    const { size, geometry: { clusterSize } } = this.#image;
    if (!isPlausible(entry, this.#image)) throw new BlockError('CORRUPT_IMAGE', `Bitmap '${entry.name}' doesn't satisfy the constraints`, { errno: Errno.EINVAL });
    const bitmap = new DirtyBitmap({ name: entry.name, granularity: 2 ** entry.granularityBits, size });
    bitmap.persistent = true;
    bitmap.enabled = (entry.flags & BitmapFlag.AUTO) !== 0;
    bitmap.inconsistent = (entry.flags & BitmapFlag.IN_USE) !== 0;
    if (bitmap.inconsistent) return bitmap;
    const table = yield* this.#readTable(entry);
    const piece = new Uint8Array(clusterSize);
    for (let index = 0; index < entry.tableSize; index++) {
      const place = entryOffset(entryHi(table, index), entryLo(table, index));
      if (place === 0) {
        if ((entryLo(table, index) & 1) !== 0) bitmap.deserialise(index * clusterSize, 'ones', clusterSize);
        continue;
      }
      try {
        yield* wait(this.#image.file.read(place, piece));
      } catch (error) {
        throw new BlockError('IO_ERROR', `Could not read bitmap '${entry.name}' from image`, { errno: Errno.EIO }, error);
      }
      bitmap.deserialise(index * clusterSize, piece, clusterSize);
    }
    return bitmap;
  }

  *#readTable(entry: BitmapEntry): Steps<DataView> {
    const bytes = new Uint8Array(entry.tableSize * 8);
    const view = viewOf(bytes);
    const failed = (cause?: unknown): BlockError => new BlockError(
      'CORRUPT_IMAGE', `Could not read bitmap_table table from image for bitmap '${entry.name}'`, { errno: Errno.EINVAL }, cause);
    try {
      yield* wait(this.#image.file.read(entry.tableOffset, bytes));
    } catch (error) {
      throw failed(error);
    }
    for (let index = 0; index < entry.tableSize; index++) {
      const hi = entryHi(view, index);
      const lo = entryLo(view, index);
      if (bitmapTableEntryHasReservedBits(hi, lo) || entryOffset(hi, lo) % this.#image.geometry.clusterSize !== 0) throw failed();
    }
    return view;
  }

  // -- Writing -----------------------------------------------------------------------------------------------------------------

  *#store(bitmaps: readonly DirtyBitmap[]): Steps<void> {
    const image = this.#image;
    const written = new Map<string, BitmapEntry>();
    try {
      for (const bitmap of bitmaps) written.set(bitmap.name, yield* this.#storeBitmap(bitmap));
      const kept = this.#entries.map((entry) => written.get(entry.name) ?? entry);
      const added = [...written.values()].filter(({ name }) => !this.#entries.some((entry) => entry.name === name));
      const replaced = this.#entries.filter(({ name }) => written.has(name));
      yield* this.#replaceDirectory([...kept, ...added], replaced);
    } catch (error) {
      if (!image.dead) for (const entry of written.values()) yield* this.#free(entry);
      throw error;
    }
  }

  /** Writes one bitmap to new clusters. */
  *#storeBitmap(bitmap: DirtyBitmap): Steps<BitmapEntry> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    const clusters = Math.ceil(bitmap.storedBytes / clusterSize);
    if (clusters === 0) throw new BlockError('NOT_SUPPORTED', 'The disk is empty', { errno: Errno.ENOTSUP });
    const bytes = new Uint8Array(clusters * 8);
    const table = viewOf(bytes);
    const failed = (what: string) => (error: unknown): BlockError => {
      const errno = error instanceof BlockError ? error.errno : Errno.EIO;
      return new BlockError(error instanceof BlockError ? error.code : 'IO_ERROR', `${what} '${bitmap.name}'${what.startsWith('Failed to write') ? ' to file' : ''}: ${strerror(errno)}`, { errno }, error);
    };
    const taken: { offset: number; length: number }[] = [];
    let explain = failed('Failed to write bitmap');
    try {
      for (let index = 0; index < clusters; index++) {
        const piece = bitmap.serialise(index * clusterSize, clusterSize);
        if (piece === 'zeroes') continue;
        explain = failed('Failed to allocate clusters for bitmap');
        const place = yield* image.refcounts.allocate(clusterSize);
        taken.push({ offset: place, length: clusterSize });
        explain = failed('Failed to write bitmap');
        yield* image.writeMetadata(place, piece === 'ones' ? onesUpTo(bitmap, index, clusterSize) : piece);
        setEntry(table, index, hiOf(place), loOf(place));
      }
      const tableOffset = yield* image.refcounts.allocate(bytes.length);
      taken.push({ offset: tableOffset, length: bytes.length });
      yield* image.writeMetadata(tableOffset, bytes);
      return {
        tableOffset, tableSize: clusters, flags: bitmap.enabled ? BitmapFlag.AUTO : 0,
        granularityBits: Math.log2(bitmap.granularity), name: bitmap.name,
      };
    } catch (error) {
      if (!image.dead) for (const { offset, length } of taken) yield* image.refcounts.update(offset, length, -1, 'always');
      throw explain(error);
    }
  }

  /** Writes a new directory, switches the header to it, and frees the old one and the bitmaps in `dropped`. */
  *#replaceDirectory(entries: BitmapEntry[], dropped: readonly BitmapEntry[]): Steps<void> {
    const image = this.#image;
    const old = image.header.bitmaps;
    const autoclear = image.header.autoclear;
    if (entries.length === 0) {
      yield* image.flushMetadata();
      yield* image.updateHeader({ bitmaps: undefined, autoclear: autoclear & ~BigInt(Autoclear.BITMAPS) });
    } else {
      const bytes = serialiseBitmapDirectory(entries);
      const directoryOffset = yield* image.refcounts.allocate(bytes.length);
      yield* image.writeMetadata(directoryOffset, bytes);
      yield* image.flushMetadata();
      yield* wait(image.file.flush());
      yield* image.updateHeader({
        bitmaps: { count: entries.length, directorySize: bytes.length, directoryOffset }, autoclear: autoclear | BigInt(Autoclear.BITMAPS),
      });
    }
    yield* wait(image.file.flush());
    this.#entries = entries;
    if (old !== undefined) yield* image.refcounts.update(old.directoryOffset, old.directorySize, -1, 'other');
    for (const entry of dropped) yield* this.#free(entry);
  }

  /** Writes the directory over itself; meanwhile the header says that bitmaps are not to be trusted. */
  *#rewriteDirectory(entries: BitmapEntry[]): Steps<void> {
    const image = this.#image;
    const { directoryOffset } = image.header.bitmaps!;
    const autoclear = image.header.autoclear;
    yield* image.updateHeader({ autoclear: autoclear & ~BigInt(Autoclear.BITMAPS) });
    yield* wait(image.file.flush());
    yield* image.writeMetadata(directoryOffset, serialiseBitmapDirectory(entries), Structure.BITMAP_DIRECTORY);
    yield* wait(image.file.flush());
    yield* image.updateHeader({ autoclear: autoclear | BigInt(Autoclear.BITMAPS) });
    yield* wait(image.file.flush());
    this.#entries = entries;
  }

  *#free(entry: BitmapEntry): Steps<void> {
    const { refcounts, geometry: { clusterSize } } = this.#image;
    let table: DataView;
    try {
      table = yield* this.#readTable(entry);
    } catch {
      return; // Nobody can tell what it took; it leaks.
    }
    for (let index = 0; index < entry.tableSize; index++) {
      const place = entryOffset(entryHi(table, index), entryLo(table, index));
      if (place !== 0) yield* refcounts.update(place, clusterSize, -1, 'always');
    }
    if (entry.tableSize > 0) yield* refcounts.update(entry.tableOffset, entry.tableSize * 8, -1, 'other');
  }
}

function entrySize(name: string): number {
  return Math.ceil((24 + new TextEncoder().encode(name).length) / 8) * 8;
}

/** A cluster of set bits, clear behind the bitmap's end. */
function onesUpTo(bitmap: DirtyBitmap, index: number, clusterSize: number): Uint8Array {
  const bytes = new Uint8Array(clusterSize);
  const bits = Math.min(clusterSize * 8, bitmap.bits - index * clusterSize * 8);
  bytes.fill(0xff, 0, bits >>> 3);
  if ((bits & 7) !== 0) bytes[bits >>> 3] = (1 << (bits & 7)) - 1;
  return bytes;
}
