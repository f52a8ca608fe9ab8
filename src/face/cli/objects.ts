/** User-created objects (`--object secret,…`): parsed, checked for what every tool needs of them, kept by id. */
import { isDictionary, nestOptions, parseKeyValues } from '../../block/key-values.js';
import { secretContent } from '../../platform/secrets.js';
import { loadTlsCredentials } from '../../platform/tls-credentials.js';
import type { UserObject, UserObjects } from '../../block/objects.js';
import { parseQJson, QJsonError, type QValue } from '../../util/qjson.js';
import { checkCreatable, checkObjectType, checkProperties, objectHelp } from './object-types.js';
import { CliError, ExitError, out, programName } from './output.js';

const objects = new Map<string, UserObject>();

/** Objects of this process by id. */
export function userObjects(): UserObjects { return objects; }

/** Takes the argument of one --object, or prints the help it asks for. @throws CliError in the peers' words | ExitError after help */
export function addObject(text: string): UserObject {
  const { 'qom-type': type, id, ...properties } = parse(text);
  if (type === undefined) throw new CliError("Parameter 'qom-type' is missing");
  if (typeof type !== 'string') throw new CliError("Invalid parameter type for 'qom-type', expected: string");
  checkObjectType(type);
  if (id === undefined) throw new CliError("Parameter 'id' is missing");
  if (typeof id !== 'string') throw new CliError("Invalid parameter type for 'id', expected: string");
  checkProperties(type, properties);
  if (!/^[A-Za-z][\w.-]*$/.test(id)) {
    throw new CliError("Parameter 'id' expects an identifier", { hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter." });
  }
  checkCreatable(type, programName());
  if (objects.has(id)) throw new CliError(`attempt to add duplicate property '${id}' to object (type 'container')`);
  const object = { type, id, properties };
  if (type === 'secret') secretContent(object, (other) => objects.get(other));
  if (type.startsWith('tls-creds-')) loadTlsCredentials(object);
  objects.set(id, object);
  return object;
}

function parse(text: string): Record<string, QValue> {
  if (!text.startsWith('{')) {
    const { values, help } = parseKeyValues(text, 'qom-type');
    const type = values.get('qom-type');
    if (help || /^(?:help|\?)(?:,|$)/.test(text)) {
      out(objectHelp(type, programName()));
      throw new ExitError(0);
    }
    return nestOptions(Object.fromEntries(values));
  }
  try {
    const value = parseQJson(text);
    return isDictionary(value) ? value : {};
  } catch (error) {
    if (error instanceof QJsonError) throw new CliError(error.message);
    throw error;
  }
}
