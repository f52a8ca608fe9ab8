/** LZFSE and LZVN encoders, small and slow, for tests: other programs decode what they make. */

interface Token { readonly literals: number; readonly length: number; readonly distance: number }

/** Greedy references of at least 4 bytes. The last token may be literals alone (length 0). */
function tokensOf(data: Uint8Array, limits: { readonly literals: number; readonly length: number; readonly distance: number }): Token[] {
  const seen = new Map<number, number>();
  const tokens: Token[] = [];
  let plain = 0;
  for (let at = 0; at < data.length;) {
    const key = at + 4 <= data.length ? data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) | (data[at + 3]! << 24) : undefined;
    const found = key === undefined ? undefined : seen.get(key);
    if (key !== undefined) seen.set(key, at);
    let length = 0;
    if (found !== undefined && at - found <= limits.distance) while (length < limits.length && at + length < data.length && data[found + length] === data[at + length]) length++;
    if (length >= 4) {
      tokens.push({ literals: plain, length, distance: at - found! });
      plain = 0;
      at += length;
    } else {
      plain++;
      at++;
      if (plain === limits.literals) {
        tokens.push({ literals: plain, length: 0, distance: 1 });
        plain = 0;
      }
    }
  }
  if (plain > 0) tokens.push({ literals: plain, length: 0, distance: 1 });
  return tokens;
}

const ascii = (text: string): number[] => [...text].map((character) => character.charCodeAt(0));
const u16 = (value: number): number[] => [value & 255, (value >>> 8) & 255];
const u32 = (value: number): number[] => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24];

export function encodeLzvnBlock(data: Uint8Array): Uint8Array {
  const out: number[] = [];
  let at = 0;
  let last = 0;
  for (const { literals, length, distance } of tokensOf(data, { literals: 271, length: 271, distance: 0xffff })) {
    let plain = literals;
    const take = (count: number): void => {
      out.push(...data.subarray(at, at + count));
      at += count;
    };
    if (plain > 3 || length === 0) {
      if (plain >= 16) out.push(0xe0, plain - 16);
      else out.push(0xe0 | plain);
      take(plain);
      plain = 0;
    }
    if (length === 0) continue;
    const first = Math.min(length, distance < 0x4000 && length > 10 ? 34 : 10);
    let rest = length - first;
    if (distance === last && plain === 0 && length >= 16) {
      out.push(0xf0, length - 16);
      rest = 0;
    } else if (first > 10) {
      out.push(0xa0 | (plain << 3) | ((first - 3) >>> 2), ((first - 3) & 3) | ((distance & 63) << 2), distance >>> 6);
    } else if (distance < 0x600 && (plain === 0 || (first - 3) << 3 <= 0x18)) {
      // longer ones with literals have codes that mean something else
      if (plain === 0 || (plain << 6 | (first - 3) << 3) < 0xa0) out.push((plain << 6) | ((first - 3) << 3) | (distance >>> 8), distance & 255);
      else {
        out.push(0xe0 | plain);
        take(plain);
        plain = 0;
        out.push(((first - 3) << 3) | (distance >>> 8), distance & 255);
      }
    } else {
      if (plain > 0) out.push(0xe0 | plain);
      take(plain);
      plain = 0;
      out.push(((first - 3) << 3) | 7, distance & 255, distance >>> 8);
    }
    take(plain);
    at += length;
    last = distance;
    for (; rest > 0; rest -= Math.min(rest, 15)) out.push(0xf0 | Math.min(rest, 15));
  }
  out.push(6, 0, 0, 0, 0, 0, 0, 0);
  return Uint8Array.from([...ascii('bvxn'), ...u32(data.length), ...u32(out.length), ...out]);
}

class BitWriter {
  readonly #bits: number[] = [];
  put(value: number, count: number): void {
    for (let bit = 0; bit < count; bit++) this.#bits.push((value >>> bit) & 1);
  }

