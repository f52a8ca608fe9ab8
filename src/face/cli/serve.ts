/** vdisk serve: a directory of images over NBD. */
import { mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createImageFile } from '../../block/create.js';
import { BlockError } from '../../block/errors.js';
import { formatNbdUri, type SocketAddress } from '../../wire/nbd/address.js';
import { formatSize } from '../../util/units.js';
import { DirectoryExports } from '../nbd/directory.js';
import { NbdServer } from '../nbd/server.js';
import { parseServeOptions, stopRequested } from './nbd.js';
import { closeGraph, sharedGraph } from './open.js';
import { flushOut, out, usageError } from './output.js';

const help = `Usage: vdisk serve [options] [DIRECTORY]
Serves the images in DIRECTORY (default ./disks) over NBD until Ctrl-C, each under its file name. Files that come later are served
too. Read-only unless --writable is given. Backing files are opened only inside the directory. A directory that is missing or
empty gets one small example.

      --host HOST           listen on this address (default 127.0.0.1)
      --port PORT           and this port (default 10809)
      --socket PATH         listen on a unix socket instead
  -w, --writable            let clients write
      --max-clients NUM     clients served at a time (default 100)
      --tls-certificates DIRECTORY   encrypt, with ca-cert.pem, server-cert.pem and server-key.pem from there
      --tls-psk DIRECTORY            encrypt, with the pre-shared keys in keys.psk there
  -v, --verbose             tell about dropped clients
`;

export async function main(argv: string[]): Promise<number> {
  const options = parseServeOptions(argv, [], help);
  if (options === undefined) return 0;
  if (options.operands.length > 1) throw usageError('One directory, please');
  const directory = options.operands[0] ?? 'disks';
  mkdirSync(directory, { recursive: true });
  const { drivers } = await sharedGraph();
  const exports = new DirectoryExports(directory, { drivers, writable: options.writable });
  if (exports.names().length === 0) await createExample(directory);
  const server = new NbdServer({ exports, ...options.server });
  const stopped = stopRequested();
  try {
    const address = await server.listen(options.address);
    await announce(directory, exports, address, options.writable, options.server.tls !== undefined);
    flushOut();
    await stopped;
    await server.stop();
    out('\nStopped.\n');
    return 0;
  } finally {
    await exports.close();
    await closeGraph();
  }
}

async function announce(directory: string, exports: DirectoryExports, address: SocketAddress, writable: boolean, tls: boolean): Promise<void> {
  out(`Serving ${relative('.', directory) || directory} on ${formatNbdUri(address, '', tls)} (${writable ? 'writable' : 'read-only'})\n\n`);
  let example: string | undefined;
  for (const name of exports.names()) {
    try {
      const lent = await exports.acquire(name);
      if (lent === undefined) continue;
      example ??= name;
      out(`  ${name}  ${lent.backend.node.driver.name}, ${formatSize(lent.size)}${writable && !lent.writable ? ', read-only: its format is a guess' : ''}\n`);
      exports.release(lent);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      out(`  ${name}  cannot be served: ${error.message}${error.context.holder === undefined ? '' : `, held by ${error.context.holder}`}\n`);
    }
  }
  if (example === undefined) return;
  const uri = formatNbdUri(address, example, tls);
  const quoted = /[^\w@%+=:,./-]/.test(uri) ? `'${uri}'` : uri;
  out(`\nTry\n  qemu-img info ${quoted}\n  nbdinfo ${quoted}\n  vdisk info ${quoted}\n\nCtrl-C stops.\n`);
}

/** A small qcow2 image with something to read at its start. */
async function createExample(directory: string): Promise<void> {
  const graph = await sharedGraph();
  const filename = join(directory, 'example.qcow2');
  await createImageFile(graph, { filename, format: 'qcow2', size: 64 * 1024 * 1024 });
  const backend = await graph.openBackend(filename, { driver: 'qcow2' });
  try {
    await backend.write(0, Buffer.from('An example disk, served by vdisk.\n'));
  } finally {
    await backend.close();
  }
}
