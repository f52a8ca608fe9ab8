/** Which files a disk may lead to that nobody named. */
import { lstatSync, realpathSync } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { protocolPrefix } from '../../block/filename.js';
import type { GateRequest, OpenGate } from '../../block/gate.js';

/**
 * Extents and parents that lie in the folder of the disk that names them (or below it), or in one of `folders`, are opened, as VDDK
 * does; anything else is left to `otherwise`, which denies it by default: a hint found in a disk must not lead just anywhere. The
 * format of a file that the user named may be found out by looking at it; that of a file a disk names may not.
 */
export function chainPolicy(folders: readonly string[], otherwise?: OpenGate): OpenGate {
  const roots = folders.map(realPath);
  return (request) => {
    if (request.kind === 'probe') return request.from === undefined || elsewhere(request);
    if (protocolPrefix(request.filename) === undefined && request.from !== undefined) {
      const place = realPath(request.filename);
      if (isPlain(place) && [realPath(dirname(request.from)), ...roots].some((root) => place.startsWith(root.endsWith(sep) ? root : root + sep))) return true;
    }
    return elsewhere(request);
  };

  function elsewhere(request: GateRequest): ReturnType<OpenGate> {
    return otherwise?.(request) ?? 'it does not lie in the folder of the disk';
  }
}

/** With links followed as far as there is anything. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(realPath(parent), basename(path));
  }
}

/** A regular file, or nothing yet: that it is missing is for the open to say. */
function isPlain(path: string): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found === undefined || found.isFile();
}
