/** User-created objects (`--object secret,…`): parsed, checked for what every tool needs of them, kept by id. */
import { isDictionary, parseKeyValues } from '../../block/key-values.js';
import { secretContent } from '../../platform/secrets.js';
import { loadTlsCredentials } from '../../platform/tls-credentials.js';
import type { UserObject, UserObjects } from '../../block/objects.js';
import { parseQJson, QJsonError, type QValue } from '../../util/qjson.js';
import { CliError, programName } from './output.js';

const credentials = ['dir', 'endpoint', 'priority', 'verify-peer'];
/** Types with their properties; undefined: not looked at. */
const known: Readonly<Record<string, readonly string[] | undefined>> = {
  secret: ['data', 'file', 'format', 'iv', 'keyid'],
  'tls-creds-anon': credentials, 'tls-creds-psk': [...credentials, 'username'], 'tls-creds-x509': [...credentials, 'passwordid', 'sanity-check'],
  'authz-list': undefined, 'authz-list-file': undefined, 'authz-pam': undefined, 'authz-simple': undefined, iothread: undefined, 'throttle-group': undefined,
};
/** Known to the emulator, but not to its tools. */
const beyondTools: ReadonlySet<string> = new Set(['iothread', 'authz-pam']);
const objects = new Map<string, UserObject>();

/** Objects of this process by id. */
export function userObjects(): UserObjects { return objects; }

/** Takes the argument of one --object. @throws CliError in the peers' words */
export function addObject(text: string): UserObject {
  const { 'qom-type': type, id, ...properties } = parse(text);
  if (typeof type !== 'string') throw new CliError("Parameter 'qom-type' is missing");
  if (!Object.hasOwn(known, type)) throw new CliError(`Parameter 'qom-type' does not accept value '${type}'`);
  if (typeof id !== 'string') throw new CliError("Parameter 'id' is missing");
  if (!/^[A-Za-z][\w.-]*$/.test(id)) {
    throw new CliError("Parameter 'id' expects an identifier", { hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter." });
  }
  if (objects.has(id)) throw new CliError(`attempt to add duplicate property '${id}' to object (type 'container')`);
  if (beyondTools.has(type) && programName() !== 'vdisk') throw new CliError(`invalid object type: ${type}`);
  const surplus = Object.keys(properties).find((name) => known[type]?.includes(name) === false);
  if (surplus !== undefined) throw new CliError(`Parameter '${surplus}' is unexpected`);
  const object = { type, id, properties };
  if (type === 'secret') secretContent(object, (other) => objects.get(other));
  if (type.startsWith('tls-creds-')) loadTlsCredentials(object);
  objects.set(id, object);
  return object;
}

function parse(text: string): Record<string, QValue> {
  if (!text.startsWith('{')) return Object.fromEntries(parseKeyValues(text, 'qom-type').values);
  try {
    const value = parseQJson(text);
    return isDictionary(value) ? value : {};
  } catch (error) {
    if (error instanceof QJsonError) throw new CliError(error.message);
    throw error;
  }
}
