/** Changing an image's virtual size. */
import type { BlockBackend } from '../block/child.js';
import type { Preallocation } from '../block/driver.js';
import { BlockError, Errno } from '../block/errors.js';

export interface ResizeRequest {
  /** Bytes. */
  readonly size: number;
  readonly preallocation: Preallocation;
  /** Data behind the new end may be lost. */
  readonly shrink: boolean;
  readonly signal?: AbortSignal;
}

/** Thrown (as a BlockError) where an image would shrink unasked. */
export const shrinkRefusal = 'Use the --shrink option to perform a shrink operation.';

/** @throws BlockError INVALID_ARGUMENT where the request makes no sense, CANCELLED, else what the layers say */
export async function resizeImage(backend: BlockBackend, { size, preallocation, shrink, signal }: ResizeRequest): Promise<void> {
  const current = backend.size;
  if (size <= 0 || size >= 2 ** 63) throw new BlockError('INVALID_ARGUMENT', 'New image size must be positive');
  if (size <= current && preallocation !== 'off') throw new BlockError('INVALID_ARGUMENT', 'Preallocation can only be used for growing images');
  if (size < current && !shrink) throw new BlockError('INVALID_ARGUMENT', shrinkRefusal);
  try {
    signal?.throwIfAborted();
    await backend.resize(size, { preallocation, exact: true, ...(signal && { signal }) });
  } catch (error) {
    if (signal?.aborted !== true) throw error;
    throw new BlockError('CANCELLED', 'Resizing was cancelled', { errno: Errno.ECANCELED }, error);
  }
}
