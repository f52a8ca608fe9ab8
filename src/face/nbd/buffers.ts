/** Buffers of one size, reused: a server's connections draw receive buffers and reply blocks from one pool. */

/** Room for two read pieces of 128 KiB, or 32 replies of 4 KiB, with their headers. */
export const BLOCK_SIZE = 260 * 1024;

/** A buffer and the number of users that still need its bytes. */
export interface Block {
  readonly bytes: Uint8Array;
  references: number;
}

/** Unused memory kept for the next connection or burst; what is beyond it goes to the garbage collector. */
const KEPT_BLOCKS = 32;

export class BlockPool {
  readonly #free: Block[] = [];

  /** A block of at least `size` bytes with no references. Only blocks of BLOCK_SIZE are reused. */
  take(size = BLOCK_SIZE): Block {
    const reused = size <= BLOCK_SIZE ? this.#free.pop() : undefined;
    if (reused !== undefined) return reused;
    const length = Math.max(size, BLOCK_SIZE);
    return { bytes: new Uint8Array(Buffer.allocUnsafeSlow(length).buffer, 0, length), references: 0 };
  }

  give(block: Block): void {
    if (block.bytes.length === BLOCK_SIZE && this.#free.length < KEPT_BLOCKS) this.#free.push(block);
  }
}

/** A view that costs less than subarray(). */
export function viewOf(bytes: Uint8Array, at: number, length: number): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset + at, length);
}
