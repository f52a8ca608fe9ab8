/**
 * Writes of one file, by one thread that finds the next one waiting when it is done with one: glibc's asynchronous I/O keeps a thread
 * per file (aio(7)). Node's pool wakes another thread for each call; while the two wait for the same file they keep a processor busy.
 */
import { callLater, type ForeignFunction, koffi, type Koffi } from './koffi.js';

/** Words of glibc's struct aiocb on 64-bit systems; addresses, lengths and offsets take two. */
const Aiocb = { words: 42, fd: 0, buffer: 4, length: 6, notify: 11, error: 28, result: 30, offset: 32 } as const;
const SIGEV_NONE = 1;
const EINPROGRESS = 115;

interface Sent {
  readonly block: Uint32Array;
  /** What the thread writes from: alive until it has ended. */
  readonly source: Uint8Array;
  /** Takes the bytes written, which may be fewer than sent, or -errno. */
  readonly ended: (result: number) => void;
}

export class QueuedWrites {
  readonly #fd: number;
  readonly #koffi: Koffi;
  readonly #write: ForeignFunction;
  readonly #suspend: ForeignFunction;
  /** In the order in which they are done. */
  readonly #sent: Sent[] = [];
  /** The list whose end another thread waits for. */
  #watched: BigUint64Array | undefined;

  private constructor(fd: number, library: Koffi, write: ForeignFunction, suspend: ForeignFunction) {
    this.#fd = fd;
    this.#koffi = library;
    this.#write = write;
    this.#suspend = suspend;
  }

  /** Undefined where there is no glibc or no koffi. */
  static of(fd: number): QueuedWrites | undefined {
    const library = ['x64', 'arm64'].includes(process.arch) ? koffi() : undefined;
    if (process.platform !== 'linux' || library === undefined) return undefined;
    try {
      const libc = library.load(null);
      libc.func('gnu_get_libc_version', 'str', []);
      return new QueuedWrites(fd, library, libc.func('aio_write', 'int', ['size_t']), libc.func('aio_suspend', 'int', ['void *', 'int', 'void *']));
    } catch {
      return undefined;
    }
  }

  /** Resolves with the bytes written, which may be fewer than asked, or -errno. The source must stay as it is until then. */
  write(offset: number, source: Uint8Array): Promise<number> {
    const block = new Uint32Array(Aiocb.words);
    block[Aiocb.fd] = this.#fd;
    block[Aiocb.notify] = SIGEV_NONE;
    setWords(block, Aiocb.buffer, Number(this.#koffi.address(source)));
    setWords(block, Aiocb.length, source.byteLength);
    setWords(block, Aiocb.offset, offset);
    if (this.#write(this.#koffi.address(block.buffer)) !== 0) return Promise.resolve(-this.#koffi.errno());
    return new Promise((ended) => {
      this.#sent.push({ block, source, ended });
      this.#watch();
    });
  }

  /** Waits for the middle of what is sent: half the wake-ups, and the thread still has some to do when the next come. */
  #watch(): void {
    const middle = this.#sent[(this.#sent.length - 1) >> 1];
    if (this.#watched !== undefined || middle === undefined) return;
    this.#watched = BigUint64Array.of(this.#koffi.address(middle.block.buffer));
    const look = (): void => {
      this.#watched = undefined;
      this.#settle();
      this.#watch();
    };
    callLater({ call: this.#suspend, parameters: [this.#watched, 1, null], ended: (failure) => (failure === undefined ? look() : setTimeout(look, 1)) });
  }

  #settle(): void {
    for (let first; (first = this.#sent[0]) !== undefined;) {
      const { block, ended } = first;
      const error = Atomics.load(block, Aiocb.error);
      if (error === EINPROGRESS) return;
      this.#sent.shift();
      ended(error === 0 ? block[Aiocb.result]! + block[Aiocb.result + 1]! * 2 ** 32 : -error);
    }
  }
}

function setWords(block: Uint32Array, at: number, value: number): void {
  block[at] = value;
  block[at + 1] = value / 2 ** 32;
}
