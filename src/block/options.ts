/**
 * Option schemas and the one dictionary they all end in: `-o`, `--image-opts`, `json:{}`, blockdev-add, help and types.
 */
import { parseSize } from '../util/units.js';
import { BlockError } from './errors.js';
export type OptionValue = string | number | boolean | null | undefined | readonly OptionValue[] | { readonly [key: string]: OptionValue };

export interface OptionField {
  readonly type: 'string' | 'boolean' | 'size' | 'number' | 'enum' | 'object' | 'any';
  readonly values?: readonly string[];
  readonly required?: boolean;
  readonly default?: OptionValue;
  readonly help?: string;
  /** Changes what the guest sees, so it belongs in a json:{} filename (default true). */
  readonly strong?: boolean;
  /** May be changed while the node is open (default false). */
  readonly mutable?: boolean;
}
/** Fields by QAPI name ('lazy-refcounts'). Children are not fields: the driver declares them. */
export type OptionSchema<O extends object> = { readonly [K in keyof O]-?: OptionField };

export interface CreateField {
  readonly type: 'string' | 'boolean' | 'size' | 'number';
  /** Text as `-o help` shows it. */
  readonly help: string;
  /** Default as help shows it and create applies it. */
  readonly default?: string | number | boolean;
  /** For the name of a format: what is said of one that nobody knows, where it differs. */
  readonly refusal?: (format: string) => string;
  /** QEMU has no such option: under its tools' names it is neither shown nor taken. */
  readonly beyondPeer?: boolean;
  /** Values that QEMU does not know: under its tools' names they are refused. */
  readonly beyondPeerValues?: readonly string[];
}
/** Create options by QEMU's `-o` names ('cluster_size'). */
export type CreateSchema = Readonly<Record<string, CreateField>>;

/** Decimal, or with C's prefixes octal and hexadecimal. */
function parseNumber(name: string, value: unknown): number {
  const [, sign, digits] = (typeof value === 'string' && /^([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)$/i.exec(value)) || [];
  if (digits === undefined) throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects a number`);
  const magnitude = Number(digits.replace(/^0(?=[0-7])/, '0o'));
  if (magnitude >= 2 ** 64) throw new BlockError('INVALID_ARGUMENT', `Value '${String(value)}' is too large for parameter '${name}'`);
  if (!Number.isSafeInteger(magnitude)) throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects integer`);
  return sign === '-' ? -magnitude : magnitude;
}

/** Brings one value to its field's type; strings are parsed as the command line writes them. */
export function coerceOption(name: string, field: OptionField, value: unknown): OptionValue {
  switch (field.type) {
    case 'boolean':
      if (typeof value === 'boolean') return value;
      if (value === 'on' || value === 'true' || value === 'yes' || value === 'y') return true;
      if (value === 'off' || value === 'false' || value === 'no' || value === 'n') return false;
      throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects 'on' or 'off'`);
    case 'size': {
      const parsed = typeof value === 'string' ? parseSize(value) : value;
      if (parsed === 'range') throw new BlockError('INVALID_ARGUMENT', `Value '${String(value)}' is out of range for parameter '${name}'`);
      if (typeof parsed === 'number' && Number.isInteger(parsed) && parsed >= 0) return parsed;
      throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects a non-negative number below 2^64`, {
        hint: 'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.',
      });
    }
    case 'number':
      return typeof value === 'number' ? value : parseNumber(name, value);
    case 'enum':
      if (typeof value === 'string' && field.values?.includes(value)) return value;
      throw new BlockError('INVALID_ARGUMENT', `invalid parameter value: ${String(value)}`);
    case 'string':
      if (typeof value === 'string') return value;
      if (typeof value === 'number' || typeof value === 'boolean') return String(value);
      throw new BlockError('INVALID_ARGUMENT', `Invalid parameter type for '${name}', expected: string`);
    case 'object':
    case 'any':
      return value as OptionValue;
  }
}
