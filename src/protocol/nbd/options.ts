/** Options of the `nbd` driver and the file names that stand for them. */
import { BlockError } from '../../block/errors.js';
import type { OptionSchema } from '../../block/options.js';
import { DEFAULT_PORT } from '../../wire/nbd/constants.js';
import { NbdAddressError, parseNbdAddress, type SocketAddress } from '../../wire/nbd/address.js';

export interface NbdOptions {
  /** `{type: 'inet', host, port}` or `{type: 'unix', path}`. */
  readonly server?: Readonly<Record<string, unknown>>;
  /** Older forms of `server`. */
  readonly host?: string;
  readonly port?: string;
  readonly path?: string;
  /** Name of the export; empty (the default) is the server's default export. */
  readonly export?: string;
  /** Id of a `tls-creds-x509` or `tls-creds-psk` object. */
  readonly 'tls-creds'?: string;
  /** Name that the server's certificate must bear; the host by default. */
  readonly 'tls-hostname'?: string;
  /** Metadata context to show as block status in place of `base:allocation`; its first flag appears as a hole. */
  readonly 'x-dirty-bitmap'?: string;
  /** Seconds for which requests wait for a lost server; 0 fails them at once. */
  readonly 'reconnect-delay'?: number;
  /** Seconds for which opening goes on trying; 0 tries once. */
  readonly 'open-timeout'?: number;
  /** Connections to share the work, where the server allows several. */
  readonly connections?: number;
  /** Seconds that a server which owes an answer may be silent before the connection counts as lost; 0 waits for ever. */
  readonly timeout?: number;
}

export const defaults = { connections: 1, timeout: 120 } as const;
export const maxConnections = 64;

export const nbdOptionSchema: OptionSchema<NbdOptions> = {
  server: { type: 'object', help: 'Server address' },
  host: { type: 'string', help: 'TCP host to connect to' },
  port: { type: 'string', help: 'TCP port to connect to' },
  path: { type: 'string', help: 'Unix socket path to connect to' },
  export: { type: 'string', help: 'Name of the NBD export to open' },
  'tls-creds': { type: 'string', help: 'ID of the TLS credentials to use' },
  'tls-hostname': { type: 'string', help: 'Override hostname for validating TLS x509 certificate' },
  'x-dirty-bitmap': { type: 'string', help: 'experimental: expose named dirty bitmap in place of block status', strong: false },
  'reconnect-delay': {
    type: 'number', strong: false,
    help: 'On an unexpected disconnect, the nbd client tries to connect again until succeeding or encountering a serious error.',
  },
  'open-timeout': { type: 'number', strong: false, help: 'In seconds. If zero, the nbd driver tries the connection only once' },
  connections: { type: 'number', strong: false, help: 'Number of connections, where the server allows several', default: defaults.connections },
  timeout: { type: 'number', strong: false, help: 'In seconds. Longest silence of a server that owes an answer; zero waits for ever', default: defaults.timeout },
};

/** `nbd://…`, `nbd+unix://…`, `nbd:host:port…`, `nbd:unix:…` as options. @throws BlockError in the peer's words */
export function parseNbdFilename(filename: string): Record<string, unknown> {
  try {
    const { server, exportName, tls, parameters } = parseNbdAddress(filename);
    if (tls && parameters['tls-creds'] === undefined) {
      throw invalid(`'${filename.slice(0, filename.indexOf(':'))}' needs TLS credentials: name them with tls-creds=ID`);
    }
    return {
      server, ...(exportName !== '' && { export: exportName }),
      ...(tls && { 'tls-creds': parameters['tls-creds'] }),
      ...(parameters['tls-hostname'] !== undefined && { 'tls-hostname': parameters['tls-hostname'] }),
    };
  } catch (error) {
    if (error instanceof NbdAddressError) throw invalid(error.message);
    throw error;
  }
}

/** The server's address out of the newer or the older options. @throws BlockError in the peer's words */
export function serverAddress(options: NbdOptions): SocketAddress {
  const { server, host, port, path } = options;
  if (server !== undefined) {
    if (path !== undefined || host !== undefined || port !== undefined) throw invalid("Cannot use 'server' and path/host/port at the same time");
    return checkedServer(server);
  }
  if (path !== undefined && host !== undefined) throw invalid('path and host may not be used at the same time');
  if (path !== undefined) {
    if (port !== undefined) throw invalid('port may not be used without host');
    return { type: 'unix', path };
  }
  if (host === undefined) throw invalid('NBD server address missing');
  return { type: 'inet', host, port: port ?? String(DEFAULT_PORT) };
}

function checkedServer(server: Readonly<Record<string, unknown>>): SocketAddress {
  const field = (name: string): string => {
    const value = server[name];
    if (value === undefined) throw invalid(`Parameter '${name}' is missing`);
    if (typeof value === 'string') return value;
    if (typeof value === 'number' && name === 'port') return String(value);
    throw invalid(`Invalid parameter type for 'server.${name}', expected: string`);
  };
  const known = (...names: readonly string[]): void => {
    const stranger = Object.keys(server).find((key) => !names.includes(key));
    if (stranger !== undefined) throw invalid(`Parameter '${stranger}' is unexpected`);
  };
  const type = field('type');
  switch (type) {
    case 'unix':
      known('type', 'path');
      return { type, path: field('path') };
    case 'inet':
      known('type', 'host', 'port', 'numeric', 'to', 'ipv4', 'ipv6', 'keep-alive', 'mptcp');
      return { type, host: field('host'), port: field('port') };
    case 'vsock':
    case 'fd':
      throw new BlockError('NOT_SUPPORTED', `Server addresses of type '${type}' are not supported`);
    default:
      throw invalid(`Parameter 'type' does not accept value '${type}'`);
  }
}

/** The name a node shows, as the peer writes it: nothing in it is escaped. */
export function nbdFilename(server: SocketAddress, exportName: string): string {
  const path = exportName === '' ? '' : `/${exportName}`;
  return server.type === 'unix' ? `nbd+unix://${path}?socket=${server.path}` : `nbd://${server.host}:${server.port}${path}`;
}

export function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { driver: 'nbd' });
}
