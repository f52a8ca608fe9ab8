/** qemu-img commit */
import { BlockError } from '../../../block/errors.js';
import { findInChain } from '../../../image/chain.js';
import { commitImage, emptyImage } from '../../../image/commit.js';
import { CliError, reportError, say, setQuiet } from '../output.js';
import { cacheArgument, canonicalPath, openImage, reportCloseFailure, sharedGraph } from '../open.js';
import { Progress } from '../progress.js';
import { sizeArgument } from '../sizes.js';
import { checkImageOptions, oneFilename, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let [format, baseName]: (string | undefined)[] = [];
  let cacheName = 'writeback';
  let rate = 0;
  let [imageOpts, showProgress, quiet, drop] = [false, false, false, false];
  const options = new VerbOptions('commit', argv, [
    'q,quiet', 'p,progress', 'f,format=', 't,cache=', 'b,base=', 'd,drop', 'r,rate=', 'object=', 'image-opts',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') quiet = true;
    else if (name === 'progress') showProgress = true;
    else if (name === 'format') format = value;
    else if (name === 'cache') cacheName = value!;
    else if (name === 'base') [baseName, drop] = [value, true];
    else if (name === 'drop') drop = true;
    else if (name === 'rate') rate = sizeArgument('rate limit', value!);
    else if (name === 'image-opts') imageOpts = true;
  }
  if (quiet) setQuiet(true);
  const filename = oneFilename(options.operands);
  const cache = cacheArgument(cacheName);
  checkImageOptions({ imageOpts, format });

  const progress = new Progress(showProgress && !quiet);
  const top = await openImage(filename, { format, imageOpts, cache, writable: true, options: { discard: 'unmap' } });
  let notSettled: BlockError | undefined;
  try {
    progress.report(0, 1);
    const base = baseName === undefined ? top.node.backing : findInChain(top.node, baseName, canonicalPath);
    if (base === undefined) {
      throw new CliError(baseName === undefined ? 'Image does not have a backing file' : `Did not find '${baseName}' in the backing chain of '${filename}'`);
    }
    const graph = await sharedGraph();
    ({ notSettled } = await explained('Block job failed', commitImage(graph, top, base, { rate, progress: (done, total) => progress.report(done, total) })));
    if (notSettled !== undefined) reportError(notSettled.message);
    progress.report(1, 1);
    if (!drop) await explained(`Failed to empty ${filename}`, emptyImage(top));
  } catch (error) {
    await top.close().catch(() => undefined);
    throw error;
  } finally {
    progress.end();
  }
  await top.close().catch((error: unknown) => reportCloseFailure(error, notSettled === undefined));
  say('Image committed.\n');
  return 0;
}

async function explained<T>(prefix: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof BlockError ? new CliError(`${prefix}: ${error.message}`, { cause: error }) : error;
  }
}