  /** The bytes, and how many bits of the last one mean nothing. */
  done(): { bytes: number[]; unused: number } {
    const unused = (8 - (this.#bits.length % 8)) % 8;
    this.put(0, unused);
    const bytes: number[] = [];
    for (let at = 0; at < this.#bits.length; at += 8) bytes.push(this.#bits.slice(at, at + 8).reduce((byte, bit, index) => byte | (bit << index), 0));
    return { bytes, unused };
  }
}

/** Frequencies of the symbols that add up to `states`, each that occurs at least 1. */
function normalise(symbols: readonly number[], size: number, states: number): number[] {
  const counts = new Array<number>(size).fill(0);
  for (const symbol of symbols) counts[symbol]!++;
  if (symbols.length === 0) counts[0] = 1;
  const total = Math.max(1, symbols.length);
  const scaled = counts.map((count) => (count === 0 ? 0 : Math.max(1, Math.floor(count * states / total))));
  for (let surplus = scaled.reduce((sum, count) => sum + count, 0) - states; surplus !== 0;) {
    const largest = scaled.indexOf(Math.max(...scaled));
    const step = surplus > 0 ? Math.min(surplus, scaled[largest]! - 1) : surplus;
    scaled[largest]! -= step;
    surplus -= step;
  }
  return scaled;
}

/** Finds states backwards: which one, with that symbol, leads to the next? */
class StateEncoder {
  readonly #choices: { state: number; bits: number; base: number }[][];
  state = 0;

  constructor(frequencies: readonly number[], states: number) {
    let next = 0;
    this.#choices = frequencies.map((count) => {
      const choices: { state: number; bits: number; base: number }[] = [];
      const bits = count === 0 ? 0 : Math.floor(Math.log2(states)) - Math.floor(Math.log2(count));
      const longer = ((2 * states) >>> bits) - count;
      for (let index = 0; index < count; index++, next++) {
        choices.push(index < longer
          ? { state: next, bits, base: ((count + index) << bits) - states }
          : { state: next, bits: bits - 1, base: (index - longer) << (bits - 1) });
      }
      return choices;
    });
  }

  put(out: BitWriter, symbol: number): void {
    const found = this.#choices[symbol]!.find(({ bits, base }) => this.state >= base && this.state < base + 2 ** bits)!;
    out.put(this.state - found.base, found.bits);
    this.state = found.state;
  }
}

const extraBits = {
  literals: [...new Array<number>(16).fill(0), 2, 3, 5, 8],
  lengths: [...new Array<number>(16).fill(0), 3, 5, 8, 11],
  distances: Array.from({ length: 64 }, (_, symbol) => symbol >>> 2),
};
const bases = (extra: readonly number[]): number[] => {
  let base = 0;
  return extra.map((bits) => (base += 2 ** bits) - 2 ** bits);
};
const symbolOf = (value: number, extra: readonly number[]): number => bases(extra).findLastIndex((base) => base <= value);

function frequencyBits(out: BitWriter, value: number): void {
  if (value <= 1) out.put(value << 1, 2);
  else if (value <= 3) out.put(1 | ((value - 2) << 2), 3);
  else if (value <= 7) out.put(3 | ((value - 4) << 3), 5);
  else if (value <= 23) out.put(7 | ((value - 8) << 4), 8);
  else out.put(15 | ((value - 24) << 4), 14);
}

/** One block with entropy-coded literals and references, its tables packed (`bvx2`) or plain (`bvx1`). `data` must give at most 40,000 literals. */
export function encodeLzfseBlock(data: Uint8Array, tableKind: 'packed' | 'plain' = 'packed'): Uint8Array {
  const tokens = tokensOf(data, { literals: 315, length: 2359, distance: 262_139 });
  const literals: number[] = [];
  let at = 0;
  for (const token of tokens) {
    literals.push(...data.subarray(at, at + token.literals));
    at += token.literals + token.length;
  }
  while (literals.length % 4 !== 0) literals.push(0);
  let last = 0;
  const coded = tokens.map(({ literals: plain, length, distance }) => {
    const shown = distance === last ? 0 : distance;
    last = distance;
    return { plain, length, shown };
  });
  const frequencies = [
    normalise(coded.map(({ plain }) => symbolOf(plain, extraBits.literals)), 20, 64),
    normalise(coded.map(({ length }) => symbolOf(length, extraBits.lengths)), 20, 64),
    normalise(coded.map(({ shown }) => symbolOf(shown, extraBits.distances)), 64, 256),
    normalise(literals, 256, 1024),
  ] as const;

  const literalBits = new BitWriter();
  const literalStates = [0, 1, 2, 3].map(() => new StateEncoder(frequencies[3], 1024));
  for (let index = literals.length - 1; index >= 0; index--) literalStates[index & 3]!.put(literalBits, literals[index]!);
  const literalPayload = literalBits.done();

  const bits = new BitWriter();
  // decoders may take eight bytes at a time
  for (let byte = 0; byte < 8; byte++) bits.put(0, 8);
  const encoders = [new StateEncoder(frequencies[0], 64), new StateEncoder(frequencies[1], 64), new StateEncoder(frequencies[2], 256)] as const;
  const putValue = (encoder: StateEncoder, value: number, extra: readonly number[]): void => {
    const symbol = symbolOf(value, extra);
    bits.put(value - bases(extra)[symbol]!, extra[symbol]!);
    encoder.put(bits, symbol);
  };
  for (const { plain, length, shown } of coded.toReversed()) {
    putValue(encoders[2], shown, extraBits.distances);
    putValue(encoders[1], length, extraBits.lengths);
    putValue(encoders[0], plain, extraBits.literals);
  }
  const payload = bits.done();
  const payloads = [...literalPayload.bytes, ...payload.bytes];

  if (tableKind === 'plain') {
    return Uint8Array.from([
      ...ascii('bvx1'), ...u32(data.length), ...u32(payloads.length), ...u32(literals.length), ...u32(tokens.length),
      ...u32(literalPayload.bytes.length), ...u32(payload.bytes.length), ...u32(-literalPayload.unused), ...literalStates.flatMap(({ state }) => u16(state)),
      ...u32(-payload.unused), ...encoders.flatMap(({ state }) => u16(state)), ...frequencies.flat().flatMap(u16), ...payloads,
    ]);
  }

  const tables = new BitWriter();
  for (const table of frequencies) for (const value of table) frequencyBits(tables, value);
  const packedTables = tables.done().bytes;
  const field = (value: number, offset: number): bigint => BigInt(value) << BigInt(offset);
  const header = new DataView(new ArrayBuffer(32));
  new Uint8Array(header.buffer).set([...ascii('bvx2'), ...u32(data.length)]);
  header.setBigUint64(8, field(literals.length, 0) | field(literalPayload.bytes.length, 20) | field(tokens.length, 40) | field(7 - literalPayload.unused, 60), true);
  header.setBigUint64(16, literalStates.reduce((sum, { state }, index) => sum | field(state, index * 10), 0n)
    | field(payload.bytes.length, 40) | field(7 - payload.unused, 60), true);
  header.setBigUint64(24, field(32 + packedTables.length, 0) | field(encoders[0].state, 32) | field(encoders[1].state, 42) | field(encoders[2].state, 52), true);
  return Uint8Array.from([...new Uint8Array(header.buffer), ...packedTables, ...payloads]);
}

function storedBlock(data: Uint8Array): Uint8Array {
  return Uint8Array.from([...ascii('bvx-'), ...u32(data.length), ...data]);
}

/** A stream of blocks of the kinds that 7-Zip 26.02 knows, which is all but `bvx1`. The last one is stored: 7-Zip takes all that follows such a block for part of it. */
export function encodeLzfse(data: Uint8Array): Uint8Array {
  const encoders = [(piece: Uint8Array): Uint8Array => encodeLzfseBlock(piece), encodeLzvnBlock];
  const out: number[] = [];
  for (let at = 0, turn = 0; at < data.length; turn++) {
    const piece = data.subarray(at, at + 20_000);
    at += piece.length;
    for (const byte of (at === data.length ? storedBlock : encoders[turn % encoders.length]!)(piece)) out.push(byte);
  }
  return Uint8Array.from([...out, ...ascii('bvx$')]);
}
