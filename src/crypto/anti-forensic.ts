/** The anti-forensic splitter of LUKS: a key spread over so many stripes that losing any part of them loses the key. */
import { digest, digestSize, randomBytes } from '../platform/cryptography.js';

/** Spreads a key over `stripes` blocks of its own length. */
export function split(key: Uint8Array, stripes: number, hash: string): Uint8Array {
  const blocks = randomBytes(key.length * stripes);
  const state = new Uint8Array(key.length);
  const last = (stripes - 1) * key.length;
  for (let at = 0; at < last; at += key.length) absorb(state, blocks.subarray(at, at + key.length), hash);
  for (let index = 0; index < key.length; index++) blocks[last + index] = state[index]! ^ key[index]!;
  return blocks;
}

/** The key that {@link split} spread. */
export function merge(blocks: Uint8Array, stripes: number, hash: string): Uint8Array {
  const length = blocks.length / stripes;
  const state = new Uint8Array(length);
  const last = (stripes - 1) * length;
  for (let at = 0; at < last; at += length) absorb(state, blocks.subarray(at, at + length), hash);
  for (let index = 0; index < length; index++) state[index]! ^= blocks[last + index]!;
  return state;
}

/** Adds a block, then hashes each digest's length of the state together with its place. */
function absorb(state: Uint8Array, block: Uint8Array, hash: string): void {
  const size = digestSize(hash)!;
  for (let index = 0; index < state.length; index++) state[index]! ^= block[index]!;
  const place = new Uint8Array(4);
  for (let at = 0; at < state.length; at += size) {
    new DataView(place.buffer).setUint32(0, at / size);
    const piece = state.subarray(at, at + size);
    piece.set(digest(hash, place, piece).subarray(0, piece.length));
  }
}
