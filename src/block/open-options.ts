/** Options of an open, taken apart: what every node has, what children are given, what the driver declares. */
import type { QValue } from '../util/qjson.js';
import type { BlockDriver, OpenMode } from './driver.js';
import { BlockError } from './errors.js';
import type { OpenGate } from './gate.js';
import { flattenOptions } from './key-values.js';
import type { NodeSettings } from './node.js';
import { coerceOption, type OptionField } from './options.js';

/** What a node hands down to those below it. */
export interface Inherited {
  readonly readOnly: boolean;
  readonly autoReadOnly: boolean;
  readonly settings: NodeSettings;
  readonly mode: Omit<OpenMode, 'probed'>;
  readonly gate: OpenGate;
  readonly signal: AbortSignal | undefined;
  /** Filenames of the images above, nearest last: a reference to one of them is a loop. */
  readonly above: readonly string[];
  /** A filename stands for a file or URL as it is, not for an image whose format is to be found out. */
  readonly protocol: boolean;
}

const commonFields: Readonly<Record<string, OptionField>> = {
  'read-only': { type: 'boolean' }, 'auto-read-only': { type: 'boolean' }, 'force-share': { type: 'boolean' },
  discard: { type: 'enum', values: ['ignore', 'unmap', 'off', 'on'] }, 'detect-zeroes': { type: 'enum', values: ['off', 'on', 'unmap'] },
};
const cacheFields: Readonly<Record<string, OptionField>> = { direct: { type: 'boolean' }, 'no-flush': { type: 'boolean' } };

export function unknownDriver(name: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', `Unknown driver '${name}'`);
}

export function isDictionary(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `over` wins; dictionaries are merged. */
export function mergeOptions(base: Record<string, unknown>, over: Record<string, unknown>): Record<string, unknown> {
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    merged[key] = isDictionary(below) && isDictionary(value) ? mergeOptions(below, value) : value;
  }
  return merged;
}

export function takeString(options: Record<string, unknown>, key: string): string | undefined {
  const value = options[key];
  delete options[key];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function coerceCommon(key: string, field: OptionField, value: unknown): unknown {
  const known = field.type !== 'enum' || (typeof value === 'string' && field.values?.includes(value));
  if (!known) throw new BlockError('INVALID_ARGUMENT', key === 'discard' ? 'Invalid discard option' : `invalid parameter value: ${String(value)}`);
  return coerceOption(key, field, value);
}

/** Consumes the options every node has. */
export function takeCommon(options: Record<string, unknown>, inherited: Inherited): Inherited {
  const values: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(commonFields)) {
    if (options[key] === undefined) continue;
    values[key] = coerceCommon(key, field, options[key]);
    delete options[key];
  }
  const cache = options['cache'];
  delete options['cache'];
  const unknown: Record<string, unknown> = {};
  const cacheValues: Record<string, unknown> = {};
  if (isDictionary(cache)) {
    for (const [key, value] of Object.entries(cache)) {
      const field = cacheFields[key];
      if (field) cacheValues[key] = coerceOption(`cache.${key}`, field, value);
      else unknown[key] = value;
    }
  }
  // left for the driver to refuse in its own name
  if (Object.keys(unknown).length > 0) options['cache'] = unknown;
  const discard = values['discard'];
  const readOnly = values['read-only'] as boolean | undefined;
  const unmaps = discard === undefined ? inherited.settings.discard === 'unmap' : discard === 'unmap' || discard === 'on';
  if (values['detect-zeroes'] === 'unmap' && !unmaps) {
    throw new BlockError('INVALID_ARGUMENT', 'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap');
  }
  return {
    ...inherited,
    readOnly: readOnly ?? inherited.readOnly,
    autoReadOnly: (values['auto-read-only'] as boolean | undefined) ?? inherited.autoReadOnly,
    settings: {
      discard: unmaps ? 'unmap' : 'ignore',
      detectZeroes: (values['detect-zeroes'] as NodeSettings['detectZeroes'] | undefined) ?? inherited.settings.detectZeroes,
      direct: (cacheValues['direct'] as boolean | undefined) ?? inherited.settings.direct,
      noFlush: (cacheValues['no-flush'] as boolean | undefined) ?? inherited.settings.noFlush,
      forceShare: (values['force-share'] as boolean | undefined) ?? inherited.settings.forceShare,
    },
  };
}

/**
 * A format's own file takes discards whatever the guest may do, and is not scanned for zeroes again. Leaving out the backing chain is
 * said of the image that was asked for: one below it, of which it shows a part, has its own.
 */
export function childInheritance(inherited: Inherited): Inherited {
  return { ...inherited, settings: { ...inherited.settings, discard: 'unmap', detectZeroes: 'off' }, mode: { ...inherited.mode, noBacking: false } };
}

/** What the user gave for children that the image's metadata names. */
export function takeReferences(options: Record<string, unknown>, driver: BlockDriver): Record<string, unknown> {
  const references: Record<string, unknown> = {};
  for (const name of Object.keys(driver.children)) {
    if (!(name in options)) continue;
    references[name] = options[name];
    delete options[name];
  }
  return references;
}

export function coerceAll(driver: BlockDriver, options: Record<string, unknown>, own: Inherited): { values: object; explicit: Record<string, unknown> } {
  const { settings } = own;
  const fields = driver.options as Readonly<Record<string, OptionField>>;
  const values: Record<string, unknown> = { cache: { direct: settings.direct, 'no-flush': settings.noFlush }, 'auto-read-only': own.autoReadOnly };
  const explicit: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const field = fields[key] ?? fields[Object.keys(fields).find((name) => name.startsWith(`${key}.`)) ?? ''];
    if (!field) {
      if (driver.children[key.split('.')[0]!]) throw new BlockError('INVALID_ARGUMENT', 'Cannot reference an existing block device with additional options or a new filename');
      const [named = key] = Object.keys(flattenOptions({ [key]: value as QValue }));
      throw new BlockError('INVALID_ARGUMENT', driver.kind === 'protocol' || driver.protocolPrefixes
        ? `Block protocol '${driver.name}' doesn't support the option '${named}'`
        : `Block format '${driver.name}' does not support the option '${named}'`);
    }
    explicit[key] = value;
    if (fields[key]) values[key] = coerceOption(key, field, value);
    else for (const [inner, member] of Object.entries(value as Record<string, unknown>)) {
      const nested = fields[`${key}.${inner}`];
      if (!nested) throw new BlockError('INVALID_ARGUMENT', `Block ${driver.kind === 'protocol' ? 'protocol' : 'format'} '${driver.name}' does not support the option '${key}.${inner}'`);
      values[`${key}.${inner}`] = coerceOption(`${key}.${inner}`, nested, member);
    }
  }
  for (const [key, field] of Object.entries(fields)) {
    if (values[key] !== undefined) continue;
    if (field.required) throw new BlockError('INVALID_ARGUMENT', `Parameter '${key}' is missing`);
    if (field.default !== undefined) values[key] = field.default;
  }
  return { values, explicit };
}
