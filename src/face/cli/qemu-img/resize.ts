/** qemu-img resize */
import type { Preallocation } from '../../../block/driver.js';
import { BlockError } from '../../../block/errors.js';
import { coerceOption } from '../../../block/options.js';
import { resizeImage, shrinkRefusal } from '../../../image/resize.js';
import { CliError, say, setQuiet, usageError, warn, reportError } from '../output.js';
import { openImage, withImage } from '../open.js';
import { checkImageOptions, VerbOptions } from './options.js';

const preallocations: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

export async function main(argv: string[]): Promise<number> {
  const { rest, size: sizeText } = takeSize(argv);
  let format: string | undefined;
  let preallocation: Preallocation = 'off';
  let [imageOpts, shrink] = [false, false];
  const options = new VerbOptions('resize', rest, ['q,quiet', 'f,format=', 'object=', 'image-opts', 'preallocation=', 'shrink']);
  for await (const { name, value } of options) {
    if (name === 'quiet') setQuiet(true);
    else if (name === 'format') format = value;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'shrink') shrink = true;
    else if (name === 'preallocation') {
      if (!preallocations.includes(value!)) throw new CliError(`Invalid preallocation mode '${value}'`);
      preallocation = value as Preallocation;
    }
  }
  const operands = sizeText === undefined ? options.operands : [...options.operands, sizeText];
  if (operands.length !== 2) throw usageError('Expecting image file name and size');
  const [filename, text] = operands as [string, string];
  checkImageOptions({ imageOpts, format });
  const { sign, bytes } = parseChange(text);

  const backend = await openImage(filename, { format, imageOpts, writable: true, resize: true });
  const size = sign === '' ? bytes : backend.size + Number(`${sign}1`) * bytes;
  try {
    await withImage(backend, () => resizeImage(backend, { size, preallocation, shrink }));
  } catch (error) {
    if (!(error instanceof BlockError) || error.message !== shrinkRefusal) throw error;
    reportError(shrinkRefusal);
    warn("Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.");
    return 1;
  }
  say('Image resized.\n');
  return 0;
}

/** The last word is the size, even where it looks like an option ('-512K'). */
function takeSize(argv: readonly string[]): { rest: readonly string[]; size: string | undefined } {
  const last = argv.at(-1);
  if (last !== undefined && /^(-h|--.*)$/.test(last)) return { rest: argv, size: undefined };
  if (argv.length < 2) throw usageError('Not enough arguments');
  return { rest: argv.slice(0, -1), size: last };
}

function parseChange(text: string): { sign: '' | '+' | '-'; bytes: number } {
  const sign = text[0] === '+' || text[0] === '-' ? text[0] : '';
  return { sign, bytes: Number(coerceOption('size', { type: 'size' }, text.slice(sign.length))) };
}
