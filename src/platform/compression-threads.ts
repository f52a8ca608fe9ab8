/** Threads that compress blocks, so that the one that coordinates stays free: each gets many blocks with one message. */
import type { Worker } from 'node:worker_threads';

/** Makes, in each thread, the function that compresses: `(source, target) => length`. It runs with `require` and `argument`. */
export interface CompressorProgram {
  /** Statements that end in `return (source, target) => …`, which fills target and returns the bytes used; 0: the block would be no shorter. */
  readonly body: string;
  readonly argument?: unknown;
}

/** A block compressed; undefined: it would be no shorter. Neighbours mostly lie behind each other in the same memory. */
export type PackedBlock = Uint8Array | undefined;

interface Answer { readonly id: number; readonly packed?: Uint8Array; readonly lengths?: readonly number[]; readonly failure?: string }
interface Thread { readonly worker: Worker; pending: number }
interface Waiter { readonly resolve: (blocks: PackedBlock[]) => void; readonly reject: (error: Error) => void; readonly thread: Thread }

const enough = 8;
/** What a thread gets with one message. */
const batchBytes = 512 * 1024;
/** Room for a block that does not shrink, and what framing adds to it. */
const roomFor = 'length + (length >>> 8) + 64';

/** Started with the first block. They do not keep the process alive while they have nothing to do. */
export class CompressionThreads {
  readonly #program: CompressorProgram;
  readonly #waiting = new Map<number, Waiter>();
  #threads: Thread[] | undefined;
  #nextId = 0;

  constructor(program: CompressorProgram) {
    this.#program = program;
  }

  /**
   * Compresses blocks of `blockSize` bytes, of which the last may be shorter. Rejects if a thread's function threw. The source is free
   * again at once, unless it lies in shared memory: then the threads read it there.
   */
  async compress(source: Uint8Array, blockSize: number): Promise<PackedBlock[]> {
    const batch = Math.max(1, Math.floor(batchBytes / blockSize)) * blockSize;
    const batches: Promise<PackedBlock[]>[] = [];
    for (let at = 0; at < source.length; at += batch) batches.push(this.#send(source.subarray(at, at + batch), blockSize));
    return (await Promise.all(batches)).flat();
  }

  #send(source: Uint8Array, blockSize: number): Promise<PackedBlock[]> {
    this.#threads ??= Array.from({ length: Math.min(process.getBuiltinModule('node:os').availableParallelism(), enough) }, () => this.#start());
    const thread = this.#threads.reduce((least, other) => (other.pending < least.pending ? other : least));
    const id = this.#nextId++;
    if (thread.pending++ === 0) thread.worker.ref();
    if (source.buffer instanceof SharedArrayBuffer) thread.worker.postMessage({ id, source, blockSize });
    else {
      const copy = new Uint8Array(source);
      thread.worker.postMessage({ id, source: copy, blockSize }, [copy.buffer]);
    }
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, thread }));
  }

  #start(): Thread {
    // loaded here: few runs compress
    const { Worker } = process.getBuiltinModule('node:worker_threads');
    const worker = new Worker(`
      const { createRequire } = require('node:module');
      const { parentPort, workerData: { base, argument } } = require('node:worker_threads');
      const compress = ((require) => { ${this.#program.body} })(createRequire(base));
      const roomFor = (length) => ${roomFor};
      let room = new Uint8Array(0);
      const pack = (source, blockSize) => {
        const needed = Math.ceil(source.length / blockSize) * roomFor(Math.min(blockSize, source.length));
        if (room.length < needed) room = new Uint8Array(needed);
        const lengths = [];
        let end = 0;
        for (let at = 0; at < source.length; at += blockSize) {
          const block = source.subarray(at, at + blockSize);
          const length = compress(block, room.subarray(end, end + roomFor(block.length)));
          lengths.push(length);
          end += length;
        }
        return { packed: room.slice(0, end), lengths };
      };
      parentPort.on('message', ({ id, source, blockSize }) => {
        try {
          const { packed, lengths } = pack(source, blockSize);
          parentPort.postMessage({ id, packed, lengths }, [packed.buffer]);
        } catch (error) {
          parentPort.postMessage({ id, failure: String(error) });
        }
      });`, { eval: true, execArgv: [], trackUnmanagedFds: false, workerData: { base: import.meta.url, argument: this.#program.argument } });
    const thread = { worker, pending: 0 };
    worker.on('message', (answer: Answer) => this.#finish(answer));
    worker.on('error', (error: Error) => this.#lose(thread, error));
    worker.unref();
    return thread;
  }

  #finish({ id, packed, lengths, failure }: Answer): void {
    const waiter = this.#waiting.get(id);
    if (waiter === undefined) return; // its thread's end was heard of before its answer
    const { resolve, reject, thread } = waiter;
    this.#waiting.delete(id);
    if (--thread.pending === 0) thread.worker.unref();
    if (packed === undefined || lengths === undefined) return reject(new Error(failure));
    let end = 0;
    resolve(lengths.map((length) => (length === 0 ? undefined : packed.subarray(end, end += length))));
  }

  /** A thread ended by itself: what it had is lost. */
  #lose(lost: Thread, error: Error): void {
    this.#threads = undefined;
    for (const [id, { reject, thread }] of this.#waiting) {
      if (thread !== lost) continue;
      this.#waiting.delete(id);
      reject(error);
    }
  }
}
