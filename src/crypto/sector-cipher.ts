/**
 * Encryption of disk sectors: XTS, CBC, CTR and ECB with the usual ways to make an IV of a sector's number.
 *
 * All are built from AES over many blocks at once, so that a batch of sectors costs a handful of calls: XTS as tweak, AES, tweak; CBC
 * by encrypting the same block of all sectors of a batch together.
 */
import { BlockError } from '../block/errors.js';
import { aes, digest, digestSize, type BlockCipher } from '../platform/cryptography.js';

/** Sectors are numbered in this unit, whatever their size. */
export const sectorUnit = 512;
/** Bytes worked on at a time: small enough to stay in the processor's cache. */
const batchSize = 64 * 1024;
const blockWords = 4;

export type CipherMode = 'ecb' | 'cbc' | 'xts' | 'ctr';
export type IvGenerator = 'plain' | 'plain64' | 'essiv';

export interface CipherSpec {
  /** Key size in bytes that AES is used with: 16, 24 or 32. XTS takes two such keys. */
  readonly keySize: number;
  readonly mode: CipherMode;
  /** Absent where the mode is used without an IV. */
  readonly ivGenerator?: IvGenerator;
  /** The hash of essiv. */
  readonly ivHash?: string;
}

/** Bytes of key material for a cipher. */
export function keyBytes({ keySize, mode }: CipherSpec): number {
  return mode === 'xts' ? keySize * 2 : keySize;
}

/** Encrypts whole sectors of 512 bytes or more; the first of them has number `sector` (in units of 512 bytes). Source and target have the same length, and are the same or apart. */
export interface SectorCipher {
  encrypt(sector: number, source: Uint8Array, target: Uint8Array): void;
  decrypt(sector: number, source: Uint8Array, target: Uint8Array): void;
}

/** @throws BlockError NOT_SUPPORTED where the host lacks the hash, or AES has no key of its length */
export function sectorCipher(spec: CipherSpec, key: Uint8Array, sectorSize = sectorUnit): SectorCipher {
  if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) throw unsupported('Disk encryption needs a little-endian machine');
  if (key.length !== keyBytes(spec)) throw unsupported(`Cipher key length ${key.length} should be ${keyBytes(spec)}`);
  const cipher = aes(key.slice(0, spec.keySize));
  const ivs = new InitialVectors(spec, key, sectorSize);
  switch (spec.mode) {
    case 'xts': return new Batches(sectorSize, new Xts(cipher, aes(key.slice(spec.keySize)), ivs, sectorSize));
    case 'cbc': return new Batches(sectorSize, new Cbc(cipher, ivs, sectorSize));
    case 'ctr': return new Batches(sectorSize, new Ctr(cipher, ivs, sectorSize));
    case 'ecb': return new Batches(sectorSize, new Ecb(cipher));
  }
}

/** One batch, in place. `words` and `bytes` are the same memory. */
interface BatchCipher {
  encrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void;
  decrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void;
}

/** Memory that every batch starts with anew; nothing waits while it is in use. */
const room = new Uint8Array(batchSize);
const roomWords = new Int32Array(room.buffer);
const sideWords = new Int32Array(batchSize / 4);
const sideBytes = new Uint8Array(sideWords.buffer);

/** Cuts requests into batches, and brings unaligned memory into line. */
class Batches implements SectorCipher {
  readonly #sectorSize: number;
  readonly #cipher: BatchCipher;

  constructor(sectorSize: number, cipher: BatchCipher) {
    this.#sectorSize = sectorSize;
    this.#cipher = cipher;
  }

  encrypt(sector: number, source: Uint8Array, target: Uint8Array): void {
    this.#run(sector, source, target, true);
  }

  decrypt(sector: number, source: Uint8Array, target: Uint8Array): void {
    this.#run(sector, source, target, false);
  }

