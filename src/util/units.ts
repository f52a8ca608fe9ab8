/** Sizes as people type and read them, by QEMU's rules. */

const suffixes = 'BKMGTPE';

/**
 * Bytes that `text` stands for: decimal or hexadecimal digits, or a decimal fraction, and an optional suffix b, k, M, G, T, P, E
 * (powers of 1024, either case). Without a suffix the unit is bytes, or `defaultSuffix`.
 * Values above 2^53 are rounded to the next double. 'invalid' where the text is no size, 'range' below 0 and beyond `max`.
 */
export function parseSize(text: string, defaultSuffix = 'B', max = 0xffff_ffff_ffff_ffffn): number | 'invalid' | 'range' {
  if (/^\s*-\d+$/.test(text)) return 'range';
  const hex = /^\s*\+?0[xX]([0-9a-fA-F]+)$/.exec(text);
  if (hex) return inRange(BigInt(`0x${hex[1]}`), max);
  const match = /^\s*\+?(\d+)(?:\.(\d*))?([bkmgtpe]?)$/i.exec(text) ?? /^\s*\+?(\d*)\.(\d+)([bkmgtpe]?)$/i.exec(text);
  if (!match) return 'invalid';
  const power = suffixes.indexOf((match[3] || defaultSuffix).toUpperCase());
  const fraction = Number(`0.${match[2] || '0'}`);
  if (fraction !== 0 && power === 0) return 'invalid';
  const unit = 1n << BigInt(power * 10);
  return inRange(BigInt(match[1] || '0') * unit + BigInt(Math.trunc(fraction * Number(unit))), max);
}

function inRange(value: bigint, max: bigint): number | 'range' {
  return value > max ? 'range' : Number(value);
}

/** "64 MiB", "0.977 KiB", "512 B": three significant digits. */
export function formatSize(bytes: number): string {
  const exponent = bytes === 0 ? 0 : Math.floor(Math.log2(bytes * 1.024)) + 1;
  const power = Math.max(0, Math.trunc((exponent - 1) / 10));
  return `${significant(bytes / 2 ** (power * 10), 3)} ${power === 0 ? '' : `${suffixes[power]}i`}B`;
}

/** A byte count without digits lost to the exponent form of large numbers. */
export function formatBytes(bytes: number): string {
  return Number.isInteger(bytes) ? BigInt(bytes).toString() : String(bytes);
}

/** C's `%.<digits>f`: unlike toFixed, a tie goes to the even digit. */
export function fixed(value: number, digits: number): string {
  const scaled = value * 10 ** digits;
  const below = Math.floor(scaled);
  return scaled - below === 0.5 ? ((below + below % 2) / 10 ** digits).toFixed(digits) : value.toFixed(digits);
}

/** C's `%.2f`: a tie goes to the even digit. */
export function formatHundredths(value: number): string {
  const tie = Number.isInteger(value * 8) && (value * 8) % 2 !== 0;
  const down = Math.floor(value * 100);
  return (tie && down % 2 === 0 ? down / 100 : value).toFixed(2);
}

/** C's `%.<digits>g`. */
function significant(value: number, digits: number): string {
  const [mantissa, exponent] = value.toExponential(digits - 1).split('e') as [string, string];
  const power = Number(exponent);
  if (power >= digits) return `${trimZeroes(mantissa)}e+${String(power).padStart(2, '0')}`;
  return trimZeroes(fixed(value, Math.max(0, digits - 1 - power)));
}

function trimZeroes(text: string): string {
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
}
