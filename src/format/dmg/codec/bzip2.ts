/** bzip2: blocks of sorted text, move-to-front, Huffman codes. */

const blockMagic = 0x3141_5926_5359;
const endMagic = 0x1772_4538_5090;
const longestCode = 20;
const groupSize = 50;

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c1_1db7 : crc << 1;
  return crc;
});

class Bits {
  readonly #bytes: Uint8Array;
  #at = 0;
  #held = 0;
  #count = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Up to 24 bits, the first one highest. */
  take(bits: number): number {
    while (this.#count < bits) {
      if (this.#at >= this.#bytes.length) throw new Error('bzip2 data ends early');
      this.#held = ((this.#held << 8) | this.#bytes[this.#at++]!) >>> 0;
      this.#count += 8;
    }
    this.#count -= bits;
    const value = this.#held >>> this.#count;
    this.#held &= (1 << this.#count) - 1;
    return value;
  }

  take48(): number {
    return this.take(24) * 0x100_0000 + this.take(24);
  }

  toByte(): void {
    this.#count -= this.#count % 8;
    this.#held &= (1 << this.#count) - 1;
  }
}

/** A Huffman code: symbols in the order of their codes, and where each length begins. */
interface Code {
  readonly symbols: Uint16Array;
  /** By length: the largest code of it (-1: none is so long), and what to subtract for the place in `symbols`. */
  readonly limit: Int32Array;
  readonly base: Int32Array;
}

function makeCode(lengths: Uint8Array): Code {
  const symbols = new Uint16Array(lengths.length);
  const limit = new Int32Array(longestCode + 2).fill(-1);
  const base = new Int32Array(longestCode + 2);
  let code = 0;
  let place = 0;
  for (let length = 1; length <= longestCode; length++) {
    base[length] = code - place;
    const first = code;
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      symbols[place++] = symbol;
      code++;
    }
    if (code > first) limit[length] = code - 1;
    code <<= 1;
  }
  return { symbols, limit, base };
}

function nextSymbol(bits: Bits, { symbols, limit, base }: Code): number {
  let code = 0;
  for (let length = 1; length <= longestCode; length++) {
    code = (code << 1) | bits.take(1);
    if (code <= limit[length]!) return symbols[code - base[length]!] ?? 0;
  }
  throw new Error('bzip2 data is broken');
}

/** Fills target. @throws Error where the stream is broken or ends early */
export function decodeBzip2(source: Uint8Array, target: Uint8Array): void {
  const bits = new Bits(source);
  let at = 0;
  while (at < target.length) {
    if (bits.take(24) !== 0x42_5a68) throw new Error('not bzip2 data');
    const level = bits.take(8) - 0x30;
    if (level < 1 || level > 9) throw new Error('bzip2 data is broken');
    const sorted = new Uint32Array(level * 100_000);
    for (let magic = bits.take48(); magic !== endMagic; magic = bits.take48()) {
      if (magic !== blockMagic) throw new Error('bzip2 data is broken');
      at = decodeBlock(bits, sorted, target, at);
      if (at === target.length) return;
    }
    bits.take(16);
    bits.take(16);
    bits.toByte();
  }
}

