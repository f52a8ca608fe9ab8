/** Sizes and numbers in arguments, with the peers' complaints. */
import { parseSize } from '../../util/units.js';
import { CliError } from './output.js';

const int64Max = 2n ** 63n - 1n;
/** C's INT_MAX, the largest of many counts. */
export const intMax = 2n ** 31n - 1n;

/**
 * A size argument: bytes, or with a suffix. `what` names it in complaints ('image size', 'sparse size').
 * @throws CliError
 */
export function sizeArgument(what: string, text: string, min = 0, max = int64Max): number {
  const size = parseSize(text, 'B', max);
  if (size === 'invalid') {
    throw new CliError(`Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for `, {
      continuation: 'kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.',
    });
  }
  if (size === 'range' || size < min) throw outOfRange(what, min, max);
  return size;
}

/** A count, which takes no suffix; `what` names it in complaints. @throws CliError */
export function numberArgument(what: string, text: string, min: number, max = intMax): number {
  const [, sign, digits] = /^\s*(-?)(.*)$/s.exec(text)!;
  const magnitude = parseNumber(digits!);
  if (magnitude === undefined) throw new CliError(`Invalid ${what} specified: '${text}'.`);
  const value = sign === '-' ? 0 - magnitude : magnitude;
  if (value < min || value > max) throw outOfRange(what, min, max);
  return value;
}

function outOfRange(what: string, min: number, max: bigint): CliError {
  return new CliError(`Invalid ${what} specified. Must be between ${min} and ${max}.`);
}

/** A plain unsigned number, decimal, octal or hexadecimal as C reads it; undefined where the text is none. */
export function parseNumber(text: string): number | undefined {
  const match = /^\s*\+?(0[xX][0-9a-fA-F]+|\d+)$/.exec(text);
  if (!match) return undefined;
  const digits = match[1]!;
  if (/^0\d/.test(digits)) return /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
  return Number(digits);
}
