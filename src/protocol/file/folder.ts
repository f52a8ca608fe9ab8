/** What is done with files by their names. */
// not from fs/promises: that would be loaded by every call of a tool, with Node's streams
import { promises } from 'node:fs';
import { dirname } from 'node:path';
import type { FolderOperations } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { temporaryName } from '../../block/leftovers.js';
import { errnoOf } from './errno.js';

export const folders: FolderOperations = {
  exists: (filename) => promises.access(filename).then(() => true, () => false),
  list: (folder) => promises.readdir(folder === '' ? '.' : folder).catch((error: unknown) => { throw failed(error, folder, 'list'); }),
  link: linkFile,
  replace: replaceFile,
};

/** File systems without further names for a file give it another one. */
async function linkFile(filename: string, name: string): Promise<void> {
  try {
    await promises.link(filename, name);
  } catch (error) {
    const noLinks = ([Errno.EPERM, Errno.ENOTSUP] as number[]).includes(errnoOf(error));
    if (!noLinks || await folders.exists(name)) throw failed(error, name, 'link');
    await promises.rename(filename, name).catch((reason: unknown) => { throw failed(reason, name, 'rename'); });
  }
  await syncFolder(name);
}

export async function replaceFile(filename: string, write: (temporary: string) => Promise<void>): Promise<void> {
  try {
    const place = await promises.realpath(filename);
    const temporary = temporaryName(place);
    try {
      await write(temporary);
      const { mode, uid, gid } = await promises.stat(place);
      await promises.chown(temporary, uid, gid).catch(() => undefined);
      await promises.chmod(temporary, mode & 0o7777);
      await promises.rename(temporary, place);
    } catch (error) {
      await promises.rm(temporary, { force: true });
      throw error;
    }
    await syncFolder(place);
  } catch (error) {
    throw error instanceof BlockError ? error : failed(error, filename, 'replace');
  }
}

export async function writeDurably(filename: string, content: Uint8Array): Promise<void> {
  const file = await promises.open(filename, 'w');
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Names are durable then, where the host can do that. */
async function syncFolder(filename: string): Promise<void> {
  const folder = await promises.open(dirname(filename)).catch(() => undefined);
  await folder?.sync().catch(() => undefined);
  await folder?.close();
}

function failed(error: unknown, filename: string, op: string): BlockError {
  return systemError(errnoOf(error), { driver: 'file', filename, op }, undefined, error);
}
