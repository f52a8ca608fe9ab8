/** qemu-nbd: serves an image over NBD, or lists what another server offers. */
import { closeSync, existsSync, fstatSync, lstatSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { BlockError, Errno, strerror } from '../../../block/errors.js';
import { findAuthorization } from '../../../platform/authorization.js';
import type { SocketAddress } from '../../../wire/nbd/address.js';
import { ExportRegistry, NbdExport } from '../../nbd/exports.js';
import { NbdServer } from '../../nbd/server.js';
import { inBackground, reportReady, startInBackground } from '../background.js';
import { closeGraph } from '../open.js';
import { userObjects } from '../objects.js';
import { CliError, reportError } from '../output.js';
import { credentials } from './credentials.js';
import { openExportImage } from './image.js';
import { parseOptions, type NbdToolOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  const options = parseOptions(argv);
  if (options.list) return (await import('./list.js')).listExports(options);
  if (options.fork && !inBackground()) return startInBackground(options.verbose);
  return serve(options);
}

async function serve(options: NbdToolOptions): Promise<number> {
  const tls = options.tlsCreds === undefined ? undefined : credentials(options.tlsCreds, 'server');
  const authorize = options.tlsAuthz === undefined ? undefined : findAuthorization(options.tlsAuthz, (id) => userObjects().get(id));
  const image = await openExportImage(options.files[0]!, options);
  const { backend } = image;
  try {
    const offered = new NbdExport(backend, {
      name: options.exportName ?? '', description: options.description ?? '', writable: !options.readOnly, bitmaps: options.bitmaps,
      allocationDepth: options.allocationDepth, multiConn: options.shared !== 1,
    });
    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => { end = resolve; });
    const server = new NbdServer({
      exports: new ExportRegistry([offered]), tls, authorize, maxClients: options.shared, handshakeTimeoutMs: options.handshakeLimitSec * 1000,
      onDisconnect: (remaining) => { if (remaining === 0 && !options.persistent) end(); },
      ...(options.verbose && { report: (message: string) => reportError(message) }),
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
    await listen(server, options);
    if (options.pidFile !== undefined) writePidFile(options.pidFile);
    if (inBackground()) reportReady(options.verbose);
    await ended;
    await server.stop();
    return 0;
  } finally {
    await backend.close();
    await closeGraph();
    image.dispose();
  }
}

async function listen(server: NbdServer, { socket, bind, port }: NbdToolOptions): Promise<void> {
  if (process.env['LISTEN_PID'] === String(process.pid)) {
    if (process.env['LISTEN_FDS'] !== '1') throw new CliError('qemu-nbd does not support socket activation with more than one socket');
    if (!isSocket(3)) throw new CliError('Socket activation failed: invalid file descriptor fd = 3: Bad file descriptor');
    return server.listenOn(3);
  }
  const address: SocketAddress = socket === undefined ? { type: 'inet', host: bind ?? '0.0.0.0', port: port ?? '10809' } : { type: 'unix', path: socket };
  if (address.type === 'unix' && !existsSync(dirname(address.path))) {
    throw new CliError(`Failed to bind socket to ${address.path}: ${strerror(Errno.ENOENT)}`); // libuv would call it a lack of permission
  }
  try {
    await server.listen(address);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    if (address.type === 'inet' && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOTFOUND') {
      throw new CliError(`address resolution failed for ${address.host}:${address.port}: Name or service not known`);
    }
    if (address.type === 'unix' && lstatSync(address.path, { throwIfNoEntry: false })?.isDirectory()) {
      throw new CliError(`Failed to unlink socket ${address.path}: ${strerror(Errno.EISDIR)}`);
    }
    const where = address.type === 'unix' ? `socket to ${address.path}` : 'socket';
    throw new CliError(`Failed to bind ${where}: ${strerror(error.errno)}`);
  }
}

function isSocket(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}

function writePidFile(path: string): void {
  try {
    const fd = openSync(path, 'w', 0o644);
    writeSync(fd, `${process.pid}\n`);
    closeSync(fd);
  } catch (error) {
    const { errno, message } = error as NodeJS.ErrnoException;
    throw new CliError(`Could not create '${path}': ${errno === undefined ? message : strerror(-errno)}`);
  }
}
