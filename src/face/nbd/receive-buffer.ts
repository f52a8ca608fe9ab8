/**
 * Bytes from the client, parsed where they were received. The socket fills the tail; requests are taken from the front. A block
 * whose bytes a pending write still reads is set aside and replaced.
 */
import type { Block, BlockPool } from './buffers.js';

const CAPACITY = 192 * 1024;
/** Beyond CAPACITY there is room for one more read: the one whose target was given before reading was paused. */
const MIN_READ = 32 * 1024;
/** Blocks set aside at a time. */
const MAX_ASIDE = 16;

export class ReceiveBuffer {
  readonly #pool: BlockPool;
  #block: Block;
  #start = 0;
  #end = 0;
  #aside = 0;

  constructor(pool: BlockPool) {
    this.#pool = pool;
    this.#block = pool.take();
  }

  /** Holds {@link available} bytes from {@link start}. */
  get bytes(): Uint8Array { return this.#block.bytes; }
  get start(): number { return this.#start; }
  get available(): number { return this.#end - this.#start; }
  /** Nothing more fits behind what is there: take some of it. */
  get full(): boolean { return this.#end > CAPACITY - MIN_READ; }
  /** Too many blocks are still read by pending writes. */
  get exhausted(): boolean { return this.#aside >= MAX_ASIDE; }

  /** Where the next received bytes go; never empty. */
  target(): Uint8Array {
    if (this.#block.references === 0) {
      if (this.#start === this.#end) {
        this.#start = this.#end = 0;
      } else if (this.full && this.#start > 0) {
        this.#block.bytes.copyWithin(0, this.#start, this.#end);
        this.#end -= this.#start;
        this.#start = 0;
      }
    } else if (this.full && !this.exhausted) {
      this.#replace();
    }
    return this.#block.bytes.subarray(this.#end, Math.max(CAPACITY, this.#end + MIN_READ));
  }

  received(length: number): void {
    this.#end += length;
  }

  consume(length: number): void {
    this.#start += length;
  }

  /** The block whose bytes a pending request reads; give it back with release(). */
  hold(): Block {
    this.#block.references++;
    return this.#block;
  }

  release(block: Block): void {
    if (--block.references > 0 || block === this.#block) return;
    this.#aside--;
    this.#pool.give(block);
  }

  close(): void {
    if (this.#block.references === 0) this.#pool.give(this.#block);
    else this.#aside++;
    this.#block = { bytes: new Uint8Array(0), references: 0 };
    this.#start = this.#end = 0;
  }

  #replace(): void {
    const next = this.#pool.take();
    next.bytes.set(this.#block.bytes.subarray(this.#start, this.#end));
    this.#aside++;
    this.#block = next;
    this.#end -= this.#start;
    this.#start = 0;
  }
}
