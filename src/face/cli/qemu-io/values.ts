/** Numbers in qemu-io's arguments and output. */
import { firstDifference } from '../../../platform/bytes.js';
import { clockMs } from '../../../platform/clock.js';
import { fixed, parseSize } from '../../../util/units.js';
import { CommandFailure, type Session } from './command.js';

/** Longest request in bytes: what 31 bits hold, in whole sectors. */
export const longestRequest = 2_147_483_136;

const largest = String(2n ** 63n - 1n);

/** An offset or length. */
export function parseQuantity(text: string): number {
  const size = /^\s*-\d/.test(text) ? 'range' : parseSize(text);
  if (size === 'range' || (typeof size === 'number' && size >= 2 ** 63 && text !== largest)) throw new CommandFailure(`Parsing error: argument too large -- ${text}`);
  if (size === 'invalid') throw new CommandFailure(`Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ${text}`);
  return size;
}

/** A byte to fill buffers with, or to expect: decimal, octal or hexadecimal. */
export function parsePattern(text: string): number {
  const digits = /^\s*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)$/.exec(text)?.[1];
  const value = digits === undefined ? NaN : /^0[0-7]/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
  if (!(value <= 255)) throw new CommandFailure(`${text} is not a valid pattern byte`);
  return value;
}

/** Lengths of a vectored request. */
export function parseLengths(texts: readonly string[]): number[] {
  let total = 0;
  return texts.map((text) => {
    const length = parseQuantity(text);
    if (length > longestRequest) throw new CommandFailure(`Argument '${text}' exceeds maximum size ${longestRequest}`);
    total += length;
    if (total > longestRequest) throw new CommandFailure(`The total number of bytes exceed the maximum size ${longestRequest}`);
    return length;
  });
}

const units = ['EiB', 'PiB', 'TiB', 'GiB', 'MiB', 'KiB'];

/** "64 KiB", "1.500 KiB", "513 bytes". */
export function formatQuantity(value: number): string {
  for (const [index, unit] of units.entries()) {
    const factor = 1024 ** (units.length - index);
    if (value >= factor) return `${fixed(value / factor, 3).replace('.000', '')} ${unit}`;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(6)} bytes`;
}

export interface Outcome {
  /** 'wrote', 'read', 'discard' */
  readonly verb: string;
  readonly offset: number;
  readonly length: number;
  readonly startedMs: number;
  /** One comma-separated line for programs. */
  readonly terse: boolean;
}

/** Statistics of a finished request. */
export function report({ io }: Session, { verb, offset, length, startedMs, terse }: Outcome): void {
  const seconds = (clockMs() - startedMs) / 1000;
  if (terse) {
    io.out(`${length},1,${clock(seconds)},${(length / seconds).toFixed(3)},${(1 / seconds).toFixed(3)}\n`);
    return;
  }
  io.out(`${verb} ${length}/${length} bytes at offset ${BigInt(offset)}\n`
    + `${formatQuantity(length)}, 1 ops; ${seconds < 60 ? `${hundredths(seconds)} sec` : clock(seconds)} `
    + `(${formatQuantity(length / seconds)}/sec and ${(1 / seconds).toFixed(4)} ops/sec)\n`);
}

function clock(seconds: number): string {
  return `${Math.floor(seconds / 3600)}:${String(Math.floor(seconds / 60) % 60).padStart(2, '0')}:${hundredths(seconds % 60)}`;
}

function hundredths(seconds: number): string {
  return (Math.floor(seconds * 100) / 100).toFixed(2).padStart(5, '0');
}

/** Bytes as hexadecimal and text, 16 a line. */
export function hexDump({ io }: Session, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length; at += 16) {
    const line = Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(16, bytes.length - at));
    const text = line.toString('latin1').replace(/[^0-9A-Za-z]/g, '.');
    io.out(`${(offset + at).toString(16).padStart(8, '0')}:  ${line.toString('hex').replace(/../g, '$& ')} ${text}\n`);
  }
}

/** Whether all bytes are `pattern`; says so where not. */
export function verifyPattern({ io }: Session, bytes: Uint8Array, pattern: number, offset: number): boolean {
  const expected = new Uint8Array(Math.min(bytes.length, 1 << 20)).fill(pattern);
  let at = 0;
  while (at < bytes.length && firstDifference(bytes.subarray(at, at + expected.length), expected.subarray(0, bytes.length - at)) < 0) at += expected.length;
  if (at >= bytes.length) return true;
  io.out(`Pattern verification failed at offset ${BigInt(offset)}, ${bytes.length} bytes\n`);
  return false;
}
