/** vdisk nbd: images as exports, with less to type than qemu-nbd. */
import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { BlockBackend } from '../../block/child.js';
import { Perm } from '../../block/driver.js';
import { allowImplicitOpens, denyImplicitOpens, type OpenGate } from '../../block/gate.js';
import { loadTlsCredentials } from '../../platform/tls-credentials.js';
import { formatNbdUri, type SocketAddress } from '../../wire/nbd/address.js';
import { ExportRegistry, NbdExport } from '../nbd/exports.js';
import { directoryGate } from '../nbd/gate.js';
import { NbdServer, type NbdServerOptions } from '../nbd/server.js';
import { Getopt, GetoptError } from './getopt.js';
import { closeGraph, openImage } from './open.js';
import { flushOut, out, reportError, usageError } from './output.js';

const help = `Usage: vdisk nbd [options] IMAGE...
Serves images over NBD until Ctrl-C, read-only unless --writable is given. An IMAGE may be written NAME=FILE; the export is
called NAME, else like the file. An image's backing and data files are opened where they lie in the image's own directory.

      --host HOST           listen on this address (default 127.0.0.1)
      --port PORT           and this port (default 10809)
      --socket PATH         listen on a unix socket instead
  -w, --writable            let clients write
  -f, --format FORMAT       format of the images (default: looked up in their content)
      --trust-images        open whatever the images refer to: other files, devices, addresses
      --bitmap NAME         offer this dirty bitmap (may be repeated)
      --max-clients NUM     clients served at a time (default 100)
      --tls-certificates DIRECTORY   encrypt, with ca-cert.pem, server-cert.pem and server-key.pem from there
      --tls-psk DIRECTORY            encrypt, with the pre-shared keys in keys.psk there
  -v, --verbose             tell about dropped clients
`;

/** Words shared with \`vdisk serve\`. */
export const listenDefinitions = ['h,help', 'host=', 'port=', 'socket=', 'w,writable', 'max-clients=', 'tls-certificates=', 'tls-psk=', 'v,verbose'];

export interface ServeOptions {
  address: SocketAddress;
  writable: boolean;
  server: Omit<NbdServerOptions, 'exports'>;
  /** Options beyond the shared ones, in order. */
  readonly others: { readonly name: string; readonly value: string }[];
  readonly operands: readonly string[];
}

/** Reads a command line of one of the servers; undefined where it only asked for help. @throws CliError */
export function parseServeOptions(argv: readonly string[], own: readonly string[], helpText: string): ServeOptions | undefined {
  const getopt = new Getopt(argv, [...listenDefinitions, ...own]);
  const others: { name: string; value: string }[] = [];
  const chosen = new Map<string, string>();
  try {
    for (const { name, value = '' } of getopt) {
      if (listenDefinitions.some((definition) => definition.replace('=', '').split(',').at(-1) === name)) chosen.set(name, value);
      else others.push({ name, value });
    }
  } catch (error) {
    if (error instanceof GetoptError) throw usageError(error.message);
    throw error;
  }
  if (chosen.has('help')) {
    out(helpText);
    return undefined;
  }
  const socket = chosen.get('socket');
  const port = chosen.get('port') ?? '10809';
  if (!/^\d+$/.test(port) || Number(port) > 65535) throw usageError(`Invalid port '${port}'`);
  const maxClients = Number(chosen.get('max-clients') ?? 100);
  if (!Number.isInteger(maxClients) || maxClients < 0) throw usageError(`Invalid number of clients '${chosen.get('max-clients')}'`);
  const certificates = chosen.get('tls-certificates');
  const psk = chosen.get('tls-psk');
  const tls = certificates ?? psk;
  return {
    address: socket === undefined ? { type: 'inet', host: chosen.get('host') ?? '127.0.0.1', port } : { type: 'unix', path: socket },
    writable: chosen.has('writable'),
    server: {
      maxClients,
      ...(tls !== undefined && {
        tls: loadTlsCredentials({ type: certificates === undefined ? 'tls-creds-psk' : 'tls-creds-x509', id: 'tls', properties: { dir: tls, endpoint: 'server' } }),
      }),
      ...(chosen.has('verbose') && { report: (message: string) => reportError(message) }),
    },
    others,
    operands: getopt.operands,
  };
}

export async function main(argv: string[]): Promise<number> {
  const options = parseServeOptions(argv, ['f,format=', 'bitmap=', 'trust-images'], help);
  if (options === undefined) return 0;
  if (options.operands.length === 0) throw usageError('Which image?');
  const bitmaps = options.others.filter(({ name }) => name === 'bitmap').map(({ value }) => value);
  const format = options.others.findLast(({ name }) => name === 'format')?.value;
  const trusted = options.others.some(({ name }) => name === 'trust-images');
  const registry = new ExportRegistry();
  const backends: BlockBackend[] = [];
  const stopped = stopRequested();
  try {
    for (const operand of options.operands) {
      const [, name, file] = /^([^=/:{]+)=(.+)$/s.exec(operand) ?? [undefined, basename(operand), operand];
      const backend = await openImage(file, {
        format, writable: options.writable, options: { share: Perm.ALL, discard: 'unmap', gate: trusted ? allowImplicitOpens : gateOf(file) },
      });
      backends.push(backend);
      registry.add(new NbdExport(backend, { name: name, writable: options.writable, bitmaps, allocationDepth: true }));
    }
    const server = new NbdServer({ exports: registry, ...options.server });
    const address = await server.listen(options.address);
    for (const { name } of registry.list()) out(`${formatNbdUri(address, name, options.server.tls !== undefined)}\n`);
    flushOut();
    await stopped;
    await server.stop();
    return 0;
  } finally {
    for (const backend of backends) await backend.close();
    await closeGraph();
  }
}

/** A format nobody named is looked up in the image's content; what the image refers to must lie in its directory. */
function gateOf(image: string): OpenGate {
  const beside = existsSync(image) ? directoryGate(dirname(realpathSync(image))) : denyImplicitOpens;
  return (request) => (request.kind === 'probe' && request.from === undefined) || beside(request);
}

/** Resolves at the first signal that asks to stop; a second one kills. To be called before there is anything to stop. */
export function stopRequested(): Promise<void> {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  return new Promise((resolve) => {
    const stop = (): void => {
      for (const signal of signals) process.off(signal, stop);
      resolve();
    };
    for (const signal of signals) process.on(signal, stop);
  });
}
