/** Internal snapshots by what users call them. */
import { BlockError } from '../block/errors.js';
import type { InternalSnapshot, SnapshotFacet } from '../block/facets.js';
import type { BlockNode } from '../block/node.js';

/** The image's snapshots. @throws BlockError NOT_SUPPORTED where the format has none */
export function snapshotsOf(node: BlockNode): SnapshotFacet {
  const facet = node.facet('snapshots');
  if (facet === undefined) throw new BlockError('NOT_SUPPORTED', 'Operation not supported', { node: node.name });
  return facet;
}

/** A snapshot by its id or, failing that, by its name. */
export function findSnapshot(facet: SnapshotFacet, idOrName: string): InternalSnapshot | undefined {
  const list = facet.list();
  return list.find(({ id }) => id === idOrName) ?? list.find(({ name }) => name === idOrName);
}
