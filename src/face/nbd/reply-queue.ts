/**
 * Replies on their way out. They are built in blocks; what was committed in a turn leaves in one write. Regions of requests that
 * did not complete at once are taken out of the block and join the queue when they do.
 */
import type { Writable } from 'node:stream';
import { BLOCK_SIZE, viewOf, type Block, type BlockPool } from './buffers.js';

interface Segment { readonly block: Block; from: number; to: number }

export class ReplyQueue {
  /** Bytes committed and not yet taken by the kernel. */
  queued = 0;
  /** Bytes committed and not yet handed to the socket. */
  unsent = 0;
  readonly #pool: BlockPool;
  #sink: Writable | undefined;
  #writeNow: ((bytes: Uint8Array) => number) | undefined;
  readonly #drained: () => void;
  #block: Block;
  #from = 0;
  #at = 0;
  /** Complete, in order, not yet handed to the socket. */
  #ready: Segment[] = [];
  /** Handed to the socket; it takes them in order. */
  readonly #inSocket: Segment[] = [];
  readonly #onWritten = (): void => {
    const segment = this.#inSocket.shift();
    if (segment === undefined) return;
    this.queued -= segment.to - segment.from;
    this.#release(segment.block);
    this.#drained();
  };

  /** @param drained called each time the socket has taken bytes */
  constructor(pool: BlockPool, drained: () => void) {
    this.#pool = pool;
    this.#drained = drained;
    this.#block = pool.take();
  }

  /** @param writeNow hands bytes to the kernel at once and returns how many it took; without it all goes through the stream */
  connect(sink: Writable, writeNow: ((bytes: Uint8Array) => number) | undefined): void {
    this.#sink = sink;
    this.#writeNow = writeNow;
  }

  /** The block in which {@link claim} gives positions. */
  get bytes(): Uint8Array {
    return this.#block.bytes;
  }

  /** Position of `length` free bytes; commit() or detach() settles them before the next claim, else they are free again. */
  claim(length: number): number {
    if (this.#at + length > this.#block.bytes.length) {
      this.#seal();
      if (this.#block.references === 0 && length <= this.#block.bytes.length) {
        this.#from = this.#at = 0;
      } else {
        this.#leaveBlock();
        this.#block = this.#pool.take(length);
        this.#from = this.#at = 0;
      }
    }
    return this.#at;
  }

  /** The claimed bytes up to `end` are a reply. */
  commit(end: number): void {
    this.queued += end - this.#at;
    this.unsent += end - this.#at;
    this.#at = end;
  }

  /** The claimed bytes up to `end` belong to a request that is not complete; settle them by attach() or abandon(). */
  detach(end: number): Block {
    this.#seal();
    this.#block.references++;
    this.#from = this.#at = end;
    return this.#block;
  }

  /** A detached region is complete: the bytes from..to are its reply. */
  attach(block: Block, from: number, to: number): void {
    this.#seal();
    this.queued += to - from;
    this.unsent += to - from;
    this.#push(block, from, to);
  }

  abandon(block: Block): void {
    this.#release(block);
  }

  /** Hands everything committed to the socket. What the kernel takes at once leaves its block free for the next replies. */
  send(): void {
    this.#seal();
    const sink = this.#sink;
    if (this.#ready.length === 0 || sink === undefined) return;
    const ready = this.#ready;
    this.#ready = [];
    this.unsent = 0;
    let first = 0;
    if (this.#writeNow !== undefined && sink.writableLength === 0) {
      for (; first < ready.length; first++) {
        const segment = ready[first]!;
        const length = segment.to - segment.from;
        const written = this.#writeNow(viewOf(segment.block.bytes, segment.from, length));
        this.queued -= written;
        segment.from += written;
        if (written < length) break;
        this.#release(segment.block);
      }
    }
    if (first === ready.length) return;
    const several = ready.length - first > 1;
    if (several) sink.cork();
    for (; first < ready.length; first++) {
      const segment = ready[first]!;
      this.#inSocket.push(segment);
      sink.write(segment.block.bytes.subarray(segment.from, segment.to), this.#onWritten);
    }
    if (several) sink.uncork();
  }

  /** The socket is gone: nothing will be sent any more. */
  close(): void {
    this.#seal();
    for (const segment of [...this.#inSocket.splice(0), ...this.#ready.splice(0)]) this.#release(segment.block);
    this.queued = this.unsent = 0;
    this.#leaveBlock();
    this.#block = { bytes: new Uint8Array(0), references: 1 };
    this.#from = this.#at = 0;
  }

  #seal(): void {
    if (this.#at === this.#from) return;
    this.#block.references++;
    this.#push(this.#block, this.#from, this.#at);
    this.#from = this.#at;
  }

  /** The segment takes over one reference of the block. */
  #push(block: Block, from: number, to: number): void {
    const last = this.#ready.at(-1);
    if (last !== undefined && last.block === block && last.to === from) {
      last.to = to;
      block.references--;
    } else {
      this.#ready.push({ block, from, to });
    }
  }

  /** Nobody needs the current block's bytes any more. An outsize one is not kept. */
  #restart(): void {
    if (this.#block.bytes.length > BLOCK_SIZE) this.#block = this.#pool.take();
    this.#from = this.#at = 0;
  }

  #leaveBlock(): void {
    if (this.#block.references === 0) this.#pool.give(this.#block);
  }

  #release(block: Block): void {
    if (--block.references > 0) return;
    if (block !== this.#block) this.#pool.give(block);
    else if (this.#at === this.#from) this.#restart();
  }
}
