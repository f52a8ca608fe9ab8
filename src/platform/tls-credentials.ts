/** TLS credentials from `tls-creds-*` objects, for clients and servers. */
import { readFileSync } from 'node:fs';
import type { SecureContextOptions } from 'node:tls';
import { BlockError, Errno, systemError } from '../block/errors.js';
import type { UserObject } from '../block/objects.js';

export type TlsEndpoint = 'client' | 'server';

export interface TlsCredentials {
  readonly endpoint: TlsEndpoint;
  /** Whether the peer must show a certificate that the authority signed. */
  readonly verifyPeer: boolean;
  /** The one certificate a server may show, by its SHA-1 or SHA-256: pairs of upper-case hexadecimal digits with colons. Nothing else is looked at then. */
  readonly fingerprint?: string;
  /** Certificates, or none of them for a client without its own. */
  readonly x509?: Pick<SecureContextOptions, 'ca' | 'cert' | 'key' | 'passphrase' | 'crl'>;
  /** Keys by user name. A client has one. */
  readonly psk?: ReadonlyMap<string, Buffer>;
}

/** Ciphers for keys without certificates; TLS 1.2, where Node's pre-shared keys live. */
export const pskCiphers = 'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256:DHE-PSK-AES256-GCM-SHA384:'
  + 'DHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256';

/**
 * Reads the files of a `tls-creds-x509` (`dir`, `endpoint`, `verify-peer`, `passwordid`) or `tls-creds-psk` (`dir`, `endpoint`,
 * `username`) object. A directory holds `ca-cert.pem`, `ca-crl.pem`, `client-cert.pem`, `client-key.pem`, `server-cert.pem`,
 * `server-key.pem`, or `keys.psk` with lines `user:hexkey`. A client may do without a directory: with `fingerprint` it knows its
 * server, with `system-trust` it believes the authorities that the system does.
 * @param password the private key's, where it has one
 * @throws BlockError in the peer's words, also for an object that is no TLS credentials
 */
export function loadTlsCredentials(object: UserObject, password?: string): TlsCredentials {
  const { properties } = object;
  const endpoint = properties['endpoint'] ?? 'client';
  if (endpoint !== 'client' && endpoint !== 'server') throw invalid(`Parameter 'endpoint' does not accept value '${String(endpoint)}'`);
  const verify = properties['verify-peer'];
  const verifyPeer = verify !== false && verify !== 'off' && verify !== 'no' && verify !== 'false';
  switch (object.type) {
    case 'tls-creds-x509': {
      const { fingerprint } = properties;
      const pinned = typeof fingerprint === 'string' ? { fingerprint } : {};
      const alone = endpoint === 'client' && properties['dir'] === undefined && ('fingerprint' in pinned || properties['system-trust'] === true);
      return { endpoint, verifyPeer, ...pinned, x509: alone ? {} : certificates(directory(object), endpoint, password) };
    }
    case 'tls-creds-psk': return { endpoint, verifyPeer, psk: keys(object, endpoint) };
    case 'tls-creds-anon': throw new BlockError('NOT_SUPPORTED', 'Anonymous TLS credentials are not supported');
    default: throw invalid(`Object with id '${object.id}' is not TLS credentials`);
  }
}

/** The credentials that the option `tls-creds` names. @throws BlockError where there are none, or for the other endpoint */
export function findTlsCredentials(id: string, find: (id: string) => UserObject | undefined, endpoint: TlsEndpoint): TlsCredentials {
  const object = find(id);
  if (object === undefined) throw invalid(`No TLS credentials with id '${id}'`);
  const passwordId = object.properties['passwordid'];
  const password = typeof passwordId === 'string' ? find(passwordId)?.properties['data'] : undefined;
  const credentials = loadTlsCredentials(object, typeof password === 'string' ? password : undefined);
  if (credentials.endpoint !== endpoint) throw invalid(`Expected TLS credentials for a ${endpoint} endpoint`);
  return credentials;
}

function certificates(folder: string, endpoint: TlsEndpoint, passphrase: string | undefined): NonNullable<TlsCredentials['x509']> {
  const required = endpoint === 'server';
  const ca = readCredential(`${folder}/ca-cert.pem`, true);
  const crl = readCredential(`${folder}/ca-crl.pem`, false);
  const cert = readCredential(`${folder}/${endpoint}-cert.pem`, required);
  const key = readCredential(`${folder}/${endpoint}-key.pem`, required);
  return { ...(ca && { ca }), ...(crl && { crl }), ...(cert && key && { cert, key }), ...(passphrase !== undefined && { passphrase }) };
}

function keys(object: UserObject, endpoint: TlsEndpoint): ReadonlyMap<string, Buffer> {
  const file = `${directory(object)}/keys.psk`;
  const all = parseKeys(readCredential(file, true) ?? Buffer.alloc(0));
  if (endpoint === 'server') return all;
  const user = String(object.properties['username'] ?? 'qemu');
  const key = all.get(user);
  if (key === undefined) throw invalid(`Username ${user} not found in PSK file ${file}`);
  return new Map([[user, key]]);
}

function parseKeys(content: Buffer): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const line of content.toString('utf8').split('\n')) {
    const at = line.lastIndexOf(':');
    if (at > 0 && !line.startsWith('#')) found.set(line.slice(0, at), Buffer.from(line.slice(at + 1).trim(), 'hex'));
  }
  return found;
}

function directory(object: UserObject): string {
  const dir = object.properties['dir'];
  if (typeof dir !== 'string') throw invalid("Missing 'dir' property value");
  return dir;
}

function readCredential(file: string, required: boolean): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch (error) {
    if (!required) return undefined;
    const errno = -((error as NodeJS.ErrnoException).errno ?? -Errno.EIO);
    throw systemError(errno, { filename: file }, `Unable to access credentials ${file}`, error);
  }
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message);
}
