import type { BlockChild } from '../../block/child.js';
import { Perm, Req, unlimited, type BlockLimits, type LayerExtent, type ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { Facets } from '../../block/facets.js';
import { FilterOps } from '../../block/filter-ops.js';
import type { MaybePromise } from '../../util/maybe.js';

const sector = 512;
const maximumSize = Number.MAX_SAFE_INTEGER;
/** Facets that speak of file bytes by offset, so that they hold only for a disk that is the whole file. */
const wholeFileFacets: ReadonlySet<keyof Facets> = new Set(['descriptor', 'copyRange']);

export interface RawOptions {
  /** First byte of the disk within the file. */
  readonly offset?: number;
  /** Bytes of the disk, a multiple of 512; all that follows `offset` where absent. A disk with a given size cannot be resized. */
  readonly size?: number;
}

/** Facets that hold for a part of it, too: snapshots are kept by the layer below. */
const partFacets: ReadonlySet<keyof Facets> = new Set(['allocatedSize', 'snapshots', 'formatInfo', 'vmState']);

/** Disks are counted in sectors: a file's odd rest fills one. */
export function roundToSector(size: number): number {
  return Math.ceil(size / sector) * sector;
}

export class RawOps extends FilterOps {
  override limits: BlockLimits;
  #offset = 0;
  #size: number | undefined;
  readonly #isForbidden: ((head: Uint8Array) => boolean) | undefined;

  /** `isForbidden` says of a first sector that it may not be written: the disk would be taken for another format. */
  constructor(file: BlockChild, options: RawOptions, readOnly: boolean, isForbidden?: (head: Uint8Array) => boolean) {
    super(file, ({ writeFlags, growsOnWrite, ...rest }) =>
      ({ ...rest, writeFlags: writeFlags & ~Req.COMPRESSED, growsOnWrite: growsOnWrite && this.#size === undefined }));
    this.#select(options);
    this.#isForbidden = isForbidden;
    this.limits = this.#limitsOf(readOnly);
  }

  /** Which part of the file is the disk. @throws BlockError where the file has no such part */
  #select({ offset = 0, size }: RawOptions): void {
    const { size: length } = this.child;
    if (offset > length) {
      throw new BlockError('INVALID_ARGUMENT', `Offset (${offset}) cannot be greater than size of the containing file (${length})`);
    }
    if (size !== undefined && offset + size > length) {
      throw new BlockError('INVALID_ARGUMENT',
        `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the  actual size of the containing file (${length})`);
    }
    if (size !== undefined && size % sector !== 0) throw new BlockError('INVALID_ARGUMENT', 'Specified size is not multiple of 512');
    this.#offset = offset;
    this.#size = size;
    this.capabilitiesChanged();
  }

  /** What is checked before it is written is written in whole sectors. */
  #limitsOf(readOnly: boolean): BlockLimits {
    return readOnly || this.#isForbidden === undefined ? unlimited : { ...unlimited, requestAlignment: sector };
  }

  override reopen({ readOnly, options }: { readonly readOnly: boolean; readonly options?: RawOptions }): Promise<void> {
    const current = { offset: this.#offset, ...(this.#size !== undefined && { size: this.#size }) };
    return Promise.resolve().then(() => {
      this.#select({ ...current, ...options });
      this.limits = this.#limitsOf(readOnly);
    });
  }

  override get size(): number {
    return this.#size ?? roundToSector(this.child.size - this.#offset);
  }

  override read(offset: number, target: Uint8Array, flags: number): MaybePromise<void> {
    const announced = this.child.node.ops.debugEvent?.('read_aio');
    if (announced === undefined) return this.child.read(this.#offset + offset, target, flags);
    return announced.then(() => this.child.read(this.#offset + offset, target, flags));
  }

  override write(offset: number, source: Uint8Array, flags: number): MaybePromise<void> {
    if (offset === 0 && source.length > 0 && this.#isForbidden?.(source.subarray(0, sector))) {
      throw systemError(Errno.EPERM, { driver: 'raw', op: 'write', offset, length: source.length });
    }
    const announced = this.child.node.ops.debugEvent?.('write_aio');
    if (announced === undefined) return this.child.write(this.#offset + offset, source, flags);
    return announced.then(() => this.child.write(this.#offset + offset, source, flags));
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.child.writeZeroes(this.#offset + offset, length, flags);
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    return this.child.discard(this.#offset + offset, length);
  }

  override status(offset: number, length: number): LayerExtent {
    return { kind: 'child', length, host: { child: this.child, offset: this.#offset + offset } };
  }

  /** Whoever may write the last sector may complete it, too. */
  override childPermissions(_name: string, { take, share }: { readonly take: number; readonly share: number }): { take: number; share: number } {
    const completes = (take & Perm.WRITE) !== 0 && this.child.size % sector !== 0;
    return { take: completes ? take | Perm.RESIZE : take, share };
  }

  override resize(size: number, options: ResizeOptions): Promise<void> {
    if (this.#size !== undefined) return Promise.reject(new BlockError('NOT_SUPPORTED', 'Cannot resize fixed-size raw disks'));
    if (size > maximumSize - this.#offset) return Promise.reject(new BlockError('INVALID_ARGUMENT', 'Disk size too large for the chosen offset'));
    return this.child.resize(this.#offset + size, options);
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    if (wholeFileFacets.has(name)) return this.#offset === 0 && this.#size === undefined ? this.child.facet(name) : undefined;
    return partFacets.has(name) ? super.facet(name) : undefined;
  }
}
