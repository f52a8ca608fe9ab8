/** Decoded blocks kept for the next reader. */
import { andThen, isPromise, type MaybePromise } from '../util/maybe.js';

/** Blocks by number, least recently used first to go. A block larger than the limit is kept until the next one comes. */
export class DecodedCache {
  readonly #limit: number;
  readonly #decode: (block: number) => MaybePromise<Uint8Array>;
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #underWay = new Map<number, Promise<Uint8Array>>();
  #held = 0;

  /** @param limit bytes held */
  constructor(limit: number, decode: (block: number) => MaybePromise<Uint8Array>) {
    this.#limit = limit;
    this.#decode = decode;
  }

  /** The block; decoded once for all who ask meanwhile. */
  get(block: number): MaybePromise<Uint8Array> {
    const found = this.#blocks.get(block);
    if (found !== undefined) {
      this.#blocks.delete(block);
      this.#blocks.set(block, found);
      return found;
    }
    const waiting = this.#underWay.get(block);
    if (waiting !== undefined) return waiting;
    const decoding = andThen(this.#decode(block), (bytes) => this.#keep(block, bytes));
    if (!isPromise(decoding)) return decoding;
    const done = decoding.finally(() => this.#underWay.delete(block));
    this.#underWay.set(block, done);
    return done;
  }

  #keep(block: number, bytes: Uint8Array): Uint8Array {
    for (const [oldest, { length }] of this.#blocks) {
      if (this.#held + bytes.length <= this.#limit) break;
      this.#blocks.delete(oldest);
      this.#held -= length;
    }
    this.#blocks.set(block, bytes);
    this.#held += bytes.length;
    return bytes;
  }
}
