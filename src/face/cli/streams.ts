/** Images that come from standard input and go to standard output. */
import { once } from 'node:events';
import { closeSync, createWriteStream, mkdtempSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockBackend } from '../../block/child.js';
import { strerror } from '../../block/errors.js';
import { streamImage, type StreamRequest } from '../../image/stream.js';
import { sharedGraph } from './open.js';
import { CliError, programName } from './output.js';

/** Whether a name stands for standard input or output; the peers know files of that name only. */
export function isStream(filename: string | undefined): boolean {
  return filename === '-' && programName() === 'vdisk';
}

/** Writes an image to standard output. */
export async function toStandardOutput(source: BlockBackend, request: StreamRequest, progress: (done: number, total: number) => void): Promise<void> {
  const { stdout } = process;
  if (stdout.isTTY) throw new CliError('An image is not written to a terminal; redirect standard output');
  const stream = await streamImage(await sharedGraph(), source, request);
  let failure: Error | undefined;
  stdout.on('error', (error) => { failure = error; });
  let done = 0;
  for await (const chunk of stream.chunks()) {
    if (failure) throw streamError('writing to standard output', failure);
    await new Promise<void>((resolve, reject) => stdout.write(chunk, (error) => (error ? reject(streamError('writing to standard output', error)) : resolve())));
    progress(done += chunk.length, stream.length ?? source.size);
  }
}

/**
 * Keeps what comes from standard input in a file that no longer has a name, since an image is read in any order.
 * Returns the path by which it can be opened.
 */
export async function fromStandardInput(): Promise<string> {
  if (process.stdin.isTTY) throw new CliError('An image is not read from a terminal; redirect standard input');
  const folder = mkdtempSync(join(process.env['TMPDIR'] ?? process.getBuiltinModule('node:os').tmpdir(), 'vdisk-stdin-'));
  const path = join(folder, 'image');
  let fd: number;
  try {
    const file = createWriteStream(path, { mode: 0o600 });
    await once(file, 'open');
    fd = openSync(path, 'r+');
    rmSync(folder, { recursive: true });
    process.once('exit', () => closeSync(fd));
    const { pipeline } = await import('node:stream/promises');
    await pipeline(process.stdin, file);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw streamError('reading standard input', error as NodeJS.ErrnoException);
  }
  return `/proc/self/fd/${fd}`;
}

/**
 * Refuses an image whose tables name what is not there. A sender that fails just ends, and the missing clusters would read as zeroes.
 * @throws CliError
 */
export async function requireWhole({ node }: BlockBackend): Promise<void> {
  const found = await node.facet('check')?.check({ repair: 'none' });
  if (found !== undefined && found.corruptions + found.checkErrors > 0) throw new CliError('The image on standard input ended too early, or is damaged');
}

function streamError(doing: string, error: NodeJS.ErrnoException): CliError {
  return new CliError(`error while ${doing}: ${error.errno === undefined ? error.message : strerror(-error.errno)}`);
}
