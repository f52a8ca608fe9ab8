/** The command line of qemu-nbd, complaints included. */
import { BlockError } from '../../../block/errors.js';
import { parseSnapshotReference, type SnapshotReference } from '../../../image/snapshot-source.js';
import { Getopt, GetoptError } from '../getopt.js';
import { addObject } from '../objects.js';
import { parseCacheMode, type CacheMode } from '../open.js';
import { CliError, ExitError, out, programName } from '../output.js';
import { helpText, versionText } from './help.js';

export interface NbdToolOptions {
  port: string | undefined;
  bind: string | undefined;
  socket: string | undefined;
  /** Clients at a time; 0: no limit. */
  shared: number;
  persistent: boolean;
  verbose: boolean;
  exportName: string | undefined;
  description: string | undefined;
  handshakeLimitSec: number;
  offset: number;
  allocationDepth: boolean;
  bitmaps: string[];
  list: boolean;
  tlsCreds: string | undefined;
  tlsAuthz: string | undefined;
  tlsHostname: string | undefined;
  fork: boolean;
  pidFile: string | undefined;
  format: string | undefined;
  readOnly: boolean;
  snapshot: boolean;
  loadSnapshot: SnapshotReference | string | undefined;
  cache: CacheMode | undefined;
  nativeAio: boolean;
  discard: 'ignore' | 'unmap';
  detectZeroes: 'off' | 'on' | 'unmap';
  imageOpts: boolean;
  files: readonly string[];
}

const definitions = [
  'h,help', 'V,version', 'p,port=', 'b,bind=', 'k,socket=', 'e,shared=', 't,persistent', 'v,verbose', 'x,export-name=', 'D,description=',
  'handshake-limit=', 'o,offset=', 'A,allocation-depth', 'B,bitmap=', 'L,list', 'object=', 'tls-creds=', 'tls-authz=', 'tls-hostname=', 'T,trace=',
  'fork', 'pid-file=', 'selinux-label=', 'c,connect=', 'd,disconnect', 'f,format=', 'r,read-only', 's,snapshot', 'l,load-snapshot=', 'n,nocache',
  'cache=', 'aio=', 'discard=', 'detect-zeroes=', 'image-opts',
];
const discardModes: Readonly<Record<string, 'ignore' | 'unmap'>> = { ignore: 'ignore', off: 'ignore', unmap: 'unmap', on: 'unmap' };
const MAX_STRING = 4096;

/** @throws CliError | ExitError in the peer's words */
export function parseOptions(argv: readonly string[]): NbdToolOptions {
  const options: NbdToolOptions = {
    port: undefined, bind: undefined, socket: undefined, shared: 1, persistent: false, verbose: false, exportName: undefined, description: undefined,
    handshakeLimitSec: 10, offset: 0, allocationDepth: false, bitmaps: [], list: false, tlsCreds: undefined, tlsAuthz: undefined,
    tlsHostname: undefined, fork: false, pidFile: undefined, format: undefined, readOnly: false, snapshot: false, loadSnapshot: undefined, cache: undefined, nativeAio: false, discard: 'ignore',
    detectZeroes: 'off', imageOpts: false, files: [],
  };
  const seen = new Set<string>();
  const getopt = new Getopt(argv, definitions);
  try {
    for (const { name, value } of getopt) {
      apply(options, name, value ?? '', seen);
      seen.add(name);
    }
  } catch (error) {
    if (!(error instanceof GetoptError)) throw error;
    throw new CliError(error.message, { continuation: tryHelp() });
  }
  options.files = getopt.operands;
  check(options, seen);
  return options;
}

