/**
 * System calls that Node does not offer, on 64-bit Linux and through koffi. Everything works without them, slower: see
 * {@link nativeReport}.
 *
 * Results are as the kernel gives them: negative is -errno. The `…Later` forms run on another thread and never reject.
 */
import { callLater, type ForeignFunction, type Koffi, koffi, koffiMissing } from './koffi.js';

export const Fallocate = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const;
export const Seek = { DATA: 3, HOLE: 4 } as const;
/** Request numbers as on x86-64 and arm64. */
export const Ioctl = {
  BLKSSZGET: 0x1268, BLKPBSZGET: 0x127b, BLKDISCARD: 0x1277, BLKZEROOUT: 0x127f, BLKGETSIZE64: 0x80081272,
  FICLONE: 0x40049409, FICLONERANGE: 0x4020940d,
  FS_IOC_GETFLAGS: 0x80086601, FS_IOC_SETFLAGS: 0x40086602, FS_IOC_FSGETXATTR: 0x801c581f, FS_IOC_FSSETXATTR: 0x401c5820,
} as const;
const EIO = 5;
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const lockTypes = { read: 0, write: 1, none: 2 } as const;
const RWF_NOWAIT = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const RUSAGE_THREAD = 1;
const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;

/** What one open file description may hold on a range of bytes. */
export type LockType = keyof typeof lockTypes;

export class Native {
  readonly #koffi: Koffi;
  readonly #preadv2: ForeignFunction;
  readonly #pread: ForeignFunction;
  readonly #pwrite: ForeignFunction;
  readonly #lseek: ForeignFunction;
  readonly #fallocate: ForeignFunction;
  readonly #copyFileRange: ForeignFunction;
  readonly #fcntl: ForeignFunction;
  readonly #ioctl: ForeignFunction;
  readonly #sendfile: ForeignFunction;
  readonly #recv: ForeignFunction;
  readonly #send: ForeignFunction;
  readonly #statx: ForeignFunction;
  readonly #getrusage: ForeignFunction;
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();
  /** One struct iovec: address and length, 64 bits each. */
  readonly #vector = new Uint32Array(4);
  readonly #vectorAddress: number;
  /** struct rusage; voluntary context switches are its 17th word. */
  readonly #usage = new BigInt64Array(18);
  /** The memory of the last call that was given an address: alive for as long as the kernel uses it. */
  #pinned: Uint8Array | undefined;

  constructor(library: Koffi) {
    this.#koffi = library;
    const libc = library.load(null);
    // Handing memory over as a number (size_t) is quicker than as an object; the rare calls take objects (void *).
    this.#preadv2 = libc.func('preadv2', 'int64_t', ['int', 'size_t', 'int', 'int64_t', 'int']);
    this.#pread = libc.func('pread', 'int64_t', ['int', 'size_t', 'size_t', 'int64_t']);
    this.#pwrite = libc.func('pwrite', 'int64_t', ['int', 'size_t', 'size_t', 'int64_t']);
    this.#lseek = libc.func('lseek', 'int64_t', ['int', 'int64_t', 'int']);
    this.#fallocate = libc.func('fallocate', 'int', ['int', 'int', 'int64_t', 'int64_t']);
    this.#copyFileRange = libc.func('copy_file_range', 'int64_t', ['int', 'void *', 'int', 'void *', 'size_t', 'uint']);
    this.#fcntl = libc.func('fcntl', 'int', ['int', 'int', 'void *']);
    this.#ioctl = libc.func('ioctl', 'int', ['int', 'size_t', 'void *']);
    this.#sendfile = libc.func('sendfile', 'int64_t', ['int', 'int', 'void *', 'size_t']);
    this.#recv = libc.func('recv', 'int64_t', ['int', 'size_t', 'size_t', 'int']);
    this.#send = libc.func('send', 'int64_t', ['int', 'size_t', 'size_t', 'int']);
    this.#statx = libc.func('statx', 'int', ['int', 'str', 'int', 'uint', 'void *']);
    this.#getrusage = libc.func('getrusage', 'int', ['int', 'void *']);
    this.#vectorAddress = this.#addressOf(this.#vector);
  }

