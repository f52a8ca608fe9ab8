/** An open disk. */
import type { BlockBackend } from '../../block/child.js';
import { isPromise, type MaybePromise } from '../../util/maybe.js';
import { attachChild, compactOpen, checkAttachable } from './chain.js';
import { allocatedRuns, planQuery, type Block, type QueryOptions } from './allocated.js';
import type { LibraryContext } from './context.js';
import { createChild, spaceNeeded, type ChildParams } from './making.js';
import { DiskType, OpenFlags, SECTOR_SIZE, type TransportMode } from './constants.js';
import { transferFailure, VixError } from './errors.js';
import { describeDisk, type DiskInfo } from './info.js';
import { DiskMetadata } from './metadata.js';
import { diskFailure, isReadOnly } from './opening.js';
import type { LongOperation } from './progress.js';
import { toBytes, toPlace, toSectors, type Sectors } from './sectors.js';

export interface DiskInit {
  readonly context: LibraryContext;
  readonly backend: BlockBackend;
  readonly path: string;
  /** {@link OpenFlags}. */
  readonly flags: number;
  readonly transportMode: TransportMode;
  /** Opens the disk once more, after it was closed for an operation. */
  readonly reopen: (flags: number) => Promise<BlockBackend>;
  readonly closed: (disk: Disk) => void;
}

/**
 * A disk that a {@link Connection} has opened. Reads and writes may run beside each other. A closed disk refuses everything with
 * VIX_E_INVALID_HANDLE, but for closing it once more.
 */
export class Disk {
  /** As it was given to the open. */
  readonly path: string;
  /** The way to it: 'file', 'nbd' or 'nbdssl'. VixDiskLib_GetTransportMode, since VDDK 5.0. */
  readonly transportMode: TransportMode;
  /** Its disk database. VixDiskLib_ReadMetadata, VixDiskLib_WriteMetadata, VixDiskLib_GetMetadataKeys, since VDDK 1.0. */
  readonly metadata: DiskMetadata;
  readonly #init: DiskInit;
  #backend: BlockBackend | undefined;
  #flags: number;

  constructor(init: DiskInit) {
    this.#init = init;
    this.#backend = init.backend;
    this.path = init.path;
    this.#flags = init.flags;
    this.transportMode = init.transportMode;
    this.metadata = new DiskMetadata(() => this.backend.node, this.path);
  }

