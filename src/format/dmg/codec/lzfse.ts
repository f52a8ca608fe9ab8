/** LZFSE: blocks that are stored, LZVN, or literals and references behind finite-state entropy codes. Little-endian. */
import { viewOf } from '../../../util/view.js';
import { copyBack } from './copy.js';
import { decodeLzvn } from './lzvn.js';

const Block = { END: 0x24787662, STORED: 0x2d787662, PLAIN_TABLES: 0x31787662, PACKED_TABLES: 0x32787662, LZVN: 0x6e787662 } as const;
const packedHeaderSize = 32;
const plainHeaderSize = 50;

const literalStateCount = 1024;
const mostLiterals = 40_000;
/** Literal lengths, match lengths, distances, literals. */
const symbolCounts = [20, 20, 64, 256] as const;

/** Extra bits of each symbol; the values a symbol stands for follow those of the one before. */
interface ValueCode { readonly states: number; readonly extraBits: readonly number[] }
const none = (count: number): number[] => new Array<number>(count).fill(0);
const literalLengths: ValueCode = { states: 64, extraBits: [...none(16), 2, 3, 5, 8] };
const matchLengths: ValueCode = { states: 64, extraBits: [...none(16), 3, 5, 8, 11] };
const distances: ValueCode = { states: 256, extraBits: Array.from({ length: 64 }, (_, symbol) => symbol >>> 2) };

/** Fills target. @throws Error where the stream is broken or ends early */
export function decodeLzfse(source: Uint8Array, target: Uint8Array): void {
  const view = viewOf(source);
  let from = 0;
  for (let at = 0; at < target.length;) {
    if (from + 12 > source.length) throw new Error('LZFSE data ends early');
    const magic = view.getUint32(from, true);
    const length = view.getUint32(from + 4, true);
    const room = target.subarray(0, Math.min(target.length, at + length));
    let packed: number;
    switch (magic) {
      case Block.STORED:
        packed = 8 + length;
        room.set(source.subarray(from + 8, from + 8 + room.length - at), at);
        break;
      case Block.LZVN:
        packed = 12 + view.getUint32(from + 8, true);
        decodeLzvn(source.subarray(from + 12, from + packed), room, at);
        break;
      case Block.PACKED_TABLES:
        packed = decodeBlock(source.subarray(from), packedHeader, room, at);
        break;
      case Block.PLAIN_TABLES:
        packed = decodeBlock(source.subarray(from), plainHeader, room, at);
        break;
      default:
        throw new Error(magic === Block.END ? 'LZFSE data ends early' : 'LZFSE data is broken');
    }
    from += packed;
    at = room.length;
    if (from > source.length) throw new Error('LZFSE data ends early');
  }
}

/** Bits taken from the end of their bytes towards the start. */
class BackwardBits {
  readonly #bytes: Uint8Array;
  #at: number;

  /** @param unused bits at the end that mean nothing */
  constructor(bytes: Uint8Array, unused: number) {
    this.#bytes = bytes;
    this.#at = bytes.length * 8 - unused;
  }

