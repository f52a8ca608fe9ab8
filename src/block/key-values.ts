/** Options as people write them: `k=v,k2=v2`, dotted keys, `json:{…}`. All of it ends in one nested dictionary. */
import { parseQJson, printQJson, QJsonError, type QValue } from '../util/qjson.js';
import { BlockError } from './errors.js';

/** An option dictionary: strings where the text came from a command line, JSON values where it came from JSON. */
export type Options = { [key: string]: QValue };

export interface KeyValues {
  /** In the order written; a repeated key keeps its last value. */
  readonly values: Map<string, string>;
  /** `help` or `?` was among them. */
  readonly help: boolean;
  /** Keys written without a value ('foo' is on, 'nofoo' off) as they were written; the peer warns of them. */
  readonly shorthand: readonly { readonly written: string; readonly meant: string }[];
}

/**
 * Parses `k=v,flag,nootherflag`. A comma inside a value is written twice. The first item may lack its key where `implied` names
 * one (`--image-opts filename…`).
 */
export function parseKeyValues(text: string, implied?: string): KeyValues {
  const values = new Map<string, string>();
  const shorthand: { written: string; meant: string }[] = [];
  let help = false;
  let first = true;
  for (const item of splitItems(text)) {
    const equals = item.indexOf('=');
    if (equals >= 0) {
      values.set(item.slice(0, equals), item.slice(equals + 1).replaceAll(',,', ','));
    } else if (first && implied !== undefined) {
      values.set(implied, item.replaceAll(',,', ','));
    } else if (item === 'help' || item === '?') {
      help = true;
    } else if (item.startsWith('no')) {
      values.set(item.slice(2), 'off');
      shorthand.push({ written: item, meant: `${item.slice(2)}=off` });
    } else {
      values.set(item, 'on');
      shorthand.push({ written: item, meant: `${item}=on` });
    }
    first = false;
  }
  return { values, help, shorthand };
}

/** Items between single commas; a key ends at its comma, a value's doubled commas stay in it. */
function splitItems(text: string): string[] {
  const items: string[] = [];
  let rest = text;
  while (rest !== '') {
    const length = /^[^=,]*(?:=(?:[^,]|,,)*)?/.exec(rest)![0].length;
    items.push(rest.slice(0, length));
    rest = rest.slice(length + 1);
  }
  return items;
}

/** A value for use inside `k=v,…`. */
export function escapeCommas(value: string): string { return value.replaceAll(',', ',,'); }

/**
 * Turns dotted keys into nested dictionaries, and dictionaries whose keys are 0…n-1 into lists. Nested input is kept and merged.
 * Where a key is used both ways, the dotted one stays as it is.
 */
export function nestOptions(flat: Readonly<Record<string, QValue>>): Options {
  const root: Options = {};
  for (const [key, value] of Object.entries(flat)) {
    const fresh = isDictionary(value) ? nestOptions(value) : value;
    if (!place(root, key.split('.'), fresh)) setOwn(root, key, fresh);
  }
  return listify(root) as Options;
}

/** Puts a value at a path; false where a plain value is in the way. */
function place(root: Options, path: string[], value: QValue): boolean {
  const last = path.pop()!;
  let parent = root;
  for (const part of path) {
    const next = Object.hasOwn(parent, part) ? parent[part] : setOwn(parent, part, {});
    if (!isDictionary(next)) return false;
    parent = next;
  }
  const old = Object.hasOwn(parent, last) ? parent[last] : undefined;
  if (old === undefined) setOwn(parent, last, value);
  else if (isDictionary(old) && isDictionary(value)) Object.assign(old, value);
  else return false;
  return true;
}

function setOwn<T extends QValue>(place: Options, key: string, value: T): T {
  Object.defineProperty(place, key, { value, writable: true, enumerable: true, configurable: true });
  return value;
}

function listify(value: QValue): QValue {
  if (!isDictionary(value)) return value;
  const keys = Object.keys(value);
  for (const key of keys) setOwn(value, key, listify(value[key]));
  if (keys.length === 0 || !keys.every((_, index) => Object.hasOwn(value, String(index)))) return value;
  return keys.map((_, index) => value[String(index)]);
}

/** The inverse of nestOptions: one level, dotted keys; list items are numbered. Empty dictionaries and lists stay as they are. */
export function flattenOptions(nested: Readonly<Record<string, QValue>>, prefix = ''): Options {
  const flat: Options = {};
  for (const [key, value] of Object.entries(nested)) {
    const children = Array.isArray(value) ? Object.fromEntries((value as readonly QValue[]).map((item, index) => [String(index), item])) : value;
    if (isDictionary(children) && Object.keys(children).length > 0) Object.assign(flat, flattenOptions(children, `${prefix}${key}.`));
    else setOwn(flat, prefix + key, value);
  }
  return flat;
}

export function isDictionary(value: QValue): value is Options {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function isJsonFilename(filename: string): boolean { return filename.startsWith('json:'); }

/** The nested options behind a `json:{…}` filename. @throws BlockError INVALID_ARGUMENT with the peer's text */
export function parseJsonFilename(filename: string): Options {
  let value: QValue;
  try {
    value = parseQJson(filename.slice('json:'.length));
  } catch (error) {
    if (!(error instanceof QJsonError)) throw error;
    throw new BlockError('INVALID_ARGUMENT', `Could not parse the JSON options: ${error.message}`, { filename }, error);
  }
  if (!isDictionary(value)) throw new BlockError('INVALID_ARGUMENT', 'Invalid JSON object given', { filename });
  return nestOptions(value);
}

/** The filename that stands for nested options. */
export function formatJsonFilename(options: Readonly<Record<string, QValue>>): string { return `json:${printQJson(options)}`; }
