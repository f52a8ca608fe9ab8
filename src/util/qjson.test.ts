import { describe, expect, it } from 'vitest';
import { parseQJson, printQJson } from './qjson.js';

describe('parseQJson', () => {
  it('reads both kinds of quotes, escapes and numbers', () => {
    expect(parseQJson(`{'a': "x\\u00e9\\n", "b": [1, -2.5e1, true, false, null], "c": {}}`)).toEqual({ a: 'xé\n', b: [1, -25, true, false, null], c: {} });
    expect(parseQJson('9223372036854775807')).toBe(9223372036854775807n);
  });
  it.each([
    ['', 'Expecting a JSON value'], ['{"driver":}', 'JSON parse error, expecting value'], ['{"driver":"raw"', 'JSON parse error, premature EOI'],
    ['{"a":1, "a":2}', 'JSON parse error, duplicate key'], ['{} x', 'Expecting at most one JSON value'], ['{"a":"\\q"}', 'JSON parse error, invalid escape sequence in string'],
    ['{a:1}', "JSON parse error, invalid keyword 'a'"], ['{"a":"b" "x"}', 'JSON parse error, expected separator in dict'], ['{"a":truex}', "JSON parse error, invalid keyword 'truex'"],
    ['{"x":012}', "JSON parse error, stray '01'"],
  ])('refuses %s', (text, message) => expect(() => parseQJson(text)).toThrow(message));
});

describe('printQJson', () => {
  it('orders members as the peer does', () => {
    const info = { 'virtual-size': 512, filename: 'x', format: 'raw', 'actual-size': 4096, 'dirty-flag': false, 'format-specific': {}, children: [], 'cluster-size': 65536 };
    expect(Object.keys(JSON.parse(printQJson(info)) as object))
      .toEqual(['children', 'virtual-size', 'filename', 'cluster-size', 'format', 'actual-size', 'format-specific', 'dirty-flag']);
  });
  it('lays lists and dictionaries out', () => {
    expect(printQJson({ children: [], data: [{ a: 1 }, 2] }, true)).toBe(
      '{\n    "children": [\n    ],\n    "data": [\n        {\n            "a": 1\n        },\n        2\n    ]\n}');
    expect(printQJson([[], {}, 'x'])).toBe('[[], {}, "x"]');
  });
  it('escapes all but printable ASCII', () => {
    expect(printQJson('hé\x7f\t"\\')).toBe('"h\\u00E9\\u007F\\t\\"\\\\"');
  });
});
