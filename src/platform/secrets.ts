/** Content of `secret` objects: given as it is or in a file, plain or base64, in the clear or encrypted with another secret. */
import { readFileSync } from 'node:fs';
import { BlockError, strerror } from '../block/errors.js';
import type { UserObject } from '../block/objects.js';
import { decryptCbc } from './cryptography.js';

/** Finds an object by its id. */
export type FindObject = (id: string) => UserObject | undefined;

/** Read once: a secret may come from a pipe. */
const contents = new WeakMap<UserObject, Uint8Array>();
const keySize = 32;
const blockSize = 16;

/** @throws BlockError INVALID_ARGUMENT in the peer's words where the object's properties or its file give no secret */
export function secretContent(object: UserObject, find: FindObject): Uint8Array {
  let content = contents.get(object);
  if (content === undefined) contents.set(object, content = load(object, find));
  return content;
}

/** The secret of that id, any bytes. @throws BlockError INVALID_ARGUMENT */
function findSecret(id: string, find: FindObject): Uint8Array {
  const object = find(id);
  if (object === undefined) throw invalid(`No secret with id '${id}'`);
  if (object.type !== 'secret') throw invalid(`Object with id '${id}' is not a secret`);
  return secretContent(object, find);
}

/** The secret of that id, which must be text. @throws BlockError INVALID_ARGUMENT */
export function findPassphrase(id: string, find: FindObject): Uint8Array {
  const content = findSecret(id, find);
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(content);
  } catch {
    throw invalid(`Data from secret ${id} is not valid UTF-8`);
  }
  return content;
}

function load({ properties }: UserObject, find: FindObject): Uint8Array {
  const { format = 'raw', keyid, iv } = properties;
  if (format !== 'raw' && format !== 'base64') throw invalid(`Parameter 'format' does not accept value '${String(format)}'`);
  const stored = read(properties['data'], properties['file']);
  if (keyid === undefined) return format === 'base64' ? decodeBase64(stored) : stored;
  const key = findSecret(String(keyid), find);
  if (key.length !== keySize) throw invalid(`Key should be ${keySize} bytes in length`);
  if (iv === undefined) throw invalid('IV is required to decrypt secret');
  const vector = decodeBase64(Buffer.from(String(iv)));
  if (vector.length !== blockSize) throw invalid(`IV should be ${blockSize} bytes in length not ${vector.length}`);
  return decrypt(key, vector, format === 'base64' ? decodeBase64(stored) : stored);
}

function read(data: unknown, file: unknown): Uint8Array {
  if (data !== undefined && file !== undefined) throw invalid("'file' and 'data' are mutually exclusive");
  if (data !== undefined) return Buffer.from(String(data));
  if (file === undefined) throw invalid("Either 'file' or 'data' must be provided");
  const name = String(file);
  try {
    return readFileSync(name);
  } catch (error) {
    const reason = strerror(-((error as NodeJS.ErrnoException).errno ?? -5));
    throw new BlockError('INVALID_ARGUMENT', `Unable to read ${name}: Failed to open file “${name}”: ${reason}`, {}, error);
  }
}

/** White space is passed over, and what is too short to be a byte is dropped. */
function decodeBase64(text: Uint8Array): Uint8Array {
  const characters = Buffer.from(text).toString('latin1');
  if (!/^[A-Za-z0-9+/=\r\n]*$/.test(characters)) throw invalid('Base64 data contains invalid characters');
  return Buffer.from(characters, 'base64');
}

function decrypt(key: Uint8Array, iv: Uint8Array, source: Uint8Array): Uint8Array {
  if (source.length % blockSize !== 0) throw invalid(`Length ${source.length} must be a multiple of block size ${blockSize}`);
  const padded = decryptCbc(key, iv, source);
  const padding = padded[padded.length - 1] ?? 0;
  if (padding > blockSize || padding > padded.length) {
    throw invalid(`Incorrect number of padding bytes (${padding}) found on decrypted data`);
  }
  return padded.subarray(0, padded.length - padding);
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
