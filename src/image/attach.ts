/** Joining two chains: the upper one's base, made for a disk like it, comes to stand on the lower one. */
import { BlockError, Errno, type BlockErrorContext } from '../block/errors.js';
import { placeOf } from '../block/filename.js';
import type { BlockNode } from '../block/node.js';

/** @throws BlockError with the fault 'size-mismatch' or 'parent-refused' where `child` cannot stand on `parent` */
export function checkAttach(parent: BlockNode, child: BlockNode): void {
  if (parent.driver !== child.driver) throw refused(`A ${child.driver.name} image cannot stand on a ${parent.driver.name} image here`, 'parent-refused');
  if (child.facet('backing') === undefined) throw refused('The image cannot have a backing file', 'parent-refused');
  const own = placeOf(child);
  for (let link: BlockNode | undefined = parent; link !== undefined; link = link.backing) {
    if (link === child || (own !== undefined && placeOf(link) === own)) throw refused('The image would stand on itself', 'parent-refused');
  }
  if (parent.size !== child.size) throw refused(`The disks differ in size: ${parent.size} and ${child.size} bytes`, 'size-mismatch');
}

/**
 * `child` is open for writing, alone; `filename`: the parent's name as it is stored.
 * @throws BlockError as checkAttach does
 */
export async function attachImage(parent: BlockNode, child: BlockNode, filename: string): Promise<void> {
  checkAttach(parent, child);
  await child.facet('backing')!.change(filename, parent.driver.name, parent.facet('identity'));
}

function refused(message: string, fault: NonNullable<BlockErrorContext['fault']>): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { fault, errno: Errno.EINVAL });
}
