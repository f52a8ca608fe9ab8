/** Where an export is: NBD URIs and QEMU's older `nbd:` file names. */
import { DEFAULT_PORT } from './constants.js';

export type SocketAddress =
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'inet'; readonly host: string; readonly port: string };

export interface NbdAddress {
  readonly server: SocketAddress;
  /** Empty: the default export. */
  readonly exportName: string;
  readonly tls: boolean;
  /** Query parameters beside `socket`: 'tls-creds' and 'tls-hostname', where the scheme encrypts. */
  readonly parameters: Readonly<Record<string, string>>;
}

/** The text is no NBD address; messages are QEMU's. */
export class NbdAddressError extends Error {
  override readonly name = 'NbdAddressError';
}

const schemes: Readonly<Record<string, { readonly unix: boolean; readonly tls: boolean }>> = {
  nbd: { unix: false, tls: false }, 'nbd+tcp': { unix: false, tls: false }, 'nbd+unix': { unix: true, tls: false },
  nbds: { unix: false, tls: true }, 'nbds+tcp': { unix: false, tls: true }, 'nbds+unix': { unix: true, tls: true },
};

/** Parses `nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH` and their `nbds` twins, or `nbd:host:port[:exportname=X]` and `nbd:unix:PATH[:exportname=X]`. */
export function parseNbdAddress(text: string): NbdAddress {
  return text.includes('://') ? parseUri(text) : parseLegacy(text);
}

function parseUri(text: string): NbdAddress {
  const match = /^([^:]+):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?/.exec(text);
  const scheme = schemes[match?.[1] ?? ''];
  if (match === null || scheme === undefined) throw invalidUrl();
  const authority = match[2] ?? '';
  const query = parseQuery(match[4] ?? '');
  const known = [...(scheme.unix ? ['socket'] : []), ...(scheme.tls ? ['tls-creds', 'tls-hostname'] : [])];
  const unknown = Object.keys(query).find((name) => !known.includes(name));
  if (unknown !== undefined) throw scheme.tls ? new NbdAddressError(`'${match[1]}' has no parameter '${unknown}', but tls-creds=ID and tls-hostname=NAME`) : invalidUrl();
  const { socket, ...parameters } = query;
  const common = { exportName: decodePart((match[3] ?? '').replace(/^\//, '')), tls: scheme.tls, parameters };
  if (scheme.unix) {
    if (authority !== '' || socket === undefined) throw invalidUrl();
    return { server: { type: 'unix', path: socket }, ...common };
  }
  const host = /^(?:[^@]*@)?(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(authority);
  const port = host?.[3] ?? String(DEFAULT_PORT);
  if (host === null || Number(port) > 65535) throw invalidUrl();
  return { server: { type: 'inet', host: host[1] ?? decodePart(host[2] ?? ''), port }, ...common };
}

function parseQuery(query: string): Record<string, string> {
  const pairs = query.split(/[&;]/).filter((part) => part !== '').map((part): [string, string] => {
    const at = part.indexOf('=');
    return at < 0 ? [decodePart(part), ''] : [decodePart(part.slice(0, at)), decodePart(part.slice(at + 1))];
  });
  return Object.fromEntries(pairs);
}

function decodePart(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalidUrl();
  }
}

function parseLegacy(text: string): NbdAddress {
  if (!text.startsWith('nbd:')) throw new NbdAddressError("File name string for NBD must start with 'nbd:'");
  const [, where = '', exportName] = /^(.*?)(?::exportname=(.*))?$/s.exec(text.slice(4)) ?? [];
  const common = { exportName: exportName ?? '', tls: false, parameters: {} };
  if (where === '' || exportName === '') throw new NbdAddressError('NBD server address missing');
  if (where.startsWith('unix:')) return { server: { type: 'unix', path: where.slice(5) }, ...common };
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(.+)$/.exec(where);
  if (match === null) throw new NbdAddressError(`error parsing address '${where}'`);
  return { server: { type: 'inet', host: match[1] ?? match[2] ?? '', port: match[3] ?? '' }, ...common };
}

function invalidUrl(): NbdAddressError {
  return new NbdAddressError('No valid URL specified');
}

/** The URI under which clients find an export. */
export function formatNbdUri(server: SocketAddress, exportName: string, tls = false): string {
  const scheme = tls ? 'nbds' : 'nbd';
  const path = encodeURI(exportName).replaceAll('?', '%3F').replaceAll('#', '%23');
  if (server.type === 'unix') return `${scheme}+unix:///${path}?socket=${encodeURI(server.path)}`;
  const host = server.host.includes(':') ? `[${server.host}]` : server.host;
  return `${scheme}://${host}${server.port === String(DEFAULT_PORT) ? '' : `:${server.port}`}${exportName === '' ? '' : `/${path}`}`;
}