/** Returns where the next block's output begins. */
function decodeBlock(bits: Bits, sorted: Uint32Array, target: Uint8Array, start: number): number {
  const expected = ((bits.take(16) << 16) | bits.take(16)) >>> 0;
  if (bits.take(1) !== 0) throw new Error('randomised bzip2 blocks are not supported');
  const origin = bits.take(24);
  const counts = new Uint32Array(256);
  const length = readSorted(bits, sorted, counts);
  if (origin >= length) throw new Error('bzip2 data is broken');
  // The byte stays in the low bits of its word; the link to the next goes above it.
  for (let byte = 0, sum = 0; byte < 256; byte++) {
    const count = counts[byte]!;
    counts[byte] = sum;
    sum += count;
  }
  for (let index = 0; index < length; index++) {
    const byte = sorted[index]! & 0xff;
    sorted[counts[byte]!++]! |= index << 8;
  }
  let crc = 0xffff_ffff;
  let at = start;
  let word = sorted[origin]!;
  let run = 0;
  let last = -1;
  for (let index = 0; index < length; index++) {
    word = sorted[word >>> 8]!;
    const byte = word & 0xff;
    let repeat = 1;
    if (run === 4) {
      repeat = byte;
      run = 0;
    } else {
      run = byte === last ? run + 1 : 1;
      last = byte;
    }
    for (; repeat > 0; repeat--) {
      crc = (crc << 8) ^ crcTable[(crc >>> 24) ^ last]!;
      if (at === target.length) return at;
      target[at++] = last;
    }
    if (run === 0) last = -1;
  }
  if ((~crc >>> 0) !== expected) throw new Error('bzip2 data does not match its checksum');
  return at;
}

/** Undoes Huffman codes, runs and move-to-front: the block's last column, byte by byte. Returns its length. */
function readSorted(bits: Bits, sorted: Uint32Array, counts: Uint32Array): number {
  const used: number[] = [];
  const ranges = bits.take(16);
  for (let high = 0; high < 16; high++) {
    if ((ranges & (0x8000 >>> high)) === 0) continue;
    const members = bits.take(16);
    for (let low = 0; low < 16; low++) if ((members & (0x8000 >>> low)) !== 0) used.push(high * 16 + low);
  }
  if (used.length === 0) throw new Error('bzip2 data is broken');
  const { selectors, codes } = readCodes(bits, used.length + 2);
  const front = Uint8Array.from(used);
  const endOfBlock = used.length + 1;
  let length = 0;
  let group = 0;
  let left = 0;
  let code = codes[0]!;
  let run = 0;
  let weight = 1;
  for (;;) {
    if (left === 0) {
      if (group >= selectors.length) throw new Error('bzip2 data is broken');
      code = codes[selectors[group++]!]!;
      left = groupSize;
    }
    left--;
    const symbol = nextSymbol(bits, code);
    if (symbol <= 1) {
      run += weight << symbol;
      weight <<= 1;
      if (run > sorted.length) throw new Error('bzip2 data is broken');
      continue;
    }
    if (run > 0) {
      if (length + run > sorted.length) throw new Error('bzip2 data is broken');
      sorted.fill(front[0]!, length, length + run);
      counts[front[0]!]! += run;
      length += run;
      run = 0;
      weight = 1;
    }
    if (symbol === endOfBlock) return length;
    if (length === sorted.length) throw new Error('bzip2 data is broken');
    const byte = front[symbol - 1]!;
    front.copyWithin(1, 0, symbol - 1);
    front[0] = byte;
    sorted[length++] = byte;
    counts[byte]!++;
  }
}

function readCodes(bits: Bits, symbols: number): { selectors: Uint8Array; codes: Code[] } {
  const groups = bits.take(3);
  const count = bits.take(15);
  if (groups < 2 || groups > 6 || count === 0) throw new Error('bzip2 data is broken');
  const order = Array.from({ length: groups }, (_, index) => index);
  const selectors = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    let place = 0;
    while (bits.take(1) === 1) if (++place === groups) throw new Error('bzip2 data is broken');
    const [chosen = 0] = order.splice(place, 1);
    order.unshift(chosen);
    selectors[index] = chosen;
  }
  const codes = order.map(() => {
    const lengths = new Uint8Array(symbols);
    let length = bits.take(5);
    for (let symbol = 0; symbol < symbols; symbol++) {
      while (bits.take(1) === 1) length += bits.take(1) === 0 ? 1 : -1;
      if (length < 1 || length > longestCode) throw new Error('bzip2 data is broken');
      lengths[symbol] = length;
    }
    return makeCode(lengths);
  });
  return { selectors, codes };
}
