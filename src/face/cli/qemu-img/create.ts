/** qemu-img create */
import { protocolOf } from '../../../block/create.js';
import { createFields, createImage, creatableFormat } from '../../../image/create.js';
import { flushOut, out, removeOnInterrupt, say, setQuiet, usageError } from '../output.js';
import { prefixed, sharedGraph } from '../open.js';
import { sizeArgument } from '../sizes.js';
import { asksForHelp, formattingLine, optionTable } from './create-options.js';
import { joinOptionLists, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let format = 'raw';
  let [backing, backingFormat]: (string | undefined)[] = [];
  let openBacking = true;
  const lists: string[] = [];
  const options = new VerbOptions('create', argv, [
    'q,quiet', 'f,format=', 'o,options=', 'b,backing=', 'F,backing-format=', 'u,backing-unsafe', 'object=',
  ]);
  for await (const { name, value } of options) {
    if (name === 'quiet') setQuiet(true);
    else if (name === 'format') format = value!;
    else if (name === 'options') lists.push(value!);
    else if (name === 'backing') backing = value;
    else if (name === 'backing-format') backingFormat = value;
    else if (name === 'backing-unsafe') openBacking = false;
  }
  const optionText = joinOptionLists(lists);
  const [filename, sizeText, surplus] = options.operands;
  if (asksForHelp(optionText)) return help(format, filename);
  if (filename === undefined) throw usageError('Expecting image file name');
  const size = sizeText === undefined ? undefined : sizeArgument('image size', sizeText);
  if (surplus !== undefined) throw usageError(`Unexpected argument: ${surplus}`);

  let done = (): void => undefined;
  try {
    await createImage(await sharedGraph(), {
      filename, format, optionText, size, backing, backingFormat, openBacking,
      announce: (values) => {
        say(formattingLine(filename, format, values));
        flushOut();
        done = removeOnInterrupt(filename);
      },
    });
  } catch (error) {
    throw prefixed(filename, error);
  } finally {
    done();
  }
  return 0;
}

async function help(format: string, filename: string | undefined): Promise<number> {
  const graph = await sharedGraph();
  const driver = creatableFormat(graph, format);
  if (filename !== undefined) {
    out(optionTable('Supported options:', createFields(driver, protocolOf(graph, filename))));
    return 0;
  }
  out(optionTable(`Supported ${format} options:`, createFields(driver)));
  out('\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n');
  return 0;
}