function apply(options: NbdToolOptions, name: string, value: string, seen: ReadonlySet<string>): void {
  switch (name) {
    case 'help':
      out(helpText());
      throw new ExitError(0);
    case 'version':
      out(versionText());
      throw new ExitError(0);
    case 'port': options.port = portNumber(value); break;
    case 'bind': options.bind = value; break;
    case 'socket':
      if (!value.startsWith('/')) throw new CliError('socket path must be absolute');
      options.socket = value;
      break;
    case 'shared': options.shared = wholeNumber(value, 'shared device number', mostInt); break;
    case 'persistent': options.persistent = true; break;
    case 'verbose': options.verbose = true; break;
    case 'export-name':
      if (Buffer.byteLength(value) > MAX_STRING) throw new CliError(`export name '${value}' too long`);
      options.exportName = value;
      break;
    case 'description':
      if (Buffer.byteLength(value) > MAX_STRING) throw new CliError(`export description '${value}' too long`);
      options.description = value;
      break;
    case 'handshake-limit': options.handshakeLimitSec = wholeNumber(value, 'handshake limit', mostInt); break;
    case 'offset':
      if (/^-\d+$/.test(value)) throw new CliError(`Value '${value}' is out of range for parameter 'offset'`);
      options.offset = wholeNumber(value, 'offset');
      break;
    case 'allocation-depth': options.allocationDepth = true; break;
    case 'bitmap': options.bitmaps.unshift(value); break; // clients see the last named first
    case 'list': options.list = true; break;
    case 'object': addObject(value); break;
    case 'tls-creds': options.tlsCreds = value; break;
    case 'tls-authz': options.tlsAuthz = value; break;
    case 'tls-hostname': options.tlsHostname = value; break;
    case 'fork': options.fork = true; break;
    case 'pid-file': options.pidFile = value; break;
    case 'selinux-label': throw new CliError('SELinux labels (--selinux-label) are not supported');
    case 'format': options.format = value; break;
    case 'read-only': options.readOnly = true; break;
    case 'snapshot': options.snapshot = true; break;
    case 'load-snapshot':
      options.loadSnapshot = snapshotArgument(value);
      options.readOnly = true;
      break;
    case 'nocache':
    case 'cache':
      if (seen.has('nocache') || seen.has('cache')) throw new CliError('-n and --cache can only be specified once');
      options.cache = parseCacheMode(name === 'nocache' ? 'none' : value);
      if (options.cache === undefined) throw new CliError(`Invalid cache mode \`${value}'`);
      break;
    case 'aio':
      if (seen.has('aio')) throw new CliError('--aio can only be specified once');
      if (!['native', 'io_uring', 'threads'].includes(value)) throw new CliError(`Invalid aio mode '${value}'`);
      options.nativeAio = value === 'native';
      break;
    case 'discard':
      if (seen.has('discard')) throw new CliError('--discard can only be specified once');
      if (!Object.hasOwn(discardModes, value)) throw new CliError(`Invalid discard mode \`${value}'`);
      options.discard = discardModes[value]!;
      break;
    case 'detect-zeroes':
      if (value !== 'off' && value !== 'on' && value !== 'unmap') throw new CliError(`Failed to parse detect_zeroes mode: invalid parameter value: ${value}`);
      if (value === 'unmap' && options.discard !== 'unmap') {
        throw new CliError('setting detect-zeroes to unmap is not allowed without setting discard operation to unmap');
      }
      options.detectZeroes = value;
      break;
    case 'image-opts': options.imageOpts = true; break;
    case 'connect': case 'disconnect': case 'trace': break;
  }
}

function check(options: NbdToolOptions, seen: ReadonlySet<string>): void {
  const { files } = options;
  if (options.list) {
    if (files.length > 0) throw new CliError('List mode is incompatible with a file name');
    if (['export-name', 'description', 'offset', 'allocation-depth', 'bitmap', 'snapshot', 'load-snapshot', 'connect', 'disconnect'].some((name) => seen.has(name))) {
      throw new CliError('List mode is incompatible with per-device settings');
    }
    if (options.fork) throw new CliError('List mode is incompatible with forking');
  } else if (files.length !== 1) {
    throw new CliError('Invalid number of arguments', { hint: tryHelp() });
  }
  if (seen.has('connect') || seen.has('disconnect')) {
    throw new CliError('Kernel NBD devices (-c, -d) are not supported; serve on a socket and attach it with nbd-client');
  }
  if (options.tlsCreds === undefined) {
    if (options.tlsAuthz !== undefined) throw new CliError('--tls-authz is not permitted without --tls-creds');
    if (options.tlsHostname !== undefined) throw new CliError('--tls-hostname is not permitted without --tls-creds');
  }
  if (options.list && options.tlsAuthz !== undefined) throw new CliError('TLS authorization is incompatible with export list');
  if (options.socket === undefined && options.port !== undefined && !/^\d+$/.test(options.port)) {
    const where = `${options.bind ?? '0.0.0.0'}:${options.port}`;
    throw new CliError(`address resolution failed for ${where}: Servname not supported for ai_socktype`);
  }
  if (options.nativeAio && options.cache?.direct !== true) {
    throw new CliError(`Failed to blk_new_open '${files[0]}': aio=native was specified, but it requires cache.direct=on, which was not specified.`);
  }
  if (options.imageOpts && options.format !== undefined) throw new CliError('--image-opts and -f are mutually exclusive');
}

const mostInt = 2 ** 31 - 1;

function wholeNumber(text: string, what: string, most = Number.MAX_SAFE_INTEGER): number {
  const value = /^\+?(?:0x[\da-f]+|\d+)$/i.test(text.trim()) ? Number(text.trim().replace('+', '')) : NaN;
  if (!(value <= most)) throw new CliError(`Invalid ${what} '${text}'`);
  return value;
}

/** A service's name may stand for a number. */
function portNumber(text: string): string {
  if (Number(text) > 65535) throw new CliError(`Invalid port '${text}'`);
  return text;
}

function snapshotArgument(text: string): SnapshotReference | string {
  try {
    return parseSnapshotReference(text);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new CliError(error.message, { continuation: `Failed in parsing snapshot param \`${text}'`, cause: error });
  }
}

function tryHelp(): string {
  return `Try \`${programName()} --help' for more information.`;
}
