/** A FAT disk made up from a folder as it is read; what is written stays in memory until a flush brings it to the folder. */
import { promises } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { BlockOps, type BlockLimits, type Capabilities, type LayerExtent, unlimited } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { together, type MaybePromise } from '../../util/maybe.js';
import { commitChanges, type KnownPath } from './commit.js';
import { fatEntries } from './fat.js';
import { headSector, sectorSize, type FatGeometry } from './geometry.js';
import type { Extent } from './tree.js';

/** What a run of sectors shows. */
type Piece =
  | { readonly kind: 'made'; readonly bytes: Uint8Array }
  | { readonly kind: 'written'; readonly bytes: Uint8Array }
  | { readonly kind: 'zero'; readonly sectors: number }
  | { readonly kind: 'file'; readonly extent: Extent & { readonly kind: 'file' }; readonly at: number; readonly sectors: number };

export interface FatContent {
  readonly dir: string;
  readonly geometry: FatGeometry;
  readonly label: string;
  readonly extents: readonly Extent[];
  readonly root: Uint8Array;
  readonly freeFrom: number;
  readonly known: readonly KnownPath[];
}

export class VvfatOps extends BlockOps {
  readonly size: number;
  readonly capabilities: Capabilities;
  override readonly limits: BlockLimits = { ...unlimited, requestAlignment: sectorSize };
  readonly #content: FatContent;
  /** By first cluster. */
  #extents: readonly Extent[];
  /** By number; a FAT of theirs takes the place of ours as soon as one of its sectors is here. */
  readonly #written = new Map<number, Uint8Array>();
  #known: readonly KnownPath[];
  #changed = false;
  /** While files are replaced, nothing is read or written. */
  #committing: Promise<void> | undefined;

  constructor(content: FatContent, writable: boolean) {
    super();
    this.#content = content;
    this.#extents = content.extents;
    this.#known = content.known;
    this.size = (content.geometry.volumeStart + content.geometry.volumeSectors) * sectorSize;
    this.capabilities = {
      write: writable, writeFlags: 0, zeroFlags: undefined, discard: false, resize: 'none', growsOnWrite: false,
    };
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.#committing ? this.#committing.then(() => this.read(offset, target)) : this.#read(offset, target);
  }

  #read(offset: number, target: Uint8Array): MaybePromise<void> {
    return together(this.#pieces(offset, target));
  }

