/** A row of equal requests, several under way at a time. */
import type { BlockBackend } from '../block/child.js';
import { eventsHandled } from '../platform/bytes.js';
import { isPromise, type MaybePromise } from '../util/maybe.js';

export interface BenchRun {
  readonly write: boolean;
  /** Requests in all. */
  readonly count: number;
  /** Requests under way at a time. */
  readonly depth: number;
  /** Start of the first request, and from one to the next; requests past the end start again at 0. Bytes. */
  readonly offset: number;
  readonly step: number;
  readonly bufferSize: number;
  /** Byte that is written. */
  readonly pattern: number;
  /** Requests between two flushes; 0: none. */
  readonly flushInterval: number;
  /** Requests under way are waited for before a flush. */
  readonly drainOnFlush: boolean;
}

const turnRequests = 4096;

/** Sends the requests; rejects with the first that fails. */
export async function benchImage(image: BlockBackend, bench: BenchRun): Promise<void> {
  const { count, depth, step, bufferSize, flushInterval } = bench;
  const size = image.size;
  const buffers = Array.from({ length: Math.min(depth, count) }, () => new Uint8Array(bufferSize).fill(bench.pattern));
  const waiting = new Set<Promise<unknown>>();
  let { offset } = bench;
  let failure: { readonly error: unknown } | undefined;
  const start = (request: () => MaybePromise<void>, done: () => void): void => {
    let result: MaybePromise<void>;
    try {
      result = request();
    } catch (error) {
      failure ??= { error };
      return;
    }
    if (!isPromise(result)) return done();
    const waited: Promise<unknown> = result.then(done, (error: unknown) => { failure ??= { error }; }).then(() => waiting.delete(waited));
    waiting.add(waited);
  };
  for (let sent = 0; sent < count && failure === undefined;) {
    const buffer = buffers.pop();
    if (buffer === undefined) {
      await Promise.race(waiting);
      continue;
    }
    const at = offset;
    start(() => (bench.write ? image.write(at, buffer) : image.read(at, buffer)), () => buffers.push(buffer));
    offset += step;
    if (size <= offset) offset = 0;
    sent++;
    if (flushInterval > 0 && sent % flushInterval === 0) {
      if (bench.drainOnFlush) await Promise.all(waiting);
      start(() => image.flush(), () => undefined);
      if (bench.drainOnFlush) await Promise.all(waiting);
    }
    if (sent % turnRequests === 0) await eventsHandled();
  }
  await Promise.all(waiting);
  if (failure !== undefined) throw failure.error;
}
