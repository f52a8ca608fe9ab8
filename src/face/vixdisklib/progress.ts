/** Progress of long operations, and their end before time. */
import { VixError } from './errors.js';

export interface Progress {
  /** 0 to 100, never less than before; 100 is the last, told when all is done. */
  readonly percent: number;
  /** In units of the operation; in the end as many as `total`. */
  readonly done: number;
  readonly total: number;
}

export interface LongOperation {
  /** Ends the operation with VIX_E_CANCELLED. No half-made disk stays, and no source is harmed. */
  readonly signal?: AbortSignal | undefined;
  /** Called whenever a percent more is done. If it throws, the operation fails with that error. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** What an operation under way asks and tells. */
export interface Running {
  readonly signal: AbortSignal;
  readonly progress: (done: number, total: number) => void;
}

/** Runs an operation under its caller's control. */
export async function controlled<T>(control: LongOperation, work: (running: Running) => Promise<T>): Promise<T> {
  const { signal, onProgress } = control;
  const own = new AbortController();
  const abort = (): void => own.abort(signal?.reason);
  let percent = -1;
  let units = 1;
  let failure: { readonly error: unknown } | undefined;
  const tell = (next: Progress): void => {
    if (next.percent <= percent || failure !== undefined) return;
    percent = next.percent;
    try {
      onProgress?.(next);
    } catch (error) {
      failure = { error };
      own.abort(error);
    }
  };
  if (signal?.aborted) throw cancelled(signal.reason);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const result = await work({
      signal: own.signal,
      progress: (done, total) => {
        units = total;
        tell({ percent: total > 0 ? Math.min(99, Math.floor(done / total * 100)) : 0, done, total });
      },
    });
    tell({ percent: 100, done: units, total: units });
    if (failure !== undefined) throw failure.error;
    return result;
  } catch (error) {
    if (failure !== undefined) throw failure.error;
    throw own.signal.aborted ? cancelled(error) : error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** @throws VixError VIX_E_CANCELLED where the caller wants no more */
export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw cancelled(signal.reason);
}

function cancelled(cause: unknown): VixError {
  return new VixError('VIX_E_CANCELLED', undefined, { cause });
}
