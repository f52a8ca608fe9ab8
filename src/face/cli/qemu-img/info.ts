/** qemu-img info */
import { CliError, out } from '../output.js';
import { imageInfo, type NodeInfo } from '../../../image/info.js';
import { printQJson } from '../../../util/qjson.js';
import { openImage, withImage, type ImageSource } from '../open.js';
import { checkImageOptions, oneFilename, outputFormat, VerbOptions } from './options.js';

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let output = 'human';
  let [chain, imageOpts, forceShare] = [false, false, false];
  const options = new VerbOptions('info', argv, ['f,format=', 'output=', 'backing-chain', 'object=', 'image-opts', 'U,force-share']);
  for await (const { name, value } of options) {
    if (name === 'format') format = value;
    else if (name === 'output') output = value!;
    else if (name === 'backing-chain') chain = true;
    else if (name === 'image-opts') imageOpts = true;
    else if (name === 'force-share') forceShare = true;
  }
  const filename = oneFilename(options.operands);
  const json = outputFormat(output) === 'json';
  const source = { format, imageOpts, forceShare };
  checkImageOptions(source);
  const infos = await collect(filename, source, chain);
  if (json) out(`${printQJson((chain ? infos : infos[0]), true)}\n`);
  else out((await import('./info-text.js')).chainText(infos));
  return 0;
}

/** The image and, with `chain`, what it is backed by, each opened on its own. */
async function collect(first: string, source: ImageSource, chain: boolean): Promise<NodeInfo[]> {
  const infos: NodeInfo[] = [];
  const seen = new Set<string>();
  let next: { filename: string; source: ImageSource } | undefined = { filename: first, source };
  while (next !== undefined) {
    if (seen.has(next.filename)) throw new CliError(`Backing file '${next.filename}' creates an infinite loop.`);
    seen.add(next.filename);
    const image = await openImage(next.filename, { ...next.source, options: { noBacking: true, noIo: true } });
    const info = await withImage(image, ({ node }) => imageInfo(node));
    infos.push(info);
    const backing = chain ? info['full-backing-filename'] : undefined;
    if (chain && info['backing-filename'] !== undefined && backing === undefined) throw new CliError('Could not determine the backing file name');
    next = backing === undefined ? undefined : { filename: backing, source: { format: info['backing-filename-format'], forceShare: source.forceShare } };
  }
  return infos;
}