  #run(sector: number, source: Uint8Array, target: Uint8Array, encrypts: boolean): void {
    if (source.length % this.#sectorSize !== 0 || !Number.isInteger(sector)) throw new RangeError('Only whole sectors can be encrypted');
    for (let at = 0; at < source.length; at += batchSize) {
      const length = Math.min(batchSize, source.length - at);
      const from = source.subarray(at, at + length);
      const to = target.subarray(at, at + length);
      const aligned = to.byteOffset % 4 === 0;
      const bytes = aligned ? to : room.subarray(0, length);
      const words = aligned ? new Int32Array(to.buffer, to.byteOffset, length / 4) : roomWords.subarray(0, length / 4);
      if (!aligned || source !== target) bytes.set(from);
      const first = sector + at / sectorUnit;
      const count = length / this.#sectorSize;
      if (encrypts) this.#cipher.encrypt(first, count, bytes, words);
      else this.#cipher.decrypt(first, count, bytes, words);
      if (!aligned) to.set(bytes);
    }
  }
}

class InitialVectors {
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #step: number;
  readonly #wide: boolean;
  readonly #numbered: boolean;
  readonly #essiv: BlockCipher | undefined;

  constructor({ ivGenerator, ivHash = 'sha256' }: CipherSpec, key: Uint8Array, sectorSize: number) {
    this.words = new Int32Array(batchSize / sectorSize * blockWords);
    this.#bytes = new Uint8Array(this.words.buffer);
    this.#step = sectorSize / sectorUnit;
    this.#numbered = ivGenerator !== undefined;
    this.#wide = ivGenerator !== 'plain';
    this.#essiv = ivGenerator === 'essiv' ? aes(essivKey(ivHash, key)) : undefined;
  }

  /** IVs of `count` sectors, four words each. */
  make(sector: number, count: number): Uint8Array {
    const { words } = this;
    const bytes = this.#bytes.subarray(0, count * blockWords * 4);
    words.fill(0, 0, count * blockWords);
    if (!this.#numbered) return bytes;
    for (let index = 0; index < count; index++) {
      const number = sector + index * this.#step;
      words[index * blockWords] = number % 2 ** 32;
      if (this.#wide) words[index * blockWords + 1] = Math.floor(number / 2 ** 32);
    }
    this.#essiv?.encrypt(bytes);
    return bytes;
  }
}

function essivKey(hash: string, key: Uint8Array): Uint8Array {
  const size = digestSize(hash);
  if (size === undefined) throw unsupported(`Hash algorithm '${hash}' not supported`);
  if (![16, 24, 32].includes(size)) throw unsupported(`No AES cipher with key size ${size} available`);
  return digest(hash, key);
}

class Xts implements BatchCipher {
  readonly #data: BlockCipher;
  readonly #tweak: BlockCipher;
  readonly #ivs: InitialVectors;
  readonly #sectorWords: number;

  constructor(data: BlockCipher, tweak: BlockCipher, ivs: InitialVectors, sectorSize: number) {
    this.#data = data;
    this.#tweak = tweak;
    this.#ivs = ivs;
    this.#sectorWords = sectorSize / 4;
  }

  encrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void {
    this.#spread(sector, count, words);
    this.#data.encrypt(bytes);
    xorWords(words, sideWords, words.length);
  }

  decrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void {
    this.#spread(sector, count, words);
    this.#data.decrypt(bytes);
    xorWords(words, sideWords, words.length);
  }

  /** Makes the tweak of every block, each twice (in the field of 2^128) the one before, and adds it to the block. */
  #spread(sector: number, count: number, words: Int32Array): void {
    const sectorWords = this.#sectorWords;
    this.#tweak.encrypt(this.#ivs.make(sector, count));
    const start = this.#ivs.words;
    const tweaks = sideWords;
    for (let index = 0, at = 0; index < count; index++) {
      let a = start[index * 4]!;
      let b = start[index * 4 + 1]!;
      let c = start[index * 4 + 2]!;
      let d = start[index * 4 + 3]!;
      for (const end = at + sectorWords; at < end; at += 4) {
        tweaks[at] = a;
        tweaks[at + 1] = b;
        tweaks[at + 2] = c;
        tweaks[at + 3] = d;
        words[at]! ^= a;
        words[at + 1]! ^= b;
        words[at + 2]! ^= c;
        words[at + 3]! ^= d;
        const carry = d >> 31;
        d = (d << 1) | (c >>> 31);
        c = (c << 1) | (b >>> 31);
        b = (b << 1) | (a >>> 31);
        a = (a << 1) ^ (carry & 0x87);
      }
    }
  }
}

class Cbc implements BatchCipher {
  readonly #cipher: BlockCipher;
  readonly #ivs: InitialVectors;
  readonly #sectorWords: number;