  /** The engine's side of it. @throws VixError VIX_E_INVALID_HANDLE where the disk is closed */
  get backend(): BlockBackend {
    if (this.#backend === undefined) throw new VixError('VIX_E_INVALID_HANDLE', 'the disk is closed', { path: this.path });
    return this.#backend;
  }

  /** {@link OpenFlags} it is open with. */
  get flags(): number {
    return this.#flags;
  }

  /** Neither closed nor attached to a child as its parent. */
  get isOpen(): boolean {
    return this.#backend !== undefined;
  }

  /** It was opened with READ_ONLY. */
  get readOnly(): boolean {
    return isReadOnly(this.flags);
  }

  /** Sectors. */
  get capacity(): number {
    return toSectors(this.backend.size);
  }

  /** Capacity in sectors, geometry, links of the chain and so on. VixDiskLib_GetInfo, since VDDK 1.0. */
  async info(): Promise<DiskInfo> {
    return describeDisk(this.backend.node);
  }

  /**
   * Reads `count` sectors from sector `start` on.
   * @throws VixError VIX_E_DISK_OUTOFRANGE; VIX_E_INVALID_ARG where nothing is asked for
   */
  async read(start: Sectors, count: number): Promise<Uint8Array> {
    const target = new Uint8Array(this.#range(start, count).length);
    await this.readInto(start, target);
    return target;
  }

  /** Fills `target`, whole sectors of it, from sector `start` on. Returns at once where the bytes are at hand. */
  readInto(start: Sectors, target: Uint8Array): MaybePromise<void> {
    const { offset } = this.#range(start, target.length / SECTOR_SIZE);
    return this.#transfer(() => this.backend.read(offset, target));
  }

  /**
   * Writes whole sectors from sector `start` on. Durable after a flush().
   * @throws VixError VIX_E_FILE_READ_ONLY, VIX_E_DISK_OUTOFRANGE, VIX_E_DISK_FULL; VIX_E_DISK_NOTSUPPORTED for a stream-optimized disk
   * written elsewhere than at its end
   */
  write(start: Sectors, source: Uint8Array): MaybePromise<void> {
    if (this.readOnly) throw new VixError('VIX_E_FILE_READ_ONLY', 'it was opened with READ_ONLY', { path: this.path });
    const { offset } = this.#range(start, source.length / SECTOR_SIZE);
    return this.#transfer(() => this.backend.write(offset, source));
  }

  /** All that was written becomes durable. VixDiskLib_Flush, since VDDK 6.0. */
  async flush(): Promise<void> {
    const { backend } = this;
    if (!this.readOnly) await this.#transfer(() => backend.flush());
  }

  /** Resolves when no read or write is under way. VixDiskLib_Wait, since VDDK 6.5. */
  async drain(): Promise<void> {
    const { backend } = this;
    await backend.quiesce();
    backend.resume();
  }

  /**
   * Runs of chunks that hold anything, in order, in sectors. Asked as they are taken, however large the disk. Of a disk opened with
   * SINGLE_LINK: what this link decides. VixDiskLib_QueryAllocatedBlocks, since VDDK 6.7.
   * @throws VixError VIX_E_INVALID_ARG for chunks below {@link MIN_CHUNK_SIZE}, VIX_E_DISK_OUTOFRANGE
   */
  async *allocatedBlocks(options: QueryOptions = {}): AsyncGenerator<Block> {
    const query = planQuery(this.backend.size, options);
    const single = (this.flags & OpenFlags.SINGLE_LINK) !== 0 && this.backend.node.facet('backing')?.filename !== undefined;
    try {
      yield* allocatedRuns(this.backend.node, query, single);
    } catch (error) {
      throw this.#failure(error);
    }
  }

  /** allocatedBlocks() as a list. */
  async queryAllocatedBlocks(options: QueryOptions = {}): Promise<readonly Block[]> {
    const blocks: Block[] = [];
    for await (const block of this.allocatedBlocks(options)) blocks.push(block);
    return blocks;
  }

  /**
   * Bytes that a clone of this disk (with all its parents) takes as a disk of some type. VixDiskLib_SpaceNeededForClone, since VDDK 1.0.
   * @param diskType UNKNOWN: the type it has
   * @throws VixError VIX_E_INVALID_ARG for a type that does not exist
   */
  spaceNeededForClone(diskType: DiskType = DiskType.UNKNOWN): Promise<number> {
    return this.#guarded(() => spaceNeeded(this.#init.context, this.backend, diskType));
  }

  /**
   * Makes a redo log: a disk that records what differs from this one. A disk that is open for writing is closed meanwhile, and has another
   * content ID as soon as it is written to again. VixDiskLib_CreateChild, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_ALREADY_EXISTS, VIX_E_INVALID_ARG for a type that cannot be a child,
   * VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT, VIX_E_DISK_PARENT_NOTALLOWED where this is no VMDK
   */
  createChild(path: string, params: ChildParams = {}): Promise<void> {
    this.#refuseRemote();
    const make = (parent: BlockBackend): Promise<void> => createChild(this.#init.context, this.path, parent.node, path, params);
    if (this.readOnly) return this.#guarded(() => make(this.backend));
    return this.#offline(async (_, reopen) => {
      await using parent = await reopen(this.#flags | OpenFlags.READ_ONLY);
      await make(parent);
    });
  }

  /**
   * Gives the space of zeroed blocks of a sparse disk back to the host. VixDiskLib_Shrink, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_READ_ONLY, VIX_E_DISK_CANTSHRINK for flat disks, VIX_E_DISK_NOTSUPPORTED for
   * stream-optimized ones
   */
  async shrink(control: LongOperation = {}): Promise<void> {
    await this.#offline((path) => compactOpen(this.#init.context, path, true, control));
  }

  /**
   * Brings the blocks of a sparse disk into the order of the disk; does nothing with flat ones. VixDiskLib_Defragment, since VDDK 1.0.
   * @throws VixError VIX_E_FILE_READ_ONLY, VIX_E_DISK_NOTSUPPORTED for stream-optimized ones
   */
  async defragment(control: LongOperation = {}): Promise<void> {
    await this.#offline((path) => compactOpen(this.#init.context, path, false, control));
  }

  /**
   * Whether `child` could stand on this disk; resolves if so. VixDiskLib_IsAttachPossible, since VDDK 1.0.
   * @throws VixError VIX_E_DISK_ATTACH_ROOTLINK where the child is a base, VIX_E_DISK_CAPACITY_MISMATCH, VIX_E_DISK_PARENT_NOTALLOWED
   */
  isAttachPossible(child: Disk): Promise<void> {
    return this.#guarded(() => checkAttachable(this.backend.node, child.backend.node));
  }

  /**
   * Puts `child`, opened for writing, on this disk. This handle is not valid afterwards; the child's is the combined chain.
   * VixDiskLib_Attach, since VDDK 1.0.
   * @throws VixError as isAttachPossible(); VIX_E_FILE_READ_ONLY
   */
  async attach(child: Disk): Promise<void> {
    this.#refuseRemote();
    await this.isAttachPossible(child);
    const parent = this.backend;
    await child.#offline(
      (path, reopen) => attachChild(parent.node, this.path, path, () => reopen(OpenFlags.SINGLE_LINK)), child.flags & ~OpenFlags.SINGLE_LINK, () => this.close(),
    );
  }

  /**
   * Bytes [start, end) of the disk as a stream, read as they are taken.
   * @throws VixError VIX_E_INVALID_ARG where that is no range; the stream fails with VIX_E_DISK_OUTOFRANGE beyond the end of the disk
   */
  createReadStream(
    { start = 0, end = this.capacity * SECTOR_SIZE }: { readonly start?: number | bigint; readonly end?: number | bigint } = {},
  ): ReadableStream<Uint8Array> {
    let at = toPlace(start, 'the first byte');
    const until = toPlace(end, 'the end');
    if (until < at) throw new VixError('VIX_E_INVALID_ARG', `bytes ${start} to ${end}`, { path: this.path });
    return new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        const piece = new Uint8Array(Math.min(streamPiece, until - at));
        if (piece.length > 0) await this.#transfer(() => this.backend.read(at, piece));
        at += piece.length;
        if (piece.length > 0) controller.enqueue(piece);
        if (at >= until) controller.close();
      },
    }, { highWaterMark: 1 });
  }

  /**
   * Writes a stream of bytes from byte `start` on; they are durable when it was closed.
   * @throws VixError VIX_E_INVALID_ARG; the stream fails as write() does
   */
  createWriteStream({ start = 0 }: { readonly start?: number | bigint } = {}): WritableStream<Uint8Array> {
    let at = toPlace(start, 'the first byte');
    return new WritableStream<Uint8Array>({
      write: async (piece) => {
        if (this.readOnly) throw new VixError('VIX_E_FILE_READ_ONLY', undefined, { path: this.path });
        await this.#transfer(() => this.backend.write(at, piece));
        at += piece.length;
      },
      close: () => this.flush(),
    });
  }

  /** Flushes and gives the disk up. Harmless where it is closed already. VixDiskLib_Close, since VDDK 1.0. */
  async close(): Promise<void> {
    const backend = this.#backend;
    if (backend === undefined) return;
    this.#backend = undefined;
    this.#init.closed(this);
    await this.#guarded(() => backend.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Runs an operation that needs the disk closed, and opens it again whatever comes of it. */
  async #offline<T>(
    work: (path: string, reopen: (flags: number) => Promise<BlockBackend>) => Promise<T>, flagsAfter = this.flags, before?: () => Promise<void>,
  ): Promise<T> {
    this.#refuseRemote();
    if (this.readOnly) throw new VixError('VIX_E_FILE_READ_ONLY', 'it was opened with READ_ONLY', { path: this.path });
    const { backend } = this;
    await this.drain();
    this.#backend = undefined;
    let result: T;
    try {
      await this.#guarded(() => backend.close());
      result = await this.#guarded(() => work(this.path, this.#init.reopen));
    } catch (error) {
      await this.#reopen(this.flags).catch(() => undefined);
      throw error;
    }
    await before?.();
    await this.#reopen(flagsAfter);
    return result;
  }

  async #reopen(flags: number): Promise<void> {
    try {
      this.#backend = await this.#init.reopen(flags);
      this.#flags = flags;
    } catch (error) {
      this.#init.closed(this);
      throw this.#failure(error);
    }
  }

  #refuseRemote(): void {
    if (this.transportMode !== 'file') throw new VixError('VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT', undefined, { path: this.path });
  }

  #range(start: Sectors, count: number): { readonly offset: number; readonly length: number } {
    const offset = toBytes(start, 'the first sector');
    if (!Number.isInteger(count) || count <= 0) throw new VixError('VIX_E_INVALID_ARG', 'only whole sectors can be read and written, and at least one', { path: this.path });
    const length = count * SECTOR_SIZE;
    if (offset + length > this.backend.size) {
      throw new VixError('VIX_E_DISK_OUTOFRANGE', `sectors ${start} to ${Number(start) + count - 1} of ${this.capacity}`, { path: this.path });
    }
    return { offset, length };
  }

  #transfer(request: () => MaybePromise<void>): MaybePromise<void> {
    try {
      const result = request();
      return isPromise(result) ? result.catch((error: unknown) => { throw this.#failure(error); }) : result;
    } catch (error) {
      throw this.#failure(error);
    }
  }

  async #guarded<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#failure(error);
    }
  }

  #failure(error: unknown): unknown {
    return this.transportMode === 'file' ? diskFailure(error, this.path) : transferFailure(error, this.path);
  }
}

const streamPiece = 1 << 20;
