/** Looking through memory at the speed of memory, and letting others run in between. */

const zeroes = Buffer.alloc(64 * 1024);

/** Whether all bytes of [start, end) are zero. */
export function isZero(bytes: Uint8Array, start = 0, end = bytes.length): boolean {
  for (let at = start; at < end; at += zeroes.length) {
    const length = Math.min(zeroes.length, end - at);
    if (bytes[at] !== 0 || zeroes.compare(bytes, at, at + length, 0, length) !== 0) return false;
  }
  return true;
}

/** Index of the first byte in which two buffers of the same length differ; -1: they don't. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1;
  let start = 0;
  for (let end = a.length; end - start > 1;) {
    const middle = (start + end) >>> 1;
    if (Buffer.compare(a.subarray(start, middle), b.subarray(start, middle)) === 0) start = middle;
    else end = middle;
  }
  return start;
}

/** A large block of the allocator's begins 16 bytes after the start of a page. */
const pageBytes = 4096, blockHeader = 16;

/**
 * Memory for much copying between files. It begins with a page where the allocator does what is usual: kernels copy whole pages
 * faster to and from there. Other threads can read it where it is `shared`.
 */
export function copyBuffer(length: number, shared = false): Uint8Array {
  const start = pageBytes - blockHeader;
  const memory = shared ? new Uint8Array(new SharedArrayBuffer(pageBytes + length)) : new Uint8Array(pageBytes + length);
  return memory.subarray(start, start + length);
}

/** Resolves after signals, timers and sockets had their turn: what comes amid the handling of others has its turn behind the first immediate. */
export function eventsHandled(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}
