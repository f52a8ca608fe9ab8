/** qemu-img snapshot */
import { BlockError, strerror } from '../../../block/errors.js';
import type { BlockNode } from '../../../block/node.js';
import { snapshotInfo } from '../../../image/info.js';
import { findSnapshot, snapshotsOf } from '../../../image/snapshot.js';
import { CliError, out, reportError, setQuiet, usageError } from '../output.js';
import { openImage, withImage } from '../open.js';
import { checkImageOptions, oneFilename, VerbOptions } from './options.js';

type Action = { readonly kind: 'list' } | { readonly kind: 'apply' | 'create' | 'delete'; readonly name: string };

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let action: Action | undefined;
  let [imageOpts, forceShare] = [false, false];
  const options = new VerbOptions('snapshot', argv, [
    'q,quiet', 'f,format=', 'l,list', 'a,apply=', 'c,create=', 'd,delete=', 'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') setQuiet(true);
    else if (name === 'format') format = value;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
    else if (name !== 'object') {
      if (action !== undefined) throw usageError("Cannot mix '-l', '-a', '-c', '-d'");
      action = name === 'list' ? { kind: 'list' } : { kind: name as 'apply' | 'create' | 'delete', name: value! };
    }
  }
  const wanted: Action = action ?? { kind: 'list' };
  const filename = oneFilename(options.operands);
  checkImageOptions({ imageOpts, format });
  const open = (): ReturnType<typeof openImage> => openImage(filename, {
    format, imageOpts, forceShare, writable: wanted.kind !== 'list', resize: wanted.kind === 'apply',
    options: { noBacking: wanted.kind === 'list', discard: 'unmap' },
  });
  let backend = await open();
  // The peer then tries the layer below, and opens the image anew: a guessed format is warned of again.
  if (wanted.kind === 'apply' && backend.node.facet('snapshots') === undefined) {
    await backend.close();
    backend = await open();
  }
  await withImage(backend, ({ node }) => (wanted.kind === 'list' ? list(node) : change(node, wanted)));
  return 0;
}

async function list(node: BlockNode): Promise<void> {
  const snapshots = node.facet('snapshots')?.list() ?? [];
  if (snapshots.length === 0) return;
  const { snapshotTable } = await import('./info-text.js');
  out(`Snapshot list:\n${snapshotTable(snapshots.map(snapshotInfo)).join('\n')}\n`);
}

async function change(node: BlockNode, { kind, name }: Exclude<Action, { kind: 'list' }>): Promise<void> {
  try {
    await run[kind](node, name);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new CliError(`Could not ${kind} snapshot '${name}': ${error.message}`);
  }
}

const run = {
  async create(node: BlockNode, name: string): Promise<void> {
    try {
      await snapshotsOf(node).create({ name });
    } catch (error) {
      throw error instanceof BlockError ? new BlockError(error.code, strerror(error.errno), error.context, error) : error;
    }
  },
  async apply(node: BlockNode, name: string): Promise<void> {
    const facet = node.facet('snapshots');
    if (facet === undefined) throw new BlockError('NOT_SUPPORTED', 'Block driver does not support snapshots');
    await facet.apply(findSnapshot(facet, name)?.id ?? name).catch((error: unknown) => {
      if (!(error instanceof BlockError) || error.code === 'IN_USE') throw error;
      if (error.code === 'CORRUPT_IMAGE') reportError(error.message);
      throw new BlockError('NOT_FOUND', `Failed to load snapshot: ${strerror(error.errno)}`, { errno: error.errno }, error);
    });
  },
  async delete(node: BlockNode, name: string): Promise<void> {
    const facet = node.facet('snapshots');
    const found = facet?.list().find((snapshot) => snapshot.name === name);
    if (facet === undefined || found === undefined) throw new BlockError('NOT_FOUND', 'snapshot not found');
    await facet.delete(found.id);
  },
};
