/**
 * JSON in QEMU's dialect: strings also in single quotes on input; on output the member order of QEMU's dictionaries, everything
 * outside printable ASCII escaped, and its own pretty layout.
 */
import { orderedEntries } from './key-order.js';

export type QValue = string | number | bigint | boolean | null | undefined | readonly QValue[] | { readonly [key: string]: QValue };

/** Message of a failed parse, in the peer's words. */
export class QJsonError extends Error {
  override readonly name = 'QJsonError';
}

/** Parses exactly one value. Integers beyond 2^53 become bigint. @throws QJsonError */
export function parseQJson(text: string): QValue {
  const parser = new Parser(text);
  if (parser.atEnd()) throw new QJsonError('Expecting a JSON value');
  const value = parser.value(0);
  if (!parser.atEnd()) throw new QJsonError('Expecting at most one JSON value');
  return value;
}

const maxDepth = 1024;
const simpleEscapes: Readonly<Record<string, string>> = { '"': '"', "'": "'", '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) { this.#text = text; }

  atEnd(): boolean {
    this.#skipSpace();
    return this.#at >= this.#text.length;
  }

  value(depth: number): QValue {
    if (depth > maxDepth) throw parseError('nesting too deep');
    if (this.atEnd()) throw parseError('premature EOI');
    const char = this.#text[this.#at]!;
    if (char === '{') return this.#object(depth);
    if (char === '[') return this.#array(depth);
    if (char === '"' || char === "'") return this.#string(char);
    if (/[-0-9]/.test(char)) return this.#number();
    const keyword = /^[a-z]+/.exec(this.#text.slice(this.#at, this.#at + 64))?.[0];
    if (keyword === undefined) throw parseError(',:}]'.includes(char) ? 'expecting value' : `stray '${char}'`);
    this.#at += keyword.length;
    if (keyword === 'true') return true;
    if (keyword === 'false') return false;
    if (keyword === 'null') return null;
    throw parseError(`invalid keyword '${keyword}'`);
  }

  #object(depth: number): QValue {
    const entries = new Map<string, QValue>();
    this.#at++;
    if (this.#skipTo('}')) return {};
    do {
      const key = this.value(depth + 1);
      if (typeof key !== 'string') throw parseError('key is not a string in object');
      if (!this.#skipTo(':')) throw parseError(this.atEnd() ? 'premature EOI' : 'missing : in object pair');
      const value = this.value(depth + 1);
      if (entries.has(key)) throw parseError('duplicate key');
      entries.set(key, value);
    } while (this.#separator('}', 'dict'));
    return Object.fromEntries(entries);
  }

  #array(depth: number): QValue {
    const items: QValue[] = [];
    this.#at++;
    if (this.#skipTo(']')) return items;
    do items.push(this.value(depth + 1)); while (this.#separator(']', 'list'));
    return items;
  }

  /** True after a comma, false after the closing bracket. */
  #separator(close: string, what: string): boolean {
    if (this.#skipTo(close)) return false;
    if (this.#skipTo(',')) return true;
    throw parseError(this.atEnd() ? 'premature EOI' : `expected separator in ${what}`);
  }

  #skipTo(char: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #string(quote: string): string {
    let result = '';
    const start = this.#at++;
    for (;;) {
      const char = this.#text[this.#at++];
      if (char === undefined) throw parseError('premature EOI');
      if (char === quote) return result;
      if (char < ' ') throw parseError(`stray '${this.#text.slice(start, this.#at)}'`);
      result += char === '\\' ? this.#escape() : char;
    }
  }

  #escape(): string {
    const char = this.#text[this.#at++] ?? '';
    if (char !== 'u') {
      const simple = simpleEscapes[char];
      if (simple === undefined) throw parseError('invalid escape sequence in string');
      return simple;
    }
    const digits = this.#text.slice(this.#at, this.#at + 4);
    if (!/^[0-9a-fA-F]{4}$/.test(digits) || digits === '0000') throw parseError('invalid escape sequence in string');
    this.#at += 4;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #number(): number | bigint {
    const rest = this.#text.slice(this.#at, this.#at + 400);
    const match = /^-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?/.exec(rest);
    if (!match || /^\d/.test(rest.slice(match[0].length))) throw parseError(`stray '${/^-?\d?\d?/.exec(rest)![0]}'`);
    this.#at += match[0].length;
    const value = Number(match[0]);
    return match[1] === undefined && match[2] === undefined && !Number.isSafeInteger(value) ? BigInt(match[0]) : value;
  }

  #skipSpace(): void {
    while (' \t\r\n'.includes(this.#text[this.#at] ?? 'x')) this.#at++;
  }
}

function parseError(message: string): QJsonError { return new QJsonError(`JSON parse error, ${message}`); }

/** QEMU's text for a value: `{"a": 1, "b": [2]}`, or over several lines with four spaces a level. Undefined members are left out. */
export function printQJson(value: QValue, pretty = false): string {
  return print(value, pretty ? '\n' : '');
}

function print(value: QValue, newline: string): string {
  if (typeof value === 'string') return quote(value);
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value).toString() : String(value);
  if (typeof value !== 'object' || value === null) return String(value ?? null);
  const inner = newline === '' ? '' : `${newline}    `;
  const separator = newline === '' ? ', ' : `,${inner}`;
  const list = (items: string[]): string => (items.length === 0 ? newline : inner + items.join(separator) + newline);
  if (isArray(value)) return `[${list(value.map((item) => print(item, inner)))}]`;
  return `{${list(orderedEntries(value).map(([name, member]) => `${quote(name)}: ${print(member as QValue, inner)}`))}}`;
}

function isArray(value: object): value is readonly QValue[] { return Array.isArray(value); }

const namedEscapes: Readonly<Record<string, string>> = { '"': '\\"', '\\': '\\\\', '\b': '\\b', '\f': '\\f', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** A string in quotes with everything but printable ASCII escaped. */
function quote(text: string): string {
   
  const escaped = text.replace(/["\\\u0000-\u001f\u007f-\uffff]/g, (char) =>
    namedEscapes[char] ?? `\\u${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`);
  return `"${escaped}"`;
}
