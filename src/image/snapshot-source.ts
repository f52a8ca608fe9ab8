/** Reading an image as an internal snapshot shows it (-l). */
import type { BlockBackend } from '../block/child.js';
import { BlockError } from '../block/errors.js';
import { parseKeyValues } from '../block/key-values.js';
import { findSnapshot } from './snapshot.js';

export interface SnapshotReference {
  readonly id?: string | undefined;
  readonly name?: string | undefined;
}

/** The argument of -l: `snapshot.id=…,snapshot.name=…`, or an id or name alone. @throws BlockError naming an unknown key */
export function parseSnapshotReference(text: string): SnapshotReference | string {
  if (!text.startsWith('snapshot.')) return text;
  const { values } = parseKeyValues(text);
  for (const key of values.keys()) {
    if (key !== 'snapshot.id' && key !== 'snapshot.name') throw new BlockError('INVALID_ARGUMENT', `Invalid parameter '${key}'`);
  }
  return { id: values.get('snapshot.id'), name: values.get('snapshot.name') };
}

/** Makes a read-only image show a snapshot. @throws BlockError `Failed to load snapshot: …` */
export async function loadSnapshot(image: BlockBackend, reference: SnapshotReference | string): Promise<void> {
  const facet = image.node.facet('snapshots');
  if (facet === undefined) {
    throw new BlockError('NOT_SUPPORTED',
      `Failed to load snapshot: Block format '${image.node.driver.name}' used by device '${image.name}' does not support temporarily loading internal snapshots`);
  }
  const found = typeof reference === 'string'
    ? findSnapshot(facet, reference)
    : facet.list().find(({ id, name }) => (reference.id ?? id) === id && (reference.name ?? name) === name);
  if (found === undefined) throw new BlockError('NOT_FOUND', "Failed to load snapshot: Can't find snapshot");
  await facet.load(found.id).catch((error: unknown) => {
    throw error instanceof BlockError ? new BlockError(error.code, `Failed to load snapshot: ${error.message}`, error.context, error) : error;
  });
}
