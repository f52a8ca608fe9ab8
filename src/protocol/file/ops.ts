/** An open file or block device. */
import { close, constants, fdatasync, fstat, ftruncate, ftruncateSync, open, realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { type BlockLimits, BlockOps, type Capabilities, type LayerExtent, Req, type ResizeOptions, unlimited } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { protocolPrefix } from '../../block/filename.js';
import type { CopyRangeFacet, DescriptorFacet, Facets } from '../../block/facets.js';
import { Fallocate, Ioctl, type Native, Seek } from '../../platform/native.js';
import { andThen, isPromise, type MaybePromise } from '../../util/maybe.js';
import { DirectTransfer } from './direct.js';
import type { PermissionLocks } from './locks.js';
import { Pace } from './pace.js';
import { preallocate, writeFirstBlock } from './preallocate.js';
import { errnoOf } from './errno.js';
import { replaceFile, writeDurably } from './folder.js';
import { BufferedTransfer, type Transfer } from './transfer.js';

const openFile = promisify(open);
const closeFile = promisify(close);
const statFile = promisify(fstat);
const truncateFile = promisify(ftruncate);

/** What was opened; the ops own the descriptor. */
export interface OpenedFile {
  readonly driver: 'file' | 'host_device' | 'host_cdrom';
  readonly filename: string;
  readonly fd: number;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Flags of open() apart from the access mode. */
  readonly flags: number;
  /** O_DIRECT's alignment in bytes; 0: through the page cache. */
  readonly directAlignment: number;
  /** Block devices: bytes of a logical block. */
  readonly blockSize: number | undefined;
  readonly inMemory: boolean;
  readonly native: Native | undefined;
  readonly locks: PermissionLocks | undefined;
}

const unsupported = new Set<number>([Errno.EOPNOTSUPP, Errno.EINVAL, 25 /* ENOTTY */, 38 /* ENOSYS */]);
/** Where the kernel cannot copy between two files, rather than failing to. */
const cannotCopy = new Set<number>([...unsupported, Errno.EBADF, 18 /* EXDEV */, 26 /* ETXTBSY */, Errno.EPERM, Errno.EISDIR]);
/** Bytes per copy_file_range call: a bound on how long a thread is away. */
const copyStep = 64 << 20;

export class FileOps extends BlockOps {
  override readonly limits: BlockLimits;
  readonly #file: OpenedFile;
  readonly #native: Native | undefined;
  readonly #isDevice: boolean;
  readonly #facets: Partial<Facets>;
  /** None where there is no device to wait for. */
  readonly #pace: Pace | undefined;
  capabilities: Capabilities;
  #size: number;
  /** End of the furthest write that was started: the file may become this long at any time. */
  #startedEnd: number;
  #fd: number;
  #readOnly: boolean;
  #locks: PermissionLocks | undefined;
  #transfer: Transfer;
  /** A range known to hold data: stays true whoever writes. */
  #dataStart = 0;
  #dataEnd = 0;
  /** Something was written since the last flush began. */
  #dirty = false;
  #flushing: Promise<void> | undefined;
  #canPunch = true;
  #canZeroRange = true;
  #canClone = true;

  constructor(file: OpenedFile) {
    super();
    this.#file = file;
    this.#native = file.native;
    this.#isDevice = file.driver !== 'file';
    this.#size = file.size;
    this.#startedEnd = file.size;
    this.#fd = file.fd;
    this.#readOnly = file.readOnly;
    this.#locks = file.locks;
    const waits = file.native ? () => file.native!.waits() : () => process.resourceUsage().voluntaryContextSwitches;
    this.#pace = file.inMemory ? undefined : new Pace(waits);
    this.#transfer = this.#makeTransfer();
    this.capabilities = this.#describe();
    this.#facets = this.#makeFacets();
    this.limits = Object.freeze({
      ...unlimited,
      requestAlignment: file.directAlignment || 1,
      writeZeroesAlignment: file.blockSize ?? 0,
      discardAlignment: file.blockSize ?? 0,
    });
  }

  override get size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.#transfer.read(offset, target);
  }

  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    const end = offset + source.length;
    if (end > this.#startedEnd) this.#startedEnd = end;
    const done = this.#transfer.write(offset, source);
    if (isPromise(done)) return done.then(() => this.#wrote(end));
    this.#wrote(end);
    return undefined;
  }

  override writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    this.#forgetData();
    const done = (flags & Req.MAY_UNMAP) !== 0 && this.#canPunch && !this.#isDevice
      ? andThen(this.#punch(offset, length), (punched) => {
        if (!punched) return this.#zeroRange(offset, length);
        if (offset + length > this.#size) this.#grow(offset + length);
        return undefined;
      })
      : this.#zeroRange(offset, length);
    return andThen(done, () => this.#wrote(offset + length));
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    this.#forgetData();
    return andThen(this.#isDevice ? this.#discardBlocks(offset, length) : this.#punch(offset, length), () => { this.#dirty = true; });
  }

  override flush(): MaybePromise<void> {
    if (this.#readOnly) return undefined;
    if (!this.#dirty) return this.#flushing;
    this.#dirty = false;
    const synced = new Promise<void>((resolve, reject) => {
      fdatasync(this.#fd, (error) => error ? reject(systemError(errnoOf(error), { op: 'flush' }, undefined, error)) : resolve());
    });
    // A failed flush is never forgotten: the kernel drops the pages it could not write, so no later one may claim success.
    const flushing: Promise<void> = Promise.all([this.#flushing, synced]).then(() => {
      if (this.#flushing === flushing) this.#flushing = undefined;
    });
    this.#flushing = flushing;
    return flushing;
  }

  status(offset: number, length: number, wantZero: boolean): MaybePromise<LayerExtent> {
    if (!wantZero || this.#native === undefined || this.#isDevice) return { kind: 'data', length };
    if (offset >= this.#dataStart && offset < this.#dataEnd) return { kind: 'data', length: Math.min(length, this.#dataEnd - offset) };
    const data = this.#native.seek(this.#fd, offset, Seek.DATA);
    if (data === -Errno.ENXIO) return { kind: 'zero', length, allocated: true };
    if (data < 0) return { kind: 'data', length };
    if (data > offset) return { kind: 'zero', length: Math.min(length, data - offset), allocated: true };
    const hole = this.#native.seek(this.#fd, offset, Seek.HOLE);
    if (hole <= offset) return { kind: 'data', length };
    this.#dataStart = offset;
    this.#dataEnd = hole;
    return { kind: 'data', length: Math.min(length, hole - offset) };
  }

  override async resize(size: number, { preallocation, exact, signal }: ResizeOptions): Promise<void> {
    if (this.#isDevice) {
      if (preallocation !== 'off') throw new BlockError('NOT_SUPPORTED', `Preallocation mode '${preallocation}' unsupported for this non-regular file`);
      if (exact && size !== this.#size) throw new BlockError('NOT_SUPPORTED', 'Cannot resize device files', { errno: Errno.ENOTSUP });
      if (size > this.#size) throw new BlockError('NO_SPACE', 'Cannot grow device files', { errno: Errno.ENOSPC });
      return;
    }
    this.#forgetData();
    if (preallocation !== 'off') await preallocate(this.#fd, this.#native, this.#size, size, preallocation, signal);
    else if (size > this.#size) this.#grow(size);
    else await truncateFile(this.#fd, size).catch((error: unknown) => { throw resizeError(error); });
    if (size < this.#size) this.#startedEnd = size;
    this.#size = size;
    this.#dirty = true;
  }

  override setPermissions(take: number, share: number): void {
    this.#locks?.set(take, share);
  }

  override async reopen({ readOnly: wanted }: { readonly readOnly: boolean }): Promise<void> {
    if (wanted === this.#readOnly) return;
    const { filename, flags } = this.#file;
    // Through /proc the same file is found even where its name is gone.
    const access = wanted ? constants.O_RDONLY : constants.O_RDWR;
    const fd = await openFile(`/proc/self/fd/${this.#fd}`, flags | access).catch(() => openFile(filename, flags | access))
      .catch((error: unknown) => { throw systemError(errnoOf(error), { driver: this.#file.driver, filename }, 'Could not reopen file', error); });
    const former = this.#fd;
    try {
      this.#locks = this.#locks?.moveTo(fd);
    } catch (error) {
      await closeFile(fd);
      throw error;
    }
    if (wanted) await this.flush();
    this.#fd = fd;
    this.#readOnly = wanted;
    this.#transfer = this.#makeTransfer();
    this.capabilities = this.#describe();
    await closeFile(former);
  }

  override facet<K extends keyof Facets>(name: K): Facets[K] | undefined {
    return name === 'rewrite' && (this.#readOnly || this.#isDevice) ? undefined : this.#facets[name];
  }

  /** Nobody else must use the file meanwhile. */
  async #rewrite(content: Uint8Array): Promise<void> {
    const { filename, flags } = this.#file;
    const former = this.#fd;
    let fd = -1;
    await replaceFile(filename, async (temporary) => {
      await writeDurably(temporary, content);
      fd = await openFile(temporary, flags | constants.O_RDWR);
      this.#locks = this.#locks?.moveTo(fd);
    }).catch(async (error: unknown) => {
      if (fd !== -1) await closeFile(fd);
      throw error;
    });
    this.#fd = fd;
    this.#size = this.#startedEnd = content.length;
    this.#forgetData();
    this.#transfer = this.#makeTransfer();
    await closeFile(former);
  }

  override filename(): string {
    const { filename } = this.#file;
    return protocolPrefix(filename) === undefined ? filename : `./${filename}`;
  }

  async close(): Promise<void> {
    await closeFile(this.#fd);
  }

  #makeFacets(): Partial<Facets> {
    const { filename } = this.#file;
    const currentFd = (): number => this.#fd;
    const descriptor: DescriptorFacet = { get fd() { return currentFd(); } };
    const copyRange: CopyRangeFacet = { copyFrom: (source, sourceOffset, offset, length) => this.#copyFrom(source.fd, sourceOffset, offset, length) };
    return {
      descriptor,
      background: { allowBackgroundWrites: () => this.#transfer instanceof BufferedTransfer && this.#transfer.allowBackgroundWrites() },
      rewrite: { rewrite: (content) => this.#rewrite(content) },
      folder: { get folder() { return realpathSync(dirname(filename)); } },
      formatInfo: { specific: () => ({ type: 'file', data: {} }) },
      allocatedSize: { allocatedSize: () => statFile(this.#fd).then(({ blocks }) => blocks * 512) },
      ...(this.#native && { copyRange }),
    };
  }

  #describe(): Capabilities {
    if (this.#readOnly) return readOnly;
    if (this.#isDevice) return this.#native ? device : plainDevice;
    return this.#native ? regular : plain;
  }

  #makeTransfer(): Transfer {
    const { directAlignment } = this.#file;
    return directAlignment > 0 ? new DirectTransfer(this.#fd, directAlignment) : new BufferedTransfer(this.#fd, this.#native, this.#pace);
  }

  #wrote(end: number): void {
    this.#dirty = true;
    if (end > this.#size) this.#size = end;
  }

  #forgetData(): void {
    this.#dataEnd = 0;
  }

  /** At once and never below the end of a write on its way: a truncation on another thread could come after it and cut it off. */
  #grow(size: number): void {
    try {
      ftruncateSync(this.#fd, Math.max(size, this.#startedEnd));
      if (this.#startedEnd === 0 && this.#file.directAlignment === 0) writeFirstBlock(this.#fd, size);
    } catch (error) {
      throw resizeError(error);
    }
  }

  /** fallocate() here or on another thread, as past calls advise: 0 or -errno. */
  #allocate(mode: number, offset: number, length: number): MaybePromise<number> {
    const native = this.#native;
    if (native === undefined) return -Errno.EOPNOTSUPP;
    const start = this.#pace ? this.#pace.begin() : 0;
    if (start === undefined) return native.allocateLater(this.#fd, mode, offset, length);
    const result = native.allocate(this.#fd, mode, offset, length);
    this.#pace?.end(start, 0);
    return result;
  }

  /** False where the file system cannot. What lies past the end needs no hole. */
  #punch(offset: number, length: number): MaybePromise<boolean> {
    const inside = Math.min(length, this.#size - offset);
    if (inside <= 0) return true;
    if (!this.#canPunch) return false;
    return andThen(this.#allocate(Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, offset, inside), (result) => {
      if (result === 0) return true;
      if (!unsupported.has(-result)) throw systemError(-result, { op: 'discard', offset, length });
      this.#canPunch = false;
      return false;
    });
  }

  /** Zeroes that stay allocated. Rejects with NOT_SUPPORTED where writing them is the only way. */
  #zeroRange(offset: number, length: number): MaybePromise<void> {
    if (!this.#canZeroRange) return this.#punchAndReserve(offset, length);
    return andThen(this.#allocate(Fallocate.ZERO_RANGE, offset, length), (result) => {
      if (result === 0) return undefined;
      if (!unsupported.has(-result)) throw systemError(-result, { op: 'writeZeroes', offset, length });
      // A device refuses single requests that do not suit its blocks; a file system without the call always does.
      if (!this.#isDevice) this.#canZeroRange = false;
      return this.#punchAndReserve(offset, length);
    });
  }

  #punchAndReserve(offset: number, length: number): MaybePromise<void> {
    if (this.#isDevice) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
    return andThen(this.#punch(offset, length), (punched) => {
      if (!punched) throw systemError(Errno.ENOTSUP, { op: 'writeZeroes', offset, length });
      return andThen(this.#allocate(0, offset, length), (result) => {
        if (result < 0) throw systemError(-result, { op: 'writeZeroes', offset, length });
      });
    });
  }

  #discardBlocks(offset: number, length: number): MaybePromise<void> {
    return this.#native?.ioctlLater(this.#fd, Ioctl.BLKDISCARD, new BigUint64Array([BigInt(offset), BigInt(length)])).then((result) => {
      if (result < 0 && !unsupported.has(-result)) throw systemError(-result, { op: 'discard', offset, length });
    });
  }

  async #copyFrom(sourceFd: number, sourceOffset: number, offset: number, length: number): Promise<boolean> {
    const native = this.#native;
    if (native === undefined) return false;
    this.#dirty = true;
    if (this.#canClone) {
      if (await native.cloneRangeLater(sourceFd, sourceOffset, this.#fd, offset, length) === 0) {
        this.#wrote(offset + length);
        return true;
      }
      this.#canClone = false;
    }
    for (let done = 0; done < length;) {
      const count = await native.copyRangeLater(sourceFd, sourceOffset + done, this.#fd, offset + done, Math.min(length - done, copyStep));
      if (count === 0 || cannotCopy.has(-count)) return false;
      if (count < 0) throw systemError(-count, { op: 'copyRange', offset: offset + done, length: length - done });
      done += count;
      this.#wrote(offset + done);
    }
    return true;
  }
}

function resizeError(error: unknown): BlockError {
  return systemError(errnoOf(error), { op: 'resize' }, 'Could not resize file', error);
}

const zeroFlags = Req.MAY_UNMAP | Req.NO_FALLBACK;
const regular: Capabilities = Object.freeze({ write: true, writeFlags: 0, zeroFlags, discard: true, resize: 'any', growsOnWrite: true });
const plain: Capabilities = Object.freeze({ ...regular, zeroFlags: undefined, discard: false });
const device: Capabilities = Object.freeze({ ...regular, growsOnWrite: false });
const plainDevice: Capabilities = Object.freeze({ ...plain, growsOnWrite: false });
const readOnly: Capabilities = Object.freeze({ ...plain, write: false, resize: 'none', growsOnWrite: false });
