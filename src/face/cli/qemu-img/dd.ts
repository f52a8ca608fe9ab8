/** qemu-img dd */
import { createImageFile, protocolOf } from '../../../block/create.js';
import { copyBlocks, ddRange } from '../../../image/dd.js';
import { creatableFormat } from '../../../image/create.js';
import { CliError, removeOnInterrupt, reportError } from '../output.js';
import { openImage, prefixed, sharedGraph } from '../open.js';
import { intMax, sizeArgument } from '../sizes.js';
import { checkImageOptions, VerbOptions } from './options.js';

interface Operands {
  input?: string;
  output?: string;
  blockSize: number;
  count?: number;
  skip: number;
}

export async function main(argv: string[]): Promise<number> {
  let [format, outputFormat]: (string | undefined)[] = [undefined, 'raw'];
  let [imageOpts, forceShare] = [false, false];
  const options = new VerbOptions('dd', argv, ['f,format=', 'O,output-format=', 'image-opts', 'U,force-share', 'object=']);
  for await (const { name, value } of options) {
    if (name === 'format') format = value;
    else if (name === 'output-format') outputFormat = value;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  const { input, output, blockSize, count, skip } = parseOperands(options.operands);
  if (input === undefined || output === undefined) throw new CliError('Must specify both input and output files');
  checkImageOptions({ imageOpts, format });

  const graph = await sharedGraph();
  const source = await openImage(input, { format, imageOpts, forceShare });
  try {
    const range = ddRange(source.size, blockSize, skip, count);
    if (range.skip > source.size) reportError(`${input}: cannot skip to specified offset`);
    creatableFormat(graph, outputFormat!);
    const interrupted = removeOnInterrupt(output);
    try {
      await createImageFile(graph, { filename: output, format: outputFormat!, size: range.length })
        .catch((error: unknown) => { throw prefixed(`${output}: error while creating output image`, error); });
      try {
        const target = await openImage(output, { format: outputFormat, writable: true, resize: true });
        await copyBlocks(source, target, range, blockSize).finally(() => target.close());
      } catch (error) {
        await protocolOf(graph, output).deleteFile?.(output).catch(() => undefined);
        throw error;
      }
    } finally {
      interrupted();
    }
  } finally {
    await source.close();
  }
  return 0;
}

function parseOperands(words: readonly string[]): Operands {
  const operands: Operands = { blockSize: 512, skip: 0 };
  for (const word of words) {
    const [, name, value] = /^([^=]*)=(.*)$/s.exec(word) ?? [];
    if (value === undefined) throw new CliError(`unrecognized operand ${word}`);
    switch (name) {
      case 'if': operands.input = value; break;
      case 'of': operands.output = value; break;
      case 'bs': operands.blockSize = sizeArgument('bs', value, 1, intMax); break;
      case 'count': operands.count = sizeArgument('count', value); break;
      case 'skip': operands.skip = sizeArgument('skip', value); break;
      default: throw new CliError(`unrecognized operand ${name}`);
    }
  }
  return operands;
}