  take(bits: number): number {
    this.#at -= bits;
    if (this.#at < 0) throw new Error('LZFSE data ends early');
    const first = this.#at >>> 3;
    const bytes = this.#bytes;
    const word = bytes[first]! | ((bytes[first + 1] ?? 0) << 8) | ((bytes[first + 2] ?? 0) << 16) | ((bytes[first + 3] ?? 0) << 24);
    return (word >>> (this.#at & 7)) & ((1 << bits) - 1);
  }
}

/** By state: the symbol, how many bits the next state takes, and what is added to them. */
interface StateTable { readonly symbol: Uint16Array; readonly bits: Uint8Array; readonly base: Uint16Array }

function stateTable(frequencies: ArrayLike<number>, states: number): StateTable {
  const table = { symbol: new Uint16Array(states), bits: new Uint8Array(states), base: new Uint16Array(states) };
  let state = 0;
  for (let symbol = 0; symbol < frequencies.length; symbol++) {
    const count = frequencies[symbol]!;
    if (count === 0) continue;
    if (state + count > states) throw new Error('LZFSE data is broken');
    const bits = Math.clz32(count) - Math.clz32(states);
    const longer = ((2 * states) >>> bits) - count;
    for (let index = 0; index < count; index++, state++) {
      const many = index < longer;
      table.symbol[state] = symbol;
      table.bits[state] = many ? bits : bits - 1;
      table.base[state] = many ? ((count + index) << bits) - states : (index - longer) << (bits - 1);
    }
  }
  if (state !== states) throw new Error('LZFSE data is broken');
  return table;
}

class ValueReader {
  readonly #table: StateTable;
  readonly #extraBits: readonly number[];
  readonly #base: readonly number[];
  #state: number;

  constructor(frequencies: ArrayLike<number>, { states, extraBits }: ValueCode, state: number) {
    if (state >= states) throw new Error('LZFSE data is broken');
    this.#table = stateTable(frequencies, states);
    this.#extraBits = extraBits;
    let base = 0;
    this.#base = extraBits.map((bits) => (base += 2 ** bits) - 2 ** bits);
    this.#state = state;
  }

  next(bits: BackwardBits): number {
    const state = this.#state;
    const symbol = this.#table.symbol[state]!;
    this.#state = this.#table.base[state]! + bits.take(this.#table.bits[state]!);
    const extra = this.#extraBits[symbol]!;
    return this.#base[symbol]! + (extra === 0 ? 0 : bits.take(extra));
  }
}

interface BlockHeader {
  readonly size: number;
  readonly literals: number;
  readonly literalBytes: number;
  readonly matches: number;
  readonly matchBytes: number;
  /** Bits at the end of the two streams that mean nothing. */
  readonly unused: readonly [literals: number, matches: number];
  readonly literalStates: number[];
  /** Of literal length, match length, distance. */
  readonly states: readonly [number, number, number];
  readonly frequencies: readonly Uint16Array[];
}

function packedHeader(source: Uint8Array): BlockHeader {
  if (source.length < packedHeaderSize) throw new Error('LZFSE data ends early');
  const view = viewOf(source);
  const words = [8, 16, 24].map((offset) => view.getBigUint64(offset, true));
  const field = (word: number, offset: number, bits: number): number => Number((words[word]! >> BigInt(offset)) & ((1n << BigInt(bits)) - 1n));
  const size = field(2, 0, 32);
  if (size < packedHeaderSize || size > source.length) throw new Error('LZFSE data is broken');
  return {
    size,
    literals: field(0, 0, 20), literalBytes: field(0, 20, 20), matches: field(0, 40, 20), matchBytes: field(1, 40, 20),
    unused: [7 - field(0, 60, 3), 7 - field(1, 60, 3)],
    literalStates: [0, 10, 20, 30].map((offset) => field(1, offset, 10)),
    states: [field(2, 32, 10), field(2, 42, 10), field(2, 52, 10)],
    frequencies: readFrequencies(source.subarray(packedHeaderSize, size)),
  };
}

/** The structure is packed: 50 bytes of fields, then 16 bits for each frequency, no padding behind the last. */
function plainHeader(source: Uint8Array): BlockHeader {
  const size = plainHeaderSize + 2 * symbolCounts.reduce((sum, count) => sum + count, 0);
  if (source.length < size) throw new Error('LZFSE data ends early');
  const view = viewOf(source);
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const u16 = (offset: number): number => view.getUint16(offset, true);
  const unused = (offset: number): number => {
    const bits = -view.getInt32(offset, true);
    if (bits < 0 || bits > 7) throw new Error('LZFSE data is broken');
    return bits;
  };
  let at = plainHeaderSize;
  return {
    size,
    literals: u32(12), matches: u32(16), literalBytes: u32(20), matchBytes: u32(24),
    unused: [unused(28), unused(40)],
    literalStates: [32, 34, 36, 38].map(u16),
    states: [u16(44), u16(46), u16(48)],
    frequencies: symbolCounts.map((count) => Uint16Array.from({ length: count }, () => u16((at += 2) - 2))),
  };
}

/** Returns the bytes the block takes. */
function decodeBlock(source: Uint8Array, readHeader: (source: Uint8Array) => BlockHeader, target: Uint8Array, start: number): number {
  const { size, literals: literalCount, literalBytes, matches, matchBytes, unused, literalStates, states: [forLiterals, forMatch, forDistance], frequencies } = readHeader(source);
  const end = size + literalBytes + matchBytes;
  if (end > source.length || literalCount > mostLiterals || literalStates.some((state) => state >= literalStateCount)) throw new Error('LZFSE data is broken');
  const literalStream = new BackwardBits(source.subarray(size, size + literalBytes), unused[0]);
  const literals = readLiterals(literalStream, stateTable(frequencies[3]!, literalStateCount), literalCount, literalStates);

  const stream = new BackwardBits(source.subarray(size + literalBytes, end), unused[1]);
  const literalLength = new ValueReader(frequencies[0]!, literalLengths, forLiterals);
  const matchLength = new ValueReader(frequencies[1]!, matchLengths, forMatch);
  const distanceOf = new ValueReader(frequencies[2]!, distances, forDistance);
  let at = start;
  let taken = 0;
  let distance = 0;
  for (let match = 0; match < matches && at < target.length; match++) {
    const plain = literalLength.next(stream);
    const length = matchLength.next(stream);
    distance = distanceOf.next(stream) || distance;
    if (taken + plain > literalCount) throw new Error('LZFSE data is broken');
    const shown = Math.min(plain, target.length - at);
    target.set(literals.subarray(taken, taken + shown), at);
    taken += plain;
    at += shown;
    const copied = Math.min(length, target.length - at);
    if (copied > 0) copyBack(target, at, distance, copied);
    at += copied;
  }
  if (at !== target.length) throw new Error('LZFSE data ends early');
  return end;
}

/** Four interleaved streams of states share one of bits. */
function readLiterals(bits: BackwardBits, table: StateTable, count: number, states: number[]): Uint8Array {
  const literals = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    const state = states[index & 3]!;
    literals[index] = table.symbol[state]!;
    states[index & 3] = table.base[state]! + bits.take(table.bits[state]!);
  }
  return literals;
}

/** Frequencies have codes of 2 to 14 bits, small values the short ones; bits are taken lowest first. */
function readFrequencies(bytes: Uint8Array): Uint16Array[] {
  let held = 0;
  let count = 0;
  let from = 0;
  return symbolCounts.map((size) => {
    const frequencies = new Uint16Array(size);
    for (let symbol = 0; symbol < size; symbol++) {
      while (count < 14 && from < bytes.length) {
        held |= bytes[from++]! << count;
        count += 8;
      }
      const { bits, value } = frequency(held);
      if (bits > count) throw new Error('LZFSE data ends early');
      frequencies[symbol] = value;
      held >>>= bits;
      count -= bits;
    }
    return frequencies;
  });
}

function frequency(word: number): { bits: number; value: number } {
  if ((word & 1) === 0) return { bits: 2, value: (word >>> 1) & 1 };
  if ((word & 2) === 0) return { bits: 3, value: 2 + ((word >>> 2) & 1) };
  if ((word & 4) === 0) return { bits: 5, value: 4 + ((word >>> 3) & 3) };
  return (word & 8) === 0 ? { bits: 8, value: 8 + ((word >>> 4) & 15) } : { bits: 14, value: 24 + ((word >>> 4) & 0x3ff) };
}
