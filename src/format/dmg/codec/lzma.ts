/** LZMA, as the chunks of LZMA2 hold it: a range coder over adaptive bits, with the output as its dictionary. */
import { copyBack } from './copy.js';

const probabilityBits = 11;
const even = 1 << (probabilityBits - 1);
const shift = 5;
const states = 12;
const longestPositionBits = 4;

// Where each group of probabilities begins.
const isMatch = 0;
const isRep = isMatch + (states << longestPositionBits);
const isRep0 = isRep + states;
const isRep1 = isRep0 + states;
const isRep2 = isRep1 + states;
const isRep0Long = isRep2 + states;
const distanceSlots = isRep0Long + (states << longestPositionBits);
const specialDistances = distanceSlots + 4 * 64;
const alignment = specialDistances + 128;
const matchLengths = alignment + 16;
const lengthGroup = 2 + (2 << (longestPositionBits + 3)) + 256;
const repLengths = matchLengths + lengthGroup;
const literals = repLengths + lengthGroup;

export class LzmaDecoder {
  readonly #target: Uint8Array;
  #probabilities = new Uint16Array(0);
  #at = 0;
  /** Where the dictionary begins. */
  #start = 0;
  #literalContext = 0;
  #literalPosition = 0;
  #positionMask = 0;
  #state = 0;
  #reps: [number, number, number, number] = [0, 0, 0, 0];

  #source: Uint8Array = new Uint8Array();
  #from = 0;
  #range = 0;
  #code = 0;

  constructor(target: Uint8Array) {
    this.#target = target;
  }

