import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { escapeCommas, flattenOptions, nestOptions, parseJsonFilename, parseKeyValues } from './key-values.js';

describe('parseKeyValues', () => {
  const entries = (text: string, implied?: string) => [...parseKeyValues(text, implied).values];
  it('reads pairs, doubled commas and repeats', () => {
    expect(entries('a=1,b=x,,y,a=2')).toEqual([['a', '2'], ['b', 'x,y']]);
    expect(entries('a=b=c')).toEqual([['a', 'b=c']]);
    expect(entries('a=,b=')).toEqual([['a', ''], ['b', '']]);
  });
  it('gives the first bare item to the implied key', () => {
    expect(entries('disk.img,cache=none', 'file')).toEqual([['file', 'disk.img'], ['cache', 'none']]);
  });
  it('understands flags and help', () => {
    const parsed = parseKeyValues('lazy,nocow,help');
    expect([...parsed.values]).toEqual([['lazy', 'on'], ['cow', 'off']]);
    expect(parsed.shorthand).toEqual([{ written: 'lazy', meant: 'lazy=on' }, { written: 'nocow', meant: 'cow=off' }]);
    expect(parsed.help).toBe(true);
    expect(parseKeyValues('?').help).toBe(true);
  });
  it('finds back any value that was escaped', () => {
    fc.assert(fc.property(fc.string(), fc.string(), (a, b) => {
      expect(entries(`x=${escapeCommas(a)},y=${escapeCommas(b)}`)).toEqual([['x', a], ['y', b]]);
    }));
  });
});

describe('nestOptions', () => {
  it('nests dotted keys and numbers lists', () => {
    expect(nestOptions({ driver: 'raw', 'file.driver': 'file', 'file.x.0': 'a', 'file.x.1': 'b' })).toEqual({ driver: 'raw', file: { driver: 'file', x: ['a', 'b'] } });
  });
  it('merges a dictionary with dotted keys beside it', () => {
    expect(nestOptions({ 'file.driver': 'file', file: { filename: 'f' } })).toEqual({ file: { driver: 'file', filename: 'f' } });
  });
  it('leaves a dotted key alone where a plain value is in the way', () => {
    expect(nestOptions({ file: 'a', 'file.driver': 'file' })).toEqual({ file: 'a', 'file.driver': 'file' });
  });
  it('is undone by flattenOptions', () => {
    const nested = { driver: 'raw', file: { driver: 'file', list: ['a', { b: 1 }], none: null } };
    expect(nestOptions(flattenOptions(nested))).toEqual(nested);
  });
  it('keeps names that mean something to JavaScript harmless', () => {
    expect(Object.keys(nestOptions({ '__proto__.polluted': 'x' }))).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
});

it('parses json: names with the peer\'s complaints', () => {
  expect(parseJsonFilename(`json:{'driver':'raw','file.filename':'x'}`)).toEqual({ driver: 'raw', file: { filename: 'x' } });
  expect(() => parseJsonFilename('json:[]')).toThrow('Invalid JSON object given');
  expect(() => parseJsonFilename('json:')).toThrow('Could not parse the JSON options: Expecting a JSON value');
});