  /**
   * Reads what the page cache holds without waiting for a device; may be short. -EAGAIN: it would have to wait. -EOPNOTSUPP: the
   * file system cannot tell.
   */
  readNow(fd: number, target: Uint8Array, offset: number): number {
    this.#fillVector(target);
    return this.#result(this.#preadv2(fd, this.#vectorAddress, 1, offset, RWF_NOWAIT));
  }

  /** Reads, waiting if need be. */
  read(fd: number, target: Uint8Array, offset: number): number {
    this.#pinned = target;
    return this.#result(this.#pread(fd, this.#addressOf(target), target.byteLength, offset));
  }

  /** Writes, waiting if need be. */
  write(fd: number, source: Uint8Array, offset: number): number {
    this.#pinned = source;
    return this.#result(this.#pwrite(fd, this.#addressOf(source), source.byteLength, offset));
  }

  /** Offset of the next data or hole at or after `offset`; -ENXIO past the end (or past the last data). */
  seek(fd: number, offset: number, whence: number): number {
    return this.#result(this.#lseek(fd, offset, whence));
  }

  /** Reserves, punches or zeroes a range as `mode` (Fallocate bits) says. */
  allocate(fd: number, mode: number, offset: number, length: number): number {
    return this.#result(this.#fallocate(fd, mode, offset, length));
  }

  allocateLater(fd: number, mode: number, offset: number, length: number): Promise<number> {
    return this.#later(this.#fallocate, [fd, mode, offset, length]);
  }

  /** Copies inside the kernel; bytes copied, which may be fewer than asked (0 at the source's end). */
  copyRangeLater(sourceFd: number, sourceOffset: number, fd: number, offset: number, length: number): Promise<number> {
    return this.#later(this.#copyFileRange, [sourceFd, int64(sourceOffset), fd, int64(offset), length, 0]);
  }

  /** Shares the blocks of a range with another file of the same file system. */
  cloneRangeLater(sourceFd: number, sourceOffset: number, fd: number, offset: number, length: number): Promise<number> {
    const range = new BigInt64Array([BigInt(sourceFd), BigInt(sourceOffset), BigInt(length), BigInt(offset)]);
    return this.ioctlLater(fd, Ioctl.FICLONERANGE, range);
  }

  /** Sets this file description's lock on a range; never waits. -EAGAIN or -EACCES: another holds it. */
  lock(fd: number, type: LockType, start: number, length: number): number {
    return this.#result(this.#fcntl(fd, F_OFD_SETLK, flock(type, start, length)));
  }

  /** Whether another file description's lock stands in the way of this one: 1 yes, 0 no. */
  lockConflicts(fd: number, type: LockType, start: number, length: number): number {
    const request = flock(type, start, length);
    const result = this.#result(this.#fcntl(fd, F_OFD_GETLK, request));
    return result < 0 ? result : Number(request[0]! & 0xffffn) === lockTypes.none ? 0 : 1;
  }

  /** An ioctl whose argument is memory. */
  ioctl(fd: number, request: number, argument: ArrayBufferView): number {
    return this.#result(this.#ioctl(fd, request, argument));
  }

  ioctlLater(fd: number, request: number, argument: ArrayBufferView): Promise<number> {
    return this.#later(this.#ioctl, [fd, request, argument]);
  }

  /** Sends a file's bytes to a descriptor (a socket), from `offset`; bytes sent. A non-blocking socket answers -EAGAIN. */
  sendfile(target: number, fd: number, offset: number, length: number): number {
    return this.#result(this.#sendfile(target, fd, int64(offset), length));
  }

  /** What a socket holds now: bytes received, 0 at the end of the stream, -EAGAIN where there is nothing. */
  receive(fd: number, target: Uint8Array): number {
    this.#pinned = target;
    return this.#result(this.#recv(fd, this.#addressOf(target), target.byteLength, MSG_DONTWAIT));
  }

