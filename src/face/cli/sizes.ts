/** Sizes and numbers in arguments, with the peers' complaints. */
import { formatBytes, parseSize } from '../../util/units.js';
import { CliError } from './output.js';

const int64Max = 2 ** 63;

/**
 * A size argument: bytes, or with a suffix. `what` names it in complaints ('image size', 'sparse size'); `max` is exclusive
 * only at its default, 2^63.
 * @throws CliError
 */
export function sizeArgument(what: string, text: string, min = 0, max = int64Max): number {
  const size = parseSize(text);
  if (size === 'invalid') {
    throw new CliError(`Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for `, {
      continuation: 'kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.',
    });
  }
  if (size === 'range' || size < min || size > max || size === int64Max) {
    const limit = max === int64Max ? '9223372036854775807' : formatBytes(max);
    throw new CliError(`Invalid ${what} specified. Must be between ${formatBytes(min)} and ${limit}.`);
  }
  return size;
}

/** A plain unsigned number, decimal, octal or hexadecimal as C reads it; undefined where the text is none. */
export function parseNumber(text: string): number | undefined {
  const match = /^\s*\+?(0[xX][0-9a-fA-F]+|\d+)$/.exec(text);
  if (!match) return undefined;
  const digits = match[1]!;
  if (/^0\d/.test(digits)) return /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
  return Number(digits);
}