  /** Bytes written. */
  get at(): number { return this.#at; }

  resetDictionary(): void {
    this.#start = this.#at;
  }

  setProperties(byte: number): void {
    if (byte >= 9 * 5 * 5) throw new Error('LZMA data is broken');
    this.#literalContext = byte % 9;
    this.#literalPosition = Math.floor(byte / 9) % 5;
    this.#positionMask = (1 << Math.floor(byte / 45)) - 1;
    if (this.#literalContext + this.#literalPosition > 4) throw new Error('LZMA data is broken');
    this.resetState();
  }

  resetState(): void {
    const needed = literals + (0x300 << (this.#literalContext + this.#literalPosition));
    if (this.#probabilities.length !== needed) this.#probabilities = new Uint16Array(needed);
    this.#probabilities.fill(even);
    this.#state = 0;
    this.#reps = [0, 0, 0, 0];
  }

  /** Bytes that are stored as they are. */
  store(bytes: Uint8Array): void {
    const room = this.#target.subarray(this.#at, this.#at + bytes.length);
    room.set(bytes.subarray(0, room.length));
    this.#at += room.length;
  }

  /** Decodes `length` bytes (or until the target is full) from a chunk. */
  decode(source: Uint8Array, length: number): void {
    if (this.#probabilities.length === 0 || source.length < 5) throw new Error('LZMA data is broken');
    this.#source = source;
    this.#from = 5;
    this.#range = 0xffff_ffff;
    this.#code = ((source[1]! << 24) | (source[2]! << 16) | (source[3]! << 8) | source[4]!) >>> 0;
    const end = Math.min(this.#target.length, this.#at + length);
    while (this.#at < end) {
      const position = (this.#at - this.#start) & this.#positionMask;
      if (this.#bit(isMatch + (this.#state << longestPositionBits) + position) === 0) this.#literal();
      else this.#match(position, end);
    }
  }

  #bit(index: number): number {
    const probability = this.#probabilities[index]!;
    const bound = (this.#range >>> probabilityBits) * probability;
    let bit = 0;
    if (this.#code < bound) {
      this.#range = bound;
      this.#probabilities[index] = probability + (((1 << probabilityBits) - probability) >>> shift);
    } else {
      this.#range -= bound;
      this.#code -= bound;
      this.#probabilities[index] = probability - (probability >>> shift);
      bit = 1;
    }
    if (this.#range < 0x100_0000) this.#refill();
    return bit;
  }

  #refill(): void {
    if (this.#from >= this.#source.length) throw new Error('LZMA data ends early');
    this.#range = (this.#range << 8) >>> 0;
    this.#code = ((this.#code << 8) | this.#source[this.#from++]!) >>> 0;
  }

  #evenBits(count: number): number {
    let value = 0;
    for (; count > 0; count--) {
      this.#range >>>= 1;
      let bit = 0;
      if (this.#code >= this.#range) {
        this.#code -= this.#range;
        bit = 1;
      }
      value = value * 2 + bit;
      if (this.#range < 0x100_0000) this.#refill();
    }
    return value;
  }

  #tree(index: number, bits: number): number {
    let symbol = 1;
    for (let count = bits; count > 0; count--) symbol = (symbol << 1) | this.#bit(index + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(index: number, bits: number): number {
    let symbol = 1;
    let value = 0;
    for (let count = 0; count < bits; count++) {
      const bit = this.#bit(index + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << count;
    }
    return value;
  }

  #literal(): void {
    const at = this.#at;
    const place = at - this.#start;
    const previous = place > 0 ? this.#target[at - 1]! : 0;
    const context = ((place & ((1 << this.#literalPosition) - 1)) << this.#literalContext) + (previous >>> (8 - this.#literalContext));
    const index = literals + 0x300 * context;
    let symbol = 1;
    if (this.#state >= 7) {
      const distance = this.#reps[0] + 1;
      if (distance > place) throw new Error('a reference leads outside');
      let match = this.#target[at - distance]!;
      while (symbol < 0x100) {
        const expected = (match >>> 7) & 1;
        match <<= 1;
        const bit = this.#bit(index + ((1 + expected) << 8) + symbol);
        symbol = (symbol << 1) | bit;
        if (bit !== expected) break;
      }
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(index + symbol);
    this.#target[at] = symbol;
    this.#at++;
    this.#state = this.#state < 4 ? 0 : this.#state < 10 ? this.#state - 3 : this.#state - 6;
  }

  #match(position: number, end: number): void {
    const state = this.#state;
    const [rep0, rep1, rep2, rep3] = this.#reps;
    let length: number;
    if (this.#bit(isRep + state) === 0) {
      length = this.#length(matchLengths, position);
      this.#state = state < 7 ? 7 : 10;
      this.#reps = [this.#distance(length), rep0, rep1, rep2];
    } else {
      if (this.#bit(isRep0 + state) === 0) {
        if (this.#bit(isRep0Long + (state << longestPositionBits) + position) === 0) {
          this.#state = state < 7 ? 9 : 11;
          this.#copy(1, end);
          return;
        }
      } else if (this.#bit(isRep1 + state) === 0) {
        this.#reps = [rep1, rep0, rep2, rep3];
      } else if (this.#bit(isRep2 + state) === 0) {
        this.#reps = [rep2, rep0, rep1, rep3];
      } else {
        this.#reps = [rep3, rep0, rep1, rep2];
      }
      length = this.#length(repLengths, position);
      this.#state = state < 7 ? 8 : 11;
    }
    this.#copy(length, end);
  }

  #copy(length: number, end: number): void {
    const distance = this.#reps[0] + 1;
    if (distance > this.#at - this.#start) throw new Error('a reference leads outside');
    const bytes = Math.min(length, end - this.#at);
    copyBack(this.#target, this.#at, distance, bytes);
    this.#at += bytes;
  }

  #length(index: number, position: number): number {
    if (this.#bit(index) === 0) return 2 + this.#tree(index + 2 + (position << 3), 3);
    if (this.#bit(index + 1) === 0) return 10 + this.#tree(index + 2 + (1 << (longestPositionBits + 3)) + (position << 3), 3);
    return 18 + this.#tree(index + 2 + (2 << (longestPositionBits + 3)), 8);
  }

  #distance(length: number): number {
    const slot = this.#tree(distanceSlots + Math.min(length - 2, 3) * 64, 6);
    if (slot < 4) return slot;
    const bits = (slot >>> 1) - 1;
    const base = (2 | (slot & 1)) * 2 ** bits;
    if (slot < 14) return base + this.#reverseTree(specialDistances + base - slot, bits);
    return base + this.#evenBits(bits - 4) * 16 + this.#reverseTree(alignment, 4);
  }
}
