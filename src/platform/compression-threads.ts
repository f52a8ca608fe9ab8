/** Threads that compress blocks, so that the one that coordinates stays free. */
import { availableParallelism } from 'node:os';
import type { Worker } from 'node:worker_threads';

/** Body of a function `(source: Uint8Array) => Uint8Array`'s factory, run in each thread with `require` and `argument`. */
export interface CompressorProgram {
  /** Statements that end in `return (source) => …`; what that returns is memory of its own, or the source itself. */
  readonly body: string;
  readonly argument?: unknown;
}

interface Answer { readonly id: number; readonly result?: Uint8Array; readonly failure?: string }
interface Thread { readonly worker: Worker; pending: number }
interface Waiter { readonly resolve: (result: Uint8Array) => void; readonly reject: (error: Error) => void; readonly thread: Thread }

const enough = 8;

/** Started with the first block. They do not keep the process alive while they have nothing to do. */
export class CompressionThreads {
  readonly #program: CompressorProgram;
  readonly #waiting = new Map<number, Waiter>();
  #threads: Thread[] | undefined;
  #nextId = 0;

  constructor(program: CompressorProgram) {
    this.#program = program;
  }

  /** Resolves with the compressed block; rejects if the thread's function threw. The source is free again at once. */
  compress(source: Uint8Array): Promise<Uint8Array> {
    this.#threads ??= Array.from({ length: Math.min(availableParallelism(), enough) }, () => this.#start());
    const thread = this.#threads.reduce((least, other) => (other.pending < least.pending ? other : least));
    const id = this.#nextId++;
    const copy = new Uint8Array(source);
    if (thread.pending++ === 0) thread.worker.ref();
    thread.worker.postMessage({ id, source: copy }, [copy.buffer]);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, thread }));
  }

  #start(): Thread {
    // loaded here: few runs compress
    const { Worker } = process.getBuiltinModule('node:worker_threads');
    const worker = new Worker(`
      const { createRequire } = require('node:module');
      const { parentPort, workerData: { base, argument } } = require('node:worker_threads');
      const compress = ((require) => { ${this.#program.body} })(createRequire(base));
      parentPort.on('message', ({ id, source }) => {
        try {
          const result = compress(source);
          parentPort.postMessage({ id, result }, [result.buffer]);
        } catch (error) {
          parentPort.postMessage({ id, failure: String(error) });
        }
      });`, { eval: true, workerData: { base: import.meta.url, argument: this.#program.argument } });
    const thread = { worker, pending: 0 };
    worker.on('message', (answer: Answer) => this.#finish(answer));
    worker.on('error', (error: Error) => this.#lose(thread, error));
    worker.unref();
    return thread;
  }

  #finish({ id, result, failure }: Answer): void {
    const waiter = this.#waiting.get(id);
    if (waiter === undefined) return; // its thread's end was heard of before its answer
    const { resolve, reject, thread } = waiter;
    this.#waiting.delete(id);
    if (--thread.pending === 0) thread.worker.unref();
    if (result !== undefined) resolve(result);
    else reject(new Error(failure));
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
