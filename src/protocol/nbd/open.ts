/** Opens an export. Apart from the driver's table, so that sockets and TLS are loaded only when one is used. */
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno, notTaken } from '../../block/errors.js';
import { findTlsCredentials, type TlsCredentials } from '../../platform/tls-credentials.js';
import { TransmissionFlag } from '../../wire/nbd/constants.js';
import { defaultContext, Link, type LinkSettings } from './link.js';
import { defaults, invalid, maxConnections, nbdFilename, parseNbdFilename, serverAddress, type NbdOptions } from './options.js';
import { NbdOps } from './ops.js';

const maxString = 4096;
const sectorSize = 512;

type Context = Pick<OpenContext<NbdOptions>, 'options' | 'readOnly' | 'signal' | 'object'>;

export async function openExport(context: Context): Promise<NbdOps> {
  const { options, readOnly, signal } = context;
  const server = serverAddress(options);
  const exportName = options.export ?? '';
  const credentials = tlsCredentials(context);
  const bitmap = options['x-dirty-bitmap'];
  if (Buffer.byteLength(exportName) > maxString) throw invalid('export name too long to send to server');
  if (bitmap !== undefined && Buffer.byteLength(bitmap) > maxString) throw invalid('x-dirty-bitmap query too long to send to server');
  const wanted = bitmap ?? defaultContext;
  const settings: LinkSettings = {
    server, exportName, context: wanted,
    tls: credentials && { credentials, hostname: options['tls-hostname'] },
    timeoutMs: seconds('timeout', options.timeout ?? defaults.timeout),
    reconnectDelayMs: seconds('reconnect-delay', options['reconnect-delay'] ?? 0),
  };
  const first = await Link.open(settings, seconds('open-timeout', options['open-timeout'] ?? 0), signal);
  const links = [first];
  try {
    const { info } = first;
    if (bitmap !== undefined && !info.contexts.has(bitmap)) throw invalid('Could not open image: Invalid argument');
    if (!readOnly && (info.flags & TransmissionFlag.READ_ONLY) !== 0) {
      throw new BlockError('ACCESS_DENIED', 'Could not open image: Permission denied', { driver: 'nbd', errno: Errno.EACCES });
    }
    const several = (info.flags & TransmissionFlag.CAN_MULTI_CONN) !== 0 || (readOnly && (info.flags & TransmissionFlag.READ_ONLY) !== 0);
    const connections = several ? Math.max(1, Math.min(options.connections ?? defaults.connections, maxConnections)) : 1;
    while (links.length < connections) links.push(await Link.open(settings, 0, signal));
    return new NbdOps(links, readOnly, nbdFilename(server, exportName), wanted);
  } catch (error) {
    for (const link of links) link.close();
    throw error;
  }
}

/**
 * An export cannot be created; one that exists takes the place, its first sector cleared so that no old format is found there.
 * Rejects with the peer's text.
 */
export async function takeExistingExport(filename: string): Promise<void> {
  const open = async (): Promise<NbdOps> => openExport({ options: parseNbdFilename(filename), readOnly: false, object: () => undefined });
  const opened = await open().catch((error: unknown) => { throw notTaken('nbd', error); });
  try {
    const head = new Uint8Array(Math.min(Math.max(sectorSize, opened.limits.requestAlignment), opened.size));
    if (head.length > 0) await opened.write(0, head, 0);
  } finally {
    await opened.close();
  }
}

function tlsCredentials({ options, object }: Context): TlsCredentials | undefined {
  const id = options['tls-creds'];
  return id === undefined ? undefined : findTlsCredentials(id, object, 'client');
}

function seconds(name: string, value: number): number {
  if (value < 0) throw invalid(`Parameter '${name}' expects a non-negative number`);
  return value * 1000;
}
