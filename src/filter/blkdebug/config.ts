/** Rules as text: blkdebug's configuration file, and the same as options. */
import { BlockError } from '../../block/errors.js';
import { coerceOption, type OptionField, type OptionValue } from '../../block/options.js';
import { events, requestTypes, type RequestType } from './events.js';

export interface InjectRule {
  readonly event: string;
  /** State in which the event counts; 0: in any. */
  readonly state: number;
  /** Requests that fail; undefined: all but block status. */
  readonly requestType?: RequestType;
  /** Positive Linux errno; 0 lets requests pass. */
  readonly errno: number;
  /** Byte a request must touch; undefined: any. */
  readonly offset?: number;
  readonly once: boolean;
  /** Fails before anything else can happen, rather than a moment later. */
  readonly immediately: boolean;
}

export interface StateRule {
  readonly event: string;
  readonly state: number;
  readonly newState: number;
}

export interface Rules { readonly inject: InjectRule[]; readonly state: StateRule[] }

type Section = 'inject-error' | 'set-state';
type Fields = Readonly<Record<string, OptionField>>;

const fields: Readonly<Record<Section, Fields>> = {
  'inject-error': {
    event: { type: 'string' }, state: { type: 'number' }, iotype: { type: 'string' }, errno: { type: 'number' }, sector: { type: 'number' },
    once: { type: 'boolean' }, immediately: { type: 'boolean' },
  },
  'set-state': { event: { type: 'string' }, state: { type: 'number' }, new_state: { type: 'number' } },
};

/** Adds the rules of a configuration file. Throws INVALID_ARGUMENT. */
export function parseConfig(text: string, rules: Rules): void {
  let section: { readonly name: Section; readonly values: Record<string, unknown> } | undefined;
  const finish = (): void => {
    if (section !== undefined) addRule(section.name, section.values, rules);
  };
  for (const line of text.split('\n')) {
    if (line.startsWith('#') || line.trim() === '') continue;
    const heading = /^\[([^\s\]]+)(?: "[^"]*")?\]/.exec(line);
    if (heading) {
      finish();
      section = { name: knownSection(heading[1]!), values: {} };
      continue;
    }
    if (section === undefined) throw invalid('no group defined');
    const [, key = '', value = ''] = /^\s*(\S+)(?:\s*=\s*"([^"]*)")?/.exec(line) ?? [];
    if (fields[section.name][key] === undefined) throw invalid(`Invalid parameter '${key}'`);
    section.values[key] = value;
  }
  finish();
}

/** Adds the rules given as an option: a list of dictionaries, or one of them. Throws INVALID_ARGUMENT. */
export function addRules(section: Section, given: OptionValue, rules: Rules): void {
  if (given === undefined) return;
  const list = Array.isArray(given) ? given as readonly OptionValue[] : [given];
  for (const item of list) {
    const values = (typeof item === 'object' && item !== null ? item : {}) as Record<string, unknown>;
    for (const key of Object.keys(values)) {
      if (fields[section][key] === undefined) throw invalid(`[${section}] section doesn't support the option '${key}'`);
    }
    addRule(section, values, rules);
  }
}

function addRule(section: Section, given: Record<string, unknown>, rules: Rules): void {
  const values = Object.fromEntries(Object.entries(given).map(([key, value]) => [key, coerceOption(key, fields[section][key]!, value)]));
  const { event, iotype, state = 0, errno = 5, sector = -1, once = false, immediately = false, new_state: newState = 0 } = values as {
    event?: string; iotype?: string; state?: number; errno?: number; sector?: number; once?: boolean; immediately?: boolean; new_state?: number;
  };
  if (event === undefined) throw invalid('Missing event name for rule');
  if (!events.has(event)) throw invalid(`invalid parameter value: ${event}`);
  if (section === 'set-state') {
    rules.state.push({ event, state, newState });
    return;
  }
  const requestType = requestTypes.find((type) => type === iotype);
  if (iotype !== undefined && requestType === undefined) throw invalid(`invalid parameter value: ${iotype}`);
  rules.inject.push({
    event, state, errno, once, immediately, ...(requestType !== undefined && { requestType }), ...(sector >= 0 && { offset: sector * 512 }),
  });
}

function knownSection(name: string): Section {
  if (name === 'inject-error' || name === 'set-state') return name;
  throw invalid(`There is no option group '${name}'`);
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { driver: 'blkdebug' });
}
