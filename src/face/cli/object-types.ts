/** What the objects that a user can create (`--object`) are made of: their properties, help texts and first check. */
import { isDictionary } from '../../block/key-values.js';
import type { QValue } from '../../util/qjson.js';
import { CliError } from './output.js';

interface Property {
  /** As the help calls it. */
  readonly type: string;
  readonly required?: boolean;
  /** The words it may be. */
  readonly values?: readonly string[];
  /** It is a list of these. */
  readonly items?: Properties;
}
type Properties = Readonly<Record<string, Property>>;

const string: Property = { type: 'string' };
const flag: Property = { type: 'bool' };
const whole: Property = { type: 'int' };
const required = (property: Property): Property => ({ ...property, required: true });

const policy: Property = { type: 'QAuthZListPolicy', values: ['deny', 'allow'] };
const credentials = { dir: string, endpoint: { type: 'QCryptoTLSCredsEndpoint', values: ['client', 'server'] }, priority: string, 'verify-peer': flag };
const rates = ['bps-total', 'bps-read', 'bps-write', 'iops-total', 'iops-read', 'iops-write'];
const limits = [...rates.flatMap((rate) => [rate, `${rate}-max`, `${rate}-max-length`]), 'iops-size'];

interface ObjectType {
  readonly properties: Properties;
  /** Not for the tools for images, which know of it only that it exists. */
  readonly serversOnly?: boolean;
}
const types: Readonly<Record<string, ObjectType>> = {
  'authz-list': {
    properties: {
      policy,
      rules: { type: 'QAuthZListRule', items: { match: required(string), policy: required(policy), format: { type: 'QAuthZListFormat', values: ['exact', 'glob'] } } },
    },
  },
  'authz-simple': { properties: { identity: required(string) } },
  iothread: {
    properties: { 'aio-max-batch': whole, 'poll-grow': whole, 'poll-max-ns': whole, 'poll-shrink': whole, 'thread-pool-max': whole, 'thread-pool-min': whole },
    serversOnly: true,
  },
  secret: { properties: { data: string, file: string, format: { type: 'QCryptoSecretFormat', values: ['raw', 'base64'] }, iv: string, keyid: string } },
  'throttle-group': {
    properties: {
      limits: { type: 'ThrottleLimits', items: Object.fromEntries(limits.map((name) => [name, whole])) },
      ...Object.fromEntries(limits.map((name) => [`x-${name}`, whole])),
    },
  },
  'tls-creds-anon': { properties: credentials },
  'tls-creds-psk': { properties: { ...credentials, username: string } },
  'tls-creds-x509': { properties: { ...credentials, passwordid: string, 'sanity-check': flag } },
};
/** What the peer's schema names, but its tools cannot create. */
const elsewhere: ReadonlySet<string> = new Set(['authz-listfile', 'authz-pam']);

/** A type's properties or, without one that is known, all types. */
export function objectHelp(type: string | undefined, program: string): string {
  if (type !== undefined && creatable(type, program)) {
    const lines = Object.entries(types[type]!.properties).map(([name, property]) => `  ${name}=<${property.type}>\n`);
    return `${type} options:\n${lines.sort().join('')}`;
  }
  return `List of user creatable objects:\n${Object.keys(types).filter((name) => creatable(name, program)).map((name) => `  ${name}\n`).join('')}`;
}

/** @throws CliError in the peer's words where there is no such type */
export function checkObjectType(type: string): void {
  if (!Object.hasOwn(types, type) && !elsewhere.has(type)) throw new CliError(`Parameter 'qom-type' does not accept value '${type}'`);
}

/** @throws CliError for a type that these tools cannot create */
export function checkCreatable(type: string, program: string): void {
  if (!creatable(type, program)) throw new CliError(`invalid object type: ${type}`);
}

/** @throws CliError for a property that is missing, unknown or not of its type */
export function checkProperties(type: string, given: Readonly<Record<string, QValue>>): void {
  if (Object.hasOwn(types, type)) checkAgainst(types[type]!.properties, given, '');
}

function creatable(type: string, program: string): boolean {
  return Object.hasOwn(types, type) && !(types[type]!.serversOnly === true && (program === 'qemu-img' || program === 'qemu-io'));
}

function checkAgainst(properties: Properties, given: Readonly<Record<string, QValue>>, prefix: string): void {
  for (const [name, property] of Object.entries(properties)) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    if (value !== undefined) checkValue(name, property, value, prefix);
    else if (property.required) throw new CliError(`Parameter '${prefix}${name}' is missing`);
  }
  const surplus = Object.keys(given).filter((name) => !Object.hasOwn(properties, name)).sort()[0];
  if (surplus !== undefined) throw new CliError(`Parameter '${prefix}${surplus}' is unexpected`);
}

function checkValue(name: string, { type, values, items }: Property, value: QValue, prefix: string): void {
  const wrong = (expected: string): CliError => new CliError(`Invalid parameter type for '${prefix}${name}', expected: ${expected}`);
  if (items !== undefined) {
    if (isDictionary(value)) checkAgainst(items, value, `${prefix}${name}.`);
    else if (!Array.isArray(value)) throw wrong('array');
    else (value as readonly QValue[]).forEach((item, index) => checkAgainst(items, isDictionary(item) ? item : {}, `${prefix}${name}.${index}.`));
  } else if (type === 'bool') {
    if (typeof value !== 'boolean' && !/^(?:on|off|yes|no|true|false|y|n)$/.test(String(value))) throw new CliError(`Parameter '${prefix}${name}' expects 'on' or 'off'`);
  } else if (type === 'int') {
    if (!/^-?(?:0x[\da-f]+|\d+)$/i.test(String(value))) throw new CliError(`Parameter '${prefix}${name}' expects integer`);
  } else if (typeof value !== 'string') {
    throw wrong('string');
  } else if (values?.includes(value) === false) {
    throw new CliError(`Parameter '${name}' does not accept value '${value}'`);
  }
}
