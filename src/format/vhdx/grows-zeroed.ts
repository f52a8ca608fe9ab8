import type { BlockNode } from '../../block/node.js';

/** Whether a file, seen through filters, reads as zero where it is made longer. */
export function growsZeroed(file: BlockNode): boolean {
  let node = file;
  while (node.driver.kind === 'filter') {
    const below = [...node.children.values()].find(({ role }) => role === 'filtered');
    if (below === undefined) return false;
    ({ node } = below);
  }
  return node.driver.createsZeroed === true;
}
