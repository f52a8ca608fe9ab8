import { describe, expect, it } from 'vitest';
import { formatBytes, formatHundredths, formatSize, parseSize } from './units.js';

describe('parseSize', () => {
  it.each([
    ['0', 0], ['512', 512], ['1b', 1], ['1k', 1024], ['1K', 1024], ['64M', 67108864], ['1.5k', 1536], ['.5k', 512], ['5.k', 5120], [' 5k', 5120], ['+5k', 5120],
    ['1.0', 1], ['0x10', 16], ['1.1k', 1126], ['7E', 7 * 2 ** 60], ['18446744073709551615', 2 ** 64],
  ])('%s', (text, bytes) => expect(parseSize(text)).toBe(bytes));
  it.each(['', 'k', 'abc', '1kk', '1Q', '1e3', '-1k', '1.5', '0x10k', '0x', '.', '1 k', '1 '])('refuses %j', (text) => expect(parseSize(text)).toBe('invalid'));
  it.each(['-1', '16E', '18446744073709551616', '99999999999999999999'])('%s is out of range', (text) => expect(parseSize(text)).toBe('range'));
  it('applies the default suffix to bare numbers only', () => {
    expect(parseSize('3', 'M')).toBe(3 * 2 ** 20);
    expect(parseSize('3k', 'M')).toBe(3072);
  });
});

it.each([
  [0, '0 B'], [1, '1 B'], [512, '512 B'], [999, '999 B'], [1000, '0.977 KiB'], [1024, '1 KiB'], [65536, '64 KiB'], [1000448, '977 KiB'],
  [1024000, '0.977 MiB'], [1500000256, '1.4 GiB'], [1000000000000, '931 GiB'], [197120, '192 KiB'], [2 ** 60, '1 EiB'],
])('formatSize(%d)', (bytes, text) => expect(formatSize(bytes)).toBe(text));

it.each([[3.125, '3.12'], [9.375, '9.38'], [1.145, '1.15'], [0.005, '0.01'], [66.666, '66.67'], [100, '100.00'], [0.125, '0.12'], [0.375, '0.38']])('formatHundredths(%d)', (value, text) => {
  expect(formatHundredths(value)).toBe(text);
});

it('writes large byte counts with all their digits', () => {
  expect(formatBytes(7.5 * 2 ** 60)).toBe('8646911284551352320');
});
