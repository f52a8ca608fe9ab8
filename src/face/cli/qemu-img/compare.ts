/** qemu-img compare: exit code 0 same, 1 different, 2 not opened, 3 status unknown, 4 not read. */
import type { BlockBackend } from '../../../block/child.js';
import { BlockError } from '../../../block/errors.js';
import { CompareError, compareImages, type Difference } from '../../../image/compare.js';
import { CliError, hintOf, reportFailure, say, setQuiet, usageError } from '../output.js';
import { cacheArgument, openImage, type ImageSource } from '../open.js';
import { Progress } from '../progress.js';
import { checkImageOptions, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let [format, secondFormat]: (string | undefined)[] = [];
  let cacheName = 'writeback';
  let [imageOpts, forceShare, quiet, showProgress, strict] = [false, false, false, false, false];
  const options = new VerbOptions('compare', argv, [
    'f,a-format=', 'F,b-format=', 'T,cache=', 'q,quiet', 'p,progress', 's,strict', 'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'a-format') format = value;
    else if (name === 'b-format') secondFormat = value;
    else if (name === 'cache') cacheName = value!;
    else if (name === 'quiet') quiet = true;
    else if (name === 'progress') showProgress = true;
    else if (name === 'strict') strict = true;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  if (quiet) setQuiet(true);
  if (options.operands.length !== 2) throw usageError('Expecting two image file names');
  const [first, second] = options.operands as [string, string];

  const progress = new Progress(showProgress && !quiet, 2);
  let [a, b]: (BlockBackend | undefined)[] = [];
  try {
    const source: ImageSource = { imageOpts, forceShare, cache: cacheArgument(cacheName, 'source cache') };
    checkImageOptions({ imageOpts, format: format ?? secondFormat });
    a = await openImage(first, { ...source, format });
    b = await openImage(second, { ...source, format: secondFormat });
    progress.report(0, 1);
    if (strict && a.size !== b.size) {
      say('Strict mode: Image size mismatch!\n');
      return 1;
    }
    const difference = await compare(a, b, [first, second], strict, progress);
    if (difference !== undefined) {
      say(difference.kind === 'content' ? `Content mismatch at offset ${difference.offset}!\n` : `Strict mode: Offset ${difference.offset} block status mismatch!\n`);
      return 1;
    }
    say('Images are identical.\n');
    return 0;
  } catch (error) {
    if (error instanceof CliError && error.exitCode > 2) throw error;
    if (!(error instanceof CliError || error instanceof BlockError)) throw error;
    reportFailure(error);
    return 2;
  } finally {
    await b?.close();
    await a?.close();
    progress.end();
  }
}

async function compare(a: BlockBackend, b: BlockBackend, names: readonly [string, string], strict: boolean, progress: Progress): Promise<Difference | undefined> {
  try {
    return await compareImages(a, b, {
      strict,
      sizesDiffer: () => say('Warning: Image size mismatch!\n'),
      progress: (done, total) => progress.report(done, total),
    });
  } catch (error) {
    if (!(error instanceof CompareError)) throw error;
    const name = names[error.image];
    throw error.step === 'read'
      ? new CliError(`Error while reading offset ${error.offset} of ${name}: ${error.message}`, { exitCode: 4, cause: error, ...hintBelow(error) })
      : new CliError(`Sector allocation test failed for ${name}`, { exitCode: 3, cause: error });
  }
}

function hintBelow({ cause }: CompareError): { hint?: string } {
  const hint = cause instanceof BlockError ? hintOf(cause) : undefined;
  return hint === undefined ? {} : { hint };
}
