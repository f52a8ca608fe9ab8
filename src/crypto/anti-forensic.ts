/** The anti-forensic splitter of LUKS: a key spread over so many stripes that losing any part of them loses the key. */
import { digest, digestSize, randomBytes } from '../platform/cryptography.js';

/** Spreads a key over `stripes` blocks of its own length. */
export function split(key: Uint8Array, stripes: number, hash: string): Uint8Array {
  const blocks = randomBytes(key.length * stripes);
  const diffusion = new Diffusion(key.length, hash);
  const last = (stripes - 1) * key.length;
  for (let at = 0; at < last; at += key.length) diffusion.absorb(blocks.subarray(at, at + key.length));
  for (let index = 0; index < key.length; index++) blocks[last + index] = diffusion.state[index]! ^ key[index]!;
  return blocks;
}

/** The key that {@link split} spread. */
export function merge(blocks: Uint8Array, stripes: number, hash: string): Uint8Array {
  const length = blocks.length / stripes;
  const diffusion = new Diffusion(length, hash);
  const last = (stripes - 1) * length;
  for (let at = 0; at < last; at += length) diffusion.absorb(blocks.subarray(at, at + length));
  for (let index = 0; index < length; index++) diffusion.state[index]! ^= blocks[last + index]!;
  return diffusion.state;
}

/** Adds a block, then hashes each digest's length of the state together with its place. */
class Diffusion {
  readonly state: Uint8Array;
  readonly #hash: string;
  readonly #size: number;

  constructor(length: number, hash: string) {
    this.state = new Uint8Array(length);
    this.#hash = hash;
    this.#size = digestSize(hash)!;
  }

  absorb(block: Uint8Array): void {
    const { state } = this;
    for (let index = 0; index < state.length; index++) state[index]! ^= block[index]!;
    for (let at = 0; at < state.length; at += this.#size) {
      const piece = state.subarray(at, at + this.#size);
      const placed = new Uint8Array(4 + piece.length);
      new DataView(placed.buffer).setUint32(0, at / this.#size);
      placed.set(piece, 4);
      piece.set(digest(this.#hash, placed).subarray(0, piece.length));
    }
  }
}