  /** Hands a socket what it takes now: bytes taken, -EAGAIN where that is none. */
  send(fd: number, source: Uint8Array): number {
    this.#pinned = source;
    return this.#result(this.#send(fd, this.#addressOf(source), source.byteLength, MSG_DONTWAIT | MSG_NOSIGNAL));
  }

  /** Alignment of offsets and lengths that O_DIRECT asks on this file; undefined where the kernel does not say. */
  directAlignment(fd: number): number | undefined {
    const record = new Uint32Array(64);
    const answered = this.#statx(fd, '', AT_EMPTY_PATH, STATX_DIOALIGN, record) === 0 && (record[0]! & STATX_DIOALIGN) !== 0;
    return answered && record[39]! > 0 ? record[39]! : undefined;
  }

  /** How often this thread has waited for something so far, rather than been interrupted. */
  waits(): number {
    this.#getrusage(RUSAGE_THREAD, this.#usage);
    return Number(this.#usage[16]);
  }

  #result(value: number): number {
    return value < 0 ? -this.#koffi.errno() : value;
  }

  #later(call: ForeignFunction, parameters: readonly unknown[]): Promise<number> {
    return new Promise((resolve) => callLater({ call, parameters, ended: (failure, value) => resolve(failure ? -EIO : this.#result(value)) }));
  }

  #fillVector(memory: Uint8Array): void {
    const address = this.#addressOf(memory);
    this.#pinned = memory;
    this.#vector[0] = address;
    this.#vector[1] = address / 2 ** 32;
    this.#vector[2] = memory.byteLength;
  }

  /** Memory behind an ArrayBuffer never moves, and a detached one leaves views of length 0. Of shared buffers koffi takes views only. */
  #addressOf(memory: ArrayBufferView): number {
    const { buffer } = memory;
    let address = this.#addresses.get(buffer);
    if (address === undefined) this.#addresses.set(buffer, address = Number(this.#koffi.address(new Uint8Array(buffer))));
    return address + memory.byteOffset;
  }
}

/** struct flock: type (and whence 0) in the first word, then start and length. */
function flock(type: LockType, start: number, length: number): BigInt64Array {
  return new BigInt64Array([BigInt(lockTypes[type]), BigInt(start), BigInt(length), 0n]);
}

function int64(value: number): BigInt64Array {
  return new BigInt64Array([BigInt(value)]);
}

let loaded: { readonly native?: Native; readonly reason?: string } | undefined;

function load(): { readonly native?: Native; readonly reason?: string } {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    return { reason: `no system calls for ${process.platform} on ${process.arch}` };
  }
  const library = koffi();
  if (library === undefined) return { reason: koffiMissing() ?? 'koffi is missing' };
  try {
    return { native: new Native(library) };
  } catch (error) {
    return { reason: `the C library lacks a function: ${String(error)}` };
  }
}

/** The system calls; undefined where they cannot be made. */
export function native(): Native | undefined {
  return (loaded ??= load()).native;
}

export interface NativeReport {
  readonly available: boolean;
  readonly reason?: string;
  /** What is slower or missing, one sentence each. */
  readonly lost: readonly string[];
}

/** Whether the system calls are there, and what it costs where they are not. */
export function nativeReport(): NativeReport {
  if (native() !== undefined) return { available: true, lost: [] };
  return {
    available: false,
    reason: loaded?.reason ?? 'unknown',
    lost: [
      'Reads from files go through the thread pool, several times slower on cached data.',
      'Holes in files are not seen: sparse files read and map as data.',
      'Discards do nothing, and zeroing a range writes zeroes.',
      'Space cannot be reserved; preallocation=falloc is refused.',
      'Images are not locked against other processes.',
      'Copies inside the kernel (reflink, copy_file_range) and sendfile are not used.',
      'NBD clients that send one request at a time wait longer for each answer.',
      'Block devices: limits are assumed, not asked for.',
    ],
  };
}
