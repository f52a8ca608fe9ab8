/** qemu-img map */
import { BlockError, strerror } from '../../../block/errors.js';
import { mapImage, type MapEntry } from '../../../image/map.js';
import { formatBytes } from '../../../util/units.js';
import { CliError, out } from '../output.js';
import { openImage } from '../open.js';
import { sizeArgument } from '../sizes.js';
import { checkImageOptions, oneFilename, outputFormat, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let output = 'human';
  let [start, length] = [0, Infinity];
  let [imageOpts, forceShare] = [false, false];
  const options = new VerbOptions('map', argv, [
    'f,format=', 'output=', 's,start-offset=', 'l,max-length=', 'object=', 'image-opts', 'U,force-share',
  ]);
  for await (const { name, value } of options) {
    if (name === 'format') format = value;
    else if (name === 'output') output = value!;
    else if (name === 'start-offset') start = sizeArgument('start offset', value!);
    else if (name === 'max-length') length = sizeArgument('max length', value!);
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  const filename = oneFilename(options.operands);
  const json = outputFormat(output) === 'json';
  checkImageOptions({ imageOpts, format });

  const image = await openImage(filename, { format, imageOpts, forceShare });
  try {
    if (json) await printJson((report) => mapImage(image.node, start, start + length, report));
    else {
      out(`${'Offset'.padEnd(16)}${'Length'.padEnd(16)}${'Mapped to'.padEnd(16)}File\n`);
      await mapImage(image.node, start, start + length, printLine);
    }
  } catch (error) {
    throw error instanceof BlockError ? new CliError(`Could not read file metadata: ${strerror(error.errno)}`, { cause: error }) : error;
  } finally {
    await image.close();
  }
  return 0;
}

async function printJson(map: (report: (entry: MapEntry, last: boolean) => void) => void | Promise<void>): Promise<void> {
  out('[');
  await map(({ start, length, depth, present, zero, data, compressed, offset }, last) => {
    const place = offset === undefined ? '' : `, "offset": ${formatBytes(offset)}`;
    out(`{ "start": ${formatBytes(start)}, "length": ${formatBytes(length)}, "depth": ${depth}, "present": ${present}, `
      + `"zero": ${zero}, "data": ${data}, "compressed": ${compressed}${place}}${last ? '' : ',\n'}`);
  });
  out(']\n');
}

function printLine({ start, length, zero, data, offset, file }: MapEntry): void {
  if (data && offset === undefined) throw new CliError('File contains external, encrypted or compressed clusters.');
  if (!data || zero) return;
  out(`${hex(start)}${hex(length)}${hex(offset!)}${file!.filename}\n`);
}

/** C's `%#-16x`. */
function hex(value: number): string {
  return (value === 0 ? '0' : `0x${value.toString(16)}`).padEnd(16);
}
