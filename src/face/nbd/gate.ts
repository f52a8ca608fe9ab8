/** What a daemon's images may refer to. */
import { realpathSync, statSync } from 'node:fs';
import { sep } from 'node:path';
import { protocolPrefix } from '../../block/filename.js';
import type { OpenGate } from '../../block/gate.js';

/** Whether the name leads to a regular file in the directory (a real path), symbolic links followed. */
export function isFileInside(root: string, filename: string): boolean {
  try {
    const real = realpathSync(filename);
    return real.startsWith(root.endsWith(sep) ? root : root + sep) && statSync(real).isFile();
  } catch {
    return false;
  }
}

/** Lets images refer to regular files in the directory (a real path) and to nothing else: no device, no address, no file elsewhere. */
export function directoryGate(root: string): OpenGate {
  // a file may be called nbd:localhost:10809, but the name would not open the file
  return ({ filename }) => (protocolPrefix(filename) === undefined && isFileInside(root, filename)) || `it is no file in ${root}`;
}
