/** Changing options of open nodes in place. */
import { Perm } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode, NodeSettings } from './node.js';
import { coerceOption, type OptionField, type OptionValue } from './options.js';

export interface ReopenChange {
  readonly readOnly?: boolean;
  /** Nested options as for open; what is not named keeps its value. Options of children stand under the child's name. */
  readonly options?: Readonly<Record<string, unknown>>;
}

/** What becomes of one node. */
export interface ReopenStep {
  readonly node: BlockNode;
  readonly readOnly?: boolean;
  readonly settings: Partial<NodeSettings>;
  /** Changed options of the driver, typed. */
  readonly values: Readonly<Record<string, OptionValue>>;
}

const boolean: OptionField = { type: 'boolean' };

/** Checks a change and takes it apart, upper nodes first. Throws INVALID_ARGUMENT in the peer's words; nothing has changed then. */
export function planReopen(node: BlockNode, { readOnly, options = {} }: ReopenChange): ReopenStep[] {
  const settings: { -readonly [K in keyof NodeSettings]?: NodeSettings[K] } = {};
  const values: Record<string, OptionValue> = {};
  const below: ReopenStep[] = [];
  const fields = node.driver.options as Readonly<Record<string, OptionField>>;
  for (const [key, value] of Object.entries(options)) {
    if (key === 'driver') keep(key, value, node.driver.name);
    else if (key === 'node-name') keep(key, value, node.name);
    else if (key === 'read-only') readOnly = coerceOption(key, boolean, value) as boolean;
    else if (key === 'auto-read-only' || key === 'force-share') coerceOption(key, boolean, value);
    else if (key === 'discard') settings.discard = discardMode(value);
    else if (key === 'detect-zeroes') settings.detectZeroes = coerceOption(key, { type: 'enum', values: ['off', 'on', 'unmap'] }, value) as NodeSettings['detectZeroes'];
    else if (key === 'cache') Object.assign(settings, cacheSettings(value));
    else if (key in node.driver.children) below.push(...planChild(node, key, value));
    else {
      for (const [name, member] of members(key, value, fields)) {
        const field = fields[name];
        if (field?.mutable) values[name] = coerceOption(name, field, member);
        else keep(name, member, node.explicitOptions[name]);
      }
    }
  }
  if (readOnly === true && !node.readOnly && [...node.parents].some(({ take }) => (take & (Perm.WRITE | Perm.RESIZE)) !== 0)) {
    throw new BlockError('PERMISSION', `Read-only block node '${node.name}' cannot support read-write users`, { node: node.name });
  }
  return [{ node, ...(readOnly !== undefined && { readOnly }), settings, values }, ...below];
}

function planChild(node: BlockNode, name: string, value: unknown): ReopenStep[] {
  const child = node.children.get(name)?.node;
  if (typeof value === 'string' && value !== child?.name) throw new BlockError('NOT_FOUND', `Cannot find device='' nor node-name='${value}'`);
  if (child === undefined || typeof value !== 'object' || value === null) return [];
  return planReopen(child, { options: value as Record<string, unknown> });
}

/** An option, or those grouped under a dotted name. */
function members(key: string, value: unknown, fields: Readonly<Record<string, OptionField>>): [string, unknown][] {
  if (fields[key] !== undefined || typeof value !== 'object' || value === null) return [[key, value]];
  return Object.entries(value).map(([inner, member]) => [`${key}.${inner}`, member]);
}

function cacheSettings(value: unknown): Partial<NodeSettings> {
  const { direct, 'no-flush': noFlush, ...rest } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  for (const key of Object.keys(rest)) throw unchangeable(`cache.${key}`);
  return {
    ...(direct !== undefined && { direct: coerceOption('cache.direct', boolean, direct) as boolean }),
    ...(noFlush !== undefined && { noFlush: coerceOption('cache.no-flush', boolean, noFlush) as boolean }),
  };
}

function discardMode(value: unknown): NodeSettings['discard'] {
  if (value === 'unmap' || value === 'on') return 'unmap';
  if (value === 'ignore' || value === 'off') return 'ignore';
  throw new BlockError('INVALID_ARGUMENT', 'Invalid discard option');
}

function keep(key: string, value: unknown, current: unknown): void {
  if (value !== current) throw unchangeable(key);
}

function unchangeable(key: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', `Cannot change the option '${key}'`);
}
