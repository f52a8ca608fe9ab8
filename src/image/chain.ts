/** Finding one's way in a backing chain. */
import { placeOf, resolveReference } from '../block/filename.js';
import type { BlockNode } from '../block/node.js';

/**
 * The image below `top` that a user means by `name`: as an image in the chain names its backing file, or as a path, relative to
 * the image above it. `canonical` brings two names of one file to one form.
 */
export function findInChain(top: BlockNode, name: string, canonical: (filename: string) => string = normalPath): BlockNode | undefined {
  for (let above = unfiltered(top), node = above.backing; node !== undefined; above = unfiltered(node), node = above.backing) {
    if (above.facet('backing')?.filename === name) return node;
    if (canonical(resolveReference(name, placeOf(above) ?? above.filename)) === canonical(unfiltered(node).filename)) return node;
  }
  return undefined;
}

/** The image a filter (or a row of them) stands before. */
export function unfiltered(node: BlockNode): BlockNode {
  for (const child of node.children.values()) {
    if (node.driver.kind === 'filter' && child.role === 'filtered') return unfiltered(child.node);
  }
  return node;
}

/** A path without `.`, `..` and doubled slashes; links are not followed. */
export function normalPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return (path.startsWith('/') ? '/' : '') + parts.join('/');
}