  constructor(cipher: BlockCipher, ivs: InitialVectors, sectorSize: number) {
    this.#cipher = cipher;
    this.#ivs = ivs;
    this.#sectorWords = sectorSize / 4;
  }

  /** A block depends on the one before it, but not on other sectors: all sectors advance together. */
  encrypt(sector: number, count: number, _bytes: Uint8Array, words: Int32Array): void {
    const lanes = this.#ivs.make(sector, count);
    const lane = this.#ivs.words;
    const sectorWords = this.#sectorWords;
    for (let block = 0; block < sectorWords; block += blockWords) {
      for (let index = 0, at = block, q = 0; index < count; index++, at += sectorWords, q += blockWords) {
        lane[q]! ^= words[at]!;
        lane[q + 1]! ^= words[at + 1]!;
        lane[q + 2]! ^= words[at + 2]!;
        lane[q + 3]! ^= words[at + 3]!;
      }
      this.#cipher.encrypt(lanes);
      for (let index = 0, at = block, q = 0; index < count; index++, at += sectorWords, q += blockWords) {
        words[at] = lane[q]!;
        words[at + 1] = lane[q + 1]!;
        words[at + 2] = lane[q + 2]!;
        words[at + 3] = lane[q + 3]!;
      }
    }
  }

  decrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void {
    this.#ivs.make(sector, count);
    const sectorWords = this.#sectorWords;
    // What each block is combined with: the encrypted block before it, or its sector's IV.
    sideWords.set(words.subarray(0, words.length - blockWords), blockWords);
    for (let index = 0; index < count; index++) {
      for (let word = 0; word < blockWords; word++) sideWords[index * sectorWords + word] = this.#ivs.words[index * blockWords + word]!;
    }
    this.#cipher.decrypt(bytes);
    xorWords(words, sideWords, words.length);
  }
}

class Ctr implements BatchCipher {
  readonly #cipher: BlockCipher;
  readonly #ivs: InitialVectors;
  readonly #sectorSize: number;

  constructor(cipher: BlockCipher, ivs: InitialVectors, sectorSize: number) {
    this.#cipher = cipher;
    this.#ivs = ivs;
    this.#sectorSize = sectorSize;
  }

  encrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void {
    const ivs = this.#ivs.make(sector, count);
    for (let index = 0, at = 0; index < count; index++) {
      const counter = ivs.slice(index * 16, index * 16 + 16);
      for (const end = at + this.#sectorSize; at < end; at += 16) {
        sideBytes.set(counter, at);
        for (let digit = 15; digit >= 0 && (counter[digit] = (counter[digit]! + 1) & 255) === 0; digit--);
      }
    }
    this.#cipher.encrypt(sideBytes.subarray(0, bytes.length));
    xorWords(words, sideWords, words.length);
  }

  decrypt(sector: number, count: number, bytes: Uint8Array, words: Int32Array): void {
    this.encrypt(sector, count, bytes, words);
  }
}

class Ecb implements BatchCipher {
  readonly #cipher: BlockCipher;

  constructor(cipher: BlockCipher) {
    this.#cipher = cipher;
  }

  encrypt(_sector: number, _count: number, bytes: Uint8Array): void {
    this.#cipher.encrypt(bytes);
  }

  decrypt(_sector: number, _count: number, bytes: Uint8Array): void {
    this.#cipher.decrypt(bytes);
  }
}

function xorWords(target: Int32Array, source: Int32Array, count: number): void {
  for (let index = 0; index < count; index++) target[index]! ^= source[index]!;
}

function unsupported(message: string): BlockError {
  return new BlockError('NOT_SUPPORTED', message);
}
