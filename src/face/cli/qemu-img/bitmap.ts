/** qemu-img bitmap */
import type { BlockBackend } from '../../../block/child.js';
import { BlockError } from '../../../block/errors.js';
import { addBitmap, clearBitmap, enableBitmap, mergeBitmap, removeBitmap } from '../../../image/bitmap.js';
import { CliError } from '../output.js';
import { openImage, reportCloseFailure } from '../open.js';
import { sizeArgument } from '../sizes.js';
import { checkImageOptions, VerbOptions } from './options.js';

interface Action { readonly name: string; readonly source?: string | undefined }
const actionNames: readonly string[] = ['add', 'remove', 'clear', 'enable', 'disable', 'merge'];

export async function main(argv: string[]): Promise<number> {
  let [format, sourceFilename, sourceFormat]: (string | undefined)[] = [];
  let granularity: number | undefined;
  let imageOpts = false;
  const actions: Action[] = [];
  const options = new VerbOptions('bitmap', argv, [
    'add', 'remove', 'clear', 'enable', 'disable', 'merge=', 'b,source-file=', 'f,format=', 'F,source-format=', 'g,granularity=', 'object=', 'image-opts',
  ]);
  for await (const { name, value } of options) {
    if (actionNames.includes(name)) actions.push({ name, source: value });
    else if (name === 'source-file') sourceFilename = value;
    else if (name === 'format') format = value;
    else if (name === 'source-format') sourceFormat = value;
    else if (name === 'granularity') granularity = sizeArgument('granularity', value!) || undefined;
    else if (name === 'image-opts') imageOpts = true;
  }
  const has = (wanted: string): boolean => actions.some(({ name }) => name === wanted);
  if (actions.length === 0) throw new CliError('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge');
  if (options.operands.length !== 2) throw new CliError('Expecting filename and bitmap name');
  const [filename, bitmap] = options.operands as [string, string];
  if (granularity !== undefined && !has('add')) throw new CliError('granularity only supported with --add');
  if (sourceFormat !== undefined && sourceFilename === undefined) throw new CliError('-F only supported with -b');
  if (sourceFilename !== undefined && !has('merge')) throw new CliError('Merge bitmap source file only supported with --merge');
  checkImageOptions({ imageOpts, format });

  const target = await openImage(filename, { format, imageOpts, writable: true, options: { noBacking: true } });
  let source = target;
  try {
    if (sourceFilename !== undefined) source = await openImage(sourceFilename, { format: sourceFormat, options: { noBacking: true, noIo: true } });
    for (const action of actions) await perform(action, target, source, bitmap, granularity);
  } catch (error) {
    await target.close().catch(() => undefined);
    throw error;
  } finally {
    if (source !== target) await source.close();
  }
  await target.close().catch((error: unknown) => reportCloseFailure(error));
  return 0;
}

async function perform({ name, source: sourceName }: Action, { node }: BlockBackend, source: BlockBackend, bitmap: string, granularity: number | undefined): Promise<void> {
  try {
    if (name === 'add') await addBitmap(node, bitmap, granularity);
    else if (name === 'remove') await removeBitmap(node, bitmap);
    else if (name === 'clear') clearBitmap(node, bitmap);
    else if (name === 'merge') mergeBitmap(node, bitmap, source.node, sourceName!);
    else enableBitmap(node, bitmap, name === 'enable');
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    const { hint } = error.context;
    throw new CliError(`Operation ${name} on bitmap ${bitmap} failed: ${error.message}`, { ...(hint !== undefined && { hint }), cause: error });
  }
}
