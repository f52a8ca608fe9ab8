/** qemu-img amend */
import type { BlockDriver } from '../../../block/driver.js';
import { amendFields, amendImage } from '../../../image/amend.js';
import { CliError, out, setQuiet, usageError } from '../output.js';
import { cacheArgument, openImage, sharedGraph, withImage } from '../open.js';
import { Progress } from '../progress.js';
import { asksForHelp, optionTable } from './create-options.js';
import { checkImageOptions, joinOptionLists, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let cacheName = 'writeback';
  let [imageOpts, showProgress, quiet, force] = [false, false, false, false];
  const lists: string[] = [];
  const options = new VerbOptions('amend', argv, [
    'q,quiet', 'p,progress', 'f,format=', 't,cache=', 'o,options=', 'object=', 'image-opts', 'force',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') quiet = true;
    else if (name === 'progress') showProgress = true;
    else if (name === 'format') format = value;
    else if (name === 'cache') cacheName = value!;
    else if (name === 'options') lists.push(value!);
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force') force = true;
  }
  const optionText = joinOptionLists(lists);
  if (optionText === undefined) throw usageError('Must specify options (-o)');
  if (quiet) setQuiet(true);
  const help = asksForHelp(optionText);
  if (help && format !== undefined) return printHelp((await sharedGraph()).drivers.get(format) ?? unknownFormat(format));
  const [filename] = options.operands;
  if (filename === undefined || options.operands.length > 1) throw new CliError('Expecting one image file name');
  const cache = cacheArgument(cacheName);
  checkImageOptions({ imageOpts, format });

  const progress = new Progress(showProgress && !quiet);
  try {
    const image = await openImage(filename, { format, imageOpts, cache, writable: true, resize: true });
    progress.report(0, 1);
    if (help) return await withImage(image, async ({ node }) => printHelp(node.driver));
    await withImage(image, () => amendImage(image, optionText, { force, progress: (done, total) => progress.report(done, total) }));
    progress.report(1, 1);
  } finally {
    progress.end();
  }
  return 0;
}

function unknownFormat(format: string): never { throw new CliError(`Unknown file format '${format}'`); }

function printHelp(driver: BlockDriver): number {
  out(optionTable(`Amend options for '${driver.name}':`, amendFields(driver)));
  return 0;
}
