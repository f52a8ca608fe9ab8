import { isVixError, type VixErrorSymbol } from '../../src/face/vixdisklib/index.js';

/** How a call of VixDiskLib fails. Synchronous throws count as well. */
export async function failure(work: () => unknown): Promise<VixErrorSymbol | 'no error' | 'no VixError'> {
  try {
    await work();
    return 'no error';
  } catch (error) {
    return isVixError(error) ? error.symbol : 'no VixError';
  }
}
