import { Perm } from '../../../../block/driver.js';
import type { Options } from '../../../../block/key-values.js';
import { parseCacheMode } from '../../open.js';
import { describe, parseOptions, wrongUsage, type Command } from '../command.js';
import { parseDriverOptions } from '../driver-options.js';

export const reopen: Command = {
  name: 'reopen', minimum: 0, maximum: Infinity,
  usage: '[(-r|-w)] [-c cache] [-o options]',
  summary: 'reopens an image with new options',
  details: describe('Changes how the open image is used, in place.', ['reopen -o lazy-refcounts=on', 'lets a qcow2 image postpone its reference counts'], {
    r: 'read-only from now on', w: 'writable from now on', c: 'change the cache mode', o: "change options of the driver (as for 'open')",
  }),
  async run(args, session) {
    const { options: given, operands } = parseOptions(reopen, args, ['c=', 'o=', 'r', 'w'], session);
    const { backend, io } = session;
    let readOnly: boolean | undefined;
    let cache;
    const texts: string[] = [];
    for (const { name, value } of given) {
      if (name === 'o') texts.push(value!);
      else if (name === 'c') {
        cache = parseCacheMode(value!);
        if (cache === undefined) return refuse(`Invalid cache option: ${value}`);
      } else if (readOnly !== undefined) return refuse('Only one -r/-w option may be given');
      else readOnly = name === 'r';
    }
    if (operands.length > 0) throw wrongUsage(reopen);
    const options: Options = {};
    for (const text of texts) Object.assign(options, parseDriverOptions(text, io));
    if (readOnly !== undefined && 'read-only' in options) return refuse("Cannot set both -r/-w and 'read-only'");
    if (cache !== undefined && options['cache'] !== undefined) return refuse('Cannot set both -c and the cache options');
    if (cache !== undefined) options['cache'] = { direct: cache.direct, 'no-flush': cache.noFlush };
    if (readOnly !== undefined) options['read-only'] = readOnly;
    const { take } = backend;
    try {
      if (readOnly === true) {
        await backend.flush();
        backend.take &= Perm.CONSISTENT_READ;
      }
      await session.image!.graph.reopen(backend.node, { options });
      if (cache !== undefined) backend.writethrough = cache.writethrough;
    } catch (error) {
      backend.take = take;
      return session.complainOf(error);
    }
    await session.settle();
    return true;

    function refuse(message: string): false {
      session.complain(message);
      return false;
    }
  },
};
