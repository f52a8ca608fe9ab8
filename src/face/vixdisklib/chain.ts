/** Operations on a disk that its handle lets go of meanwhile. */
import type { BlockBackend } from '../../block/child.js';
import type { BlockNode } from '../../block/node.js';
import { attachImage, checkAttach } from '../../image/attach.js';
import { compactImage } from '../../image/compact.js';
import { dirname } from 'node:path';
import type { LibraryContext } from './context.js';
import { VixError } from './errors.js';
import { parentHint } from './making.js';
import { driverOf } from './opening.js';
import { controlled, type LongOperation } from './progress.js';

/** @throws VixError VIX_E_DISK_CANTSHRINK where zeroes are to be dropped from a disk that is not sparse */
export async function compactOpen({ graph, journal }: LibraryContext, path: string, dropZeroes: boolean, control: LongOperation): Promise<void> {
  const end = journal.begin(dirname(path), path);
  try {
    await controlled(control, async ({ signal, progress }) => {
      const { rewritten } = await compactImage(graph, path, { ...driverOf(path), dropZeroes, signal, progress });
      if (dropZeroes && !rewritten) throw new VixError('VIX_E_DISK_CANTSHRINK', 'it is not sparse', { path });
    });
  } finally {
    end?.();
  }
}

/** @throws VixError VIX_E_DISK_ATTACH_ROOTLINK; BlockError for what else is in the way */
export function checkAttachable(parent: BlockNode, child: BlockNode): void {
  const backing = child.facet('backing');
  if (backing !== undefined && backing.filename === undefined) throw new VixError('VIX_E_DISK_ATTACH_ROOTLINK');
  checkAttach(parent, child);
}

/** @param open opens the child alone, for writing */
export async function attachChild(parent: BlockNode, parentPath: string, childPath: string, open: () => Promise<BlockBackend>): Promise<void> {
  const child = await open();
  try {
    await attachImage(parent, child.node, parentHint(parentPath, childPath));
  } finally {
    await child.close();
  }
}