  *#pieces(offset: number, target: Uint8Array): Iterable<MaybePromise<void>> {
    for (let done = 0; done < target.length;) {
      const sector = (offset + done) / sectorSize;
      const piece = this.#piece(sector, (target.length - done) / sectorSize);
      if (piece.kind === 'made' || piece.kind === 'written') {
        target.set(piece.bytes, done);
        done += sectorSize;
        continue;
      }
      const part = target.subarray(done, done + piece.sectors * sectorSize);
      if (piece.kind === 'zero') part.fill(0);
      else yield readFile(piece.extent, piece.at, part);
      done += part.length;
    }
  }

  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    if (this.#committing) return this.#committing.then(() => this.write(offset, source));
    const { volumeStart } = this.#content.geometry;
    if (offset < (volumeStart + 1) * sectorSize && this.#differs(offset, source)) throw systemError(Errno.EPERM, { driver: 'vvfat', op: 'write', offset });
    for (let done = 0; done < source.length; done += sectorSize) this.#written.set((offset + done) / sectorSize, source.slice(done, done + sectorSize));
    this.#changed = true;
    return undefined;
  }

  override flush(): MaybePromise<void> {
    if (this.#committing) return this.#committing.then(() => this.flush());
    if (!this.#changed) return undefined;
    const commit = this.#commit();
    this.#committing = commit.catch(() => undefined).finally(() => { this.#committing = undefined; });
    return commit;
  }

  status(offset: number, length: number): LayerExtent {
    const sector = Math.floor(offset / sectorSize);
    const most = Math.ceil((offset + length) / sectorSize) - sector;
    const first = this.#piece(sector, most);
    let sectors = sectorsOf(first);
    while (sectors < most) {
      const next = this.#piece(sector + sectors, most - sectors);
      if ((next.kind === 'zero') !== (first.kind === 'zero')) break;
      sectors += sectorsOf(next);
    }
    const covered = Math.min(length, (sector + sectors) * sectorSize - offset);
    return first.kind === 'zero' ? { kind: 'zero', length: covered, allocated: true } : { kind: 'data', length: covered };
  }

  /** Stores what nobody asked to flush, too. */
  async close(): Promise<void> {
    await this.flush();
  }

  async #commit(): Promise<void> {
    const result = await commitChanges({
      dir: this.#content.dir, geometry: this.#content.geometry, extents: this.#extents, known: this.#known,
      read: async (sector, sectors) => {
        const bytes = new Uint8Array(sectors * sectorSize);
        await this.#read(sector * sectorSize, bytes);
        return bytes;
      },
      isWritten: (sector) => this.#written.has(sector),
    });
    this.#extents = result.extents;
    this.#known = result.known;
    for (const sector of result.stored) this.#written.delete(sector);
    this.#changed = false;
  }

  /** Partition table and boot sector cannot be changed: nothing in the folder would say so. */
  #differs(offset: number, source: Uint8Array): boolean {
    const { geometry, label, freeFrom } = this.#content;
    for (let done = 0; done < source.length; done += sectorSize) {
      const sector = (offset + done) / sectorSize;
      if (sector > geometry.volumeStart) return false;
      if (Buffer.compare(headSector(geometry, sector, label, freeFrom), source.subarray(done, done + sectorSize)) !== 0) return true;
    }
    return false;
  }

  #piece(sector: number, most: number): Piece {
    const written = this.#written.get(sector);
    if (written) return { kind: 'written', bytes: written };
    const { geometry, label, freeFrom, root } = this.#content;
    const inVolume = sector - geometry.volumeStart;
    const inFat = inVolume - geometry.reservedSectors;
    if (inFat < 0) return { kind: 'made', bytes: headSector(geometry, sector, label, freeFrom) };
    const inRoot = inVolume - (geometry.dataStart - geometry.rootSectors);
    if (inRoot < 0) return { kind: 'made', bytes: fatEntries(geometry, this.#content.extents, inFat % geometry.sectorsPerFat) };
    if (inVolume < geometry.dataStart) return piecesOf(root, inRoot);
    const { sectorsPerCluster } = geometry;
    const inData = inVolume - geometry.dataStart;
    const extent = this.#extentAt(2 + Math.floor(inData / sectorsPerCluster));
    if (extent.found === undefined) {
      const sectors = extent.next === undefined ? most : (extent.next.firstCluster - 2) * sectorsPerCluster - inData;
      return { kind: 'zero', sectors: this.#unwritten(sector, Math.min(most, sectors)) };
    }
    const at = inData - (extent.found.firstCluster - 2) * sectorsPerCluster;
    if (extent.found.kind === 'directory') return piecesOf(extent.found.bytes, at);
    const sectors = this.#unwritten(sector, Math.min(most, extent.found.clusters * sectorsPerCluster - at));
    return { kind: 'file', extent: extent.found, at: at * sectorSize, sectors };
  }

  /** How many sectors from here on, at most `most`, were not written to. */
  #unwritten(sector: number, most: number): number {
    if (this.#written.size === 0) return most;
    let count = 1;
    while (count < most && !this.#written.has(sector + count)) count++;
    return count;
  }

  #extentAt(cluster: number): { readonly found?: Extent; readonly next?: Extent } {
    let low = 0;
    let high = this.#extents.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#extents[middle]!.firstCluster <= cluster) low = middle + 1;
      else high = middle;
    }
    const before = this.#extents[low - 1];
    const next = this.#extents[low];
    return { ...(before && cluster < before.firstCluster + before.clusters && { found: before }), ...(next && { next }) };
  }
}

function sectorsOf(piece: Piece): number {
  return piece.kind === 'zero' || piece.kind === 'file' ? piece.sectors : 1;
}

/** One sector of a directory's bytes, zero behind their end. */
function piecesOf(bytes: Uint8Array, sector: number): Piece {
  const part = new Uint8Array(sectorSize);
  part.set(bytes.subarray(sector * sectorSize, (sector + 1) * sectorSize));
  return { kind: 'made', bytes: part };
}

/** A file that became shorter reads as zero behind its end. */
async function readFile({ path, offset, size }: Extent & { kind: 'file' }, at: number, target: Uint8Array): Promise<void> {
  let file: FileHandle | undefined;
  try {
    file = await promises.open(path, 'r');
    let done = 0;
    const length = Math.max(0, Math.min(target.length, size - at));
    while (done < length) {
      const { bytesRead } = await file.read(target, done, length - done, offset + at + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    target.fill(0, done);
  } catch (error) {
    throw new BlockError('IO_ERROR', `Could not read ${path}: ${(error as Error).message}`, { driver: 'vvfat', op: 'read', errno: Errno.EIO }, error);
  } finally {
    await file?.close();
  }
}
