/** Rewriting an image's storage in the order of the disk. */
import { BlockError, Errno } from '../block/errors.js';
import { protocolFiles } from '../block/file-note.js';
import type { CompactFile } from '../block/facets.js';
import type { BlockGraph } from '../block/graph.js';

export interface CompactControl {
  readonly driver?: string;
  /** What reads as zero takes no space then, unless a backing file would show through. */
  readonly dropZeroes: boolean;
  /** Bytes of the disk. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * The image is not open elsewhere; its content stays the same, and each of its files is replaced at once when it has been written anew.
 * @returns rewritten: false where the format keeps the disk's order anyway
 * @throws BlockError NOT_SUPPORTED for formats that cannot, CANCELLED
 */
export async function compactImage(graph: BlockGraph, filename: string, control: CompactControl): Promise<{ rewritten: boolean }> {
  const { driver, progress, signal } = control;
  const disk = await graph.openBackend(filename, { ...(driver !== undefined && { driver }) });
  try {
    const facet = disk.facet('compact');
    if (facet === undefined) throw new BlockError('NOT_SUPPORTED', `Images of format '${disk.node.driver.name}' as this one cannot be written anew`, { filename, errno: Errno.ENOTSUP });
    const { files } = facet;
    const total = files.reduce((sum, { size }) => sum + size, 0);
    let before = 0;
    for (const file of files) {
      await replaceFile(graph, file, { ...control, progress: (done) => progress?.(before + done, total) });
      before += file.size;
    }
    return { rewritten: files.length > 0 };
  } catch (error) {
    if (signal?.aborted !== true) throw error;
    throw new BlockError('CANCELLED', 'Rewriting was cancelled', { filename, errno: Errno.ECANCELED }, error);
  } finally {
    await disk.close();
  }
}

async function replaceFile(graph: BlockGraph, file: CompactFile, control: Parameters<CompactFile['write']>[1]): Promise<void> {
  const { protocol, folders, place, create } = protocolFiles(graph, file.path);
  await folders.replace(place(file.path), async (temporary) => {
    await create(temporary);
    const target = await graph.openBackend({ driver: protocol.name, filename: temporary }, { discard: 'unmap' });
    try {
      target.allowWriteBeyondEnd = true;
      await file.write(target, control);
    } finally {
      await target.close();
    }
  });
}
