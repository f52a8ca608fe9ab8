/** qemu-img rebase */
import type { BlockBackend } from '../../../block/child.js';
import { Perm, Req } from '../../../block/driver.js';
import { BlockError, Errno, strerror } from '../../../block/errors.js';
import type { IdentityFacet } from '../../../block/facets.js';
import { placeOf, resolveReference } from '../../../block/filename.js';
import type { BlockGraph } from '../../../block/graph.js';
import { findInChain, unfiltered } from '../../../image/chain.js';
import { changeUnit, copyDifferences } from '../../../image/rebase.js';
import { CliError, setQuiet, usageError } from '../output.js';
import { cacheArgument, canonicalPath, openImage, prefixed, sharedGraph, withImage, type CacheMode } from '../open.js';
import { Progress } from '../progress.js';
import { checkImageOptions, oneFilename, VerbOptions } from './options.js';

interface NewBacking { readonly filename: string; readonly format: string | undefined; readonly cache: CacheMode; readonly forceShare: boolean }

export async function main(argv: string[]): Promise<number> {
  let [format, backing, backingFormat]: (string | undefined)[] = [];
  let [cacheName, sourceCacheName] = ['writeback', 'writeback'];
  let [imageOpts, forceShare, unsafe, showProgress, quiet, compress] = [false, false, false, false, false, false];
  const options = new VerbOptions('rebase', argv, [
    'q,quiet', 'p,progress', 'f,format=', 'F,backing-format=', 'b,backing=', 'u,backing-unsafe', 't,cache=', 'T,backing-cache=', 'c,compress',
    'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') quiet = true;
    else if (name === 'progress') showProgress = true;
    else if (name === 'format') format = value;
    else if (name === 'backing-format') backingFormat = value;
    else if (name === 'backing') backing = value;
    else if (name === 'backing-unsafe') unsafe = true;
    else if (name === 'cache') cacheName = value!;
    else if (name === 'backing-cache') sourceCacheName = value!;
    else if (name === 'compress') compress = true;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  if (quiet) setQuiet(true);
  const filename = oneFilename(options.operands);
  if (!unsafe && backing === undefined) throw usageError('Must specify backing file (-b) or use unsafe mode (-u)');
  checkImageOptions({ imageOpts, format });
  const [cache, sourceCache] = [cacheArgument(cacheName), cacheArgument(sourceCacheName, 'source cache')];

  const progress = new Progress(showProgress && !quiet);
  progress.report(0, 1);
  try {
    const image = await openImage(filename, {
      format, imageOpts, cache, writable: true, resize: true, options: { noBacking: unsafe, discard: 'unmap' },
    });
    await withImage(image, async () => {
      const graph = await sharedGraph();
      const compresses = (image.node.ops.capabilities.writeFlags & Req.COMPRESSED) !== 0;
      if (compress && !compresses) throw new CliError('Compression not supported for this file format');
      if (backingFormat !== undefined && graph.drivers.get(backingFormat) === undefined) throw new CliError(`Invalid format name: '${backingFormat}'`);
      if (unfiltered(image.node).facet('formatInfo') === undefined) throw new CliError('could not get block driver info');
      const target = { filename: backing ?? '', format: backingFormat, cache: sourceCache, forceShare };
      const identity = unsafe ? await identityOf(image, target)
        : await keepContent(graph, image, target, compress, (done, total) => progress.report(done, total));
      await changeReference(image, backing, backingFormat, identity);
    });
    progress.report(1, 1);
  } finally {
    progress.end();
  }
  return 0;
}

/** Makes the image independent of the difference between its old backing file and the new one. Resolves with how the new one is known again. */
async function keepContent(graph: BlockGraph, image: BlockBackend, wanted: NewBacking, compress: boolean, progress: (done: number, total: number) => void): Promise<IdentityFacet | undefined> {
  const top = unfiltered(image.node);
  const sharedBase = wanted.filename === '' ? undefined : findInChain(top, wanted.filename, canonicalPath);
  let newBacking: BlockBackend | undefined;
  if (sharedBase !== undefined) newBacking = graph.attach(sharedBase, { take: Perm.CONSISTENT_READ, share: Perm.ALL });
  else if (wanted.filename !== '') newBacking = await openNewBacking(image, wanted);
  try {
    await copyDifferences(image, { newBacking, sharedBase, alignment: changeUnit(image.node, compress), compress, progress });
    return newBacking?.facet('identity');
  } finally {
    await newBacking?.close();
  }
}

/** How the new backing file is known again, where the image's format wants that and the file can be opened. */
async function identityOf(image: BlockBackend, wanted: NewBacking): Promise<IdentityFacet | undefined> {
  if (wanted.filename === '' || unfiltered(image.node).facet('backing')?.adoptsUnchecked !== true) return undefined;
  try {
    await using backing = await openNewBacking(image, wanted, { noBacking: true });
    return backing.facet('identity');
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    return undefined;
  }
}

async function openNewBacking(image: BlockBackend, { filename, format, cache, forceShare }: NewBacking, mode: { readonly noBacking?: boolean } = {}): Promise<BlockBackend> {
  try {
    const options = { ...mode, readOnly: true, take: Perm.CONSISTENT_READ, forceShare, cache, ...(format !== undefined && { driver: format }) };
    return await (await sharedGraph()).openBackend(resolveReference(filename, placeOf(image.node) ?? image.node.filename), options);
  } catch (error) {
    throw prefixed(`Could not open new backing file '${filename}'`, error);
  }
}

async function changeReference(image: BlockBackend, backing: string | undefined, format: string | undefined, identity: IdentityFacet | undefined): Promise<void> {
  const failed = (reason: string): CliError => new CliError(`Could not change the backing file to '${backing ?? '(null)'}': ${reason}`);
  const removed = backing === undefined || backing === '';
  if (!removed && format === undefined) throw failed('backing format must be specified');
  const facet = unfiltered(image.node).facet('backing');
  if (facet === undefined) throw failed('Operation not supported');
  try {
    await (removed ? facet.change(undefined, undefined) : facet.change(backing, format, identity));
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw failed(error.errno === Errno.ENOSPC ? 'No space left in the file header' : strerror(error.errno));
  }
}
