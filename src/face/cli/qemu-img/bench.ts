/** qemu-img bench */
import { BlockError } from '../../../block/errors.js';
import { benchImage } from '../../../image/bench.js';
import { clockMs } from '../../../platform/clock.js';
import { CliError, out } from '../output.js';
import { openImage, parseCacheMode } from '../open.js';
import { intMax, numberArgument, sizeArgument } from '../sizes.js';
import { checkImageOptions, oneFilename, VerbOptions } from './options.js';

const aioModes = ['threads', 'native', 'io_uring'];

export async function main(argv: string[]): Promise<number> {
  let format: string | undefined;
  let cacheName = 'writeback';
  let aio: string | undefined;
  let [count, depth, flushInterval, offset, pattern, bufferSize, step] = [75_000, 64, 0, 0, 0, 4096, 0];
  let [imageOpts, forceShare, write, drainOnFlush] = [false, false, false, true];
  const options = new VerbOptions('bench', argv, [
    'c,count=', 'd,depth=', 'f,format=', 'flush-interval=', 'i,aio=', 'n,native', 'no-drain', 'o,offset=', 'pattern=', 'q,quiet',
    's,buffer-size=', 'S,step-size=', 't,cache=', 'w,write', 'U,force-share', 'object=', 'image-opts',
  ]);
  for await (const { name, value } of options) {
    switch (name) {
      case 'count': count = numberArgument('request count', value!, 1); break;
      case 'depth': depth = numberArgument('queue depth', value!, 1); break;
      case 'format': format = value; break;
      case 'flush-interval': flushInterval = numberArgument('flush interval', value!, 0); break;
      case 'aio': aio = value; break;
      case 'native': aio = 'native'; break;
      case 'no-drain': drainOnFlush = false; break;
      case 'offset': offset = sizeArgument('offset', value!); break;
      case 'pattern': pattern = numberArgument('pattern byte', value!, 0, 255n); break;
      case 'buffer-size': bufferSize = sizeArgument('buffer size', value!, 1, intMax); break;
      case 'step-size': step = sizeArgument('step size', value!, 0, intMax); break;
      case 'cache': cacheName = value!; break;
      case 'write': write = true; break;
      case 'force-share': forceShare = true; break;
      case 'image-opts': imageOpts = true; break;
    }
  }
  const filename = oneFilename(options.operands);
  if (!write && flushInterval > 0) throw new CliError('--flush-interval is only available in write tests');
  if (flushInterval > 0 && flushInterval < depth) throw new CliError("Flush interval can't be smaller than depth");
  const cache = parseCacheMode(cacheName);
  if (cache === undefined) throw new CliError('Invalid cache mode');
  if (aio !== undefined && !aioModes.includes(aio)) throw new CliError(`Invalid aio option: ${aio}`);
  if (aio === 'native' && !cache.direct) {
    throw new CliError(`Could not open '${filename}': aio=native was specified, but it requires cache.direct=on, which was not specified.`);
  }
  checkImageOptions({ imageOpts, format });

  const image = await openImage(filename, { format, imageOpts, forceShare, cache, writable: write });
  try {
    step ||= bufferSize;
    out(`Sending ${count} ${write ? 'write' : 'read'} requests, ${bufferSize} bytes each, ${depth} in parallel (starting at offset ${offset}, step size ${step})\n`);
    if (flushInterval > 0) out(`Sending flush every ${flushInterval} requests\n`);
    const start = clockMs();
    await benchImage(image, { write, count, depth, offset, step, bufferSize, pattern, flushInterval, drainOnFlush });
    out(`Run completed in ${((clockMs() - start) / 1000).toFixed(3)} seconds.\n`);
  } catch (error) {
    throw error instanceof BlockError ? new CliError(`Failed request: ${error.message}`, { cause: error }) : error;
  } finally {
    await image.close();
  }
  return 0;
}
