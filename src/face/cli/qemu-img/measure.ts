/** qemu-img measure */
import type { BlockBackend } from '../../../block/child.js';
import type { MeasureResult } from '../../../block/driver.js';
import { BlockError } from '../../../block/errors.js';
import { measureImage, measureOptions } from '../../../image/measure.js';
import { loadSnapshot, type SnapshotReference } from '../../../image/snapshot-source.js';
import { printQJson } from '../../../util/qjson.js';
import { formatBytes } from '../../../util/units.js';
import { CliError, out } from '../output.js';
import { openImage, sharedGraph } from '../open.js';
import { sizeArgument } from '../sizes.js';
import { checkImageOptions, joinOptionLists, outputFormat, snapshotArgument, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let targetFormat = 'raw';
  let snapshot: SnapshotReference | string | undefined;
  let size: number | undefined;
  let output = 'human';
  let [imageOpts, forceShare] = [false, false];
  const lists: string[] = [];
  const options = new VerbOptions('measure', argv, [
    'f,format=', 'l,snapshot=', 'o,options=', 'O,target-format=', 's,size=', 'output=', 'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'format') format = value;
    else if (name === 'snapshot') snapshot = snapshotArgument(value!);
    else if (name === 'options') lists.push(value!);
    else if (name === 'target-format') targetFormat = value!;
    else if (name === 'size') size = sizeArgument('image size', value!);
    else if (name === 'output') output = value!;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  const optionText = joinOptionLists(lists);
  const json = outputFormat(output) === 'json';
  const [filename, surplus] = options.operands;
  if (surplus !== undefined) throw new CliError('At most one filename argument is allowed.');
  if (filename === undefined && (imageOpts || format !== undefined || snapshot !== undefined)) {
    throw new CliError('--image-opts, -f, and -l require a filename argument.');
  }
  if (filename === undefined && size === undefined) throw new CliError('Either --size N or one filename must be specified.');
  if (filename !== undefined && size !== undefined) throw new CliError('--size N cannot be used together with a filename.');
  checkImageOptions({ imageOpts, format });

  const image = filename === undefined ? undefined : await openImage(filename, { format, imageOpts, forceShare });
  try {
    if (image && snapshot !== undefined) await loadSnapshot(image, snapshot);
    const result = await measure(targetFormat, optionText ?? '', image ?? size!);
    if (json) out(`${printQJson({ required: result.required, 'fully-allocated': result.fullyAllocated, bitmaps: result.bitmaps }, true)}\n`);
    else {
      out(`required size: ${formatBytes(result.required)}\nfully allocated size: ${formatBytes(result.fullyAllocated)}\n`);
      if (result.bitmaps !== undefined) out(`bitmaps size: ${formatBytes(result.bitmaps)}\n`);
    }
  } finally {
    await image?.close();
  }
  return 0;
}

async function measure(format: string, optionText: string, content: BlockBackend | number): Promise<MeasureResult> {
  const graph = await sharedGraph();
  let values;
  try {
    values = measureOptions(graph, format, optionText);
  } catch (error) {
    if (!(error instanceof BlockError) || error.code !== 'INVALID_ARGUMENT' || error.message.startsWith('Unknown file format')) throw error;
    const { hint } = error.context;
    throw new CliError(error.message, { ...(typeof hint === 'string' && { hint }), continuation: `Invalid options for file format '${format}'`, cause: error });
  }
  return measureImage(graph, format, values, content);
}
