/** open, close, quit: what only the tool itself offers. */
import type { Options } from '../../../../block/key-values.js';
import { parseCacheMode, type CacheMode } from '../../open.js';
import { describe, parseOptions, wrongUsage, type Command } from '../command.js';
import { parseDriverOptions } from '../driver-options.js';
import { openForCommands } from '../open.js';

export const defaultCache: CacheMode = { direct: false, noFlush: false, writethrough: true };

/** Whether discards reach the storage; undefined where the mode is none. */
export function parseDiscardMode(name: string): boolean | undefined {
  return ['unmap', 'on'].includes(name) ? true : ['ignore', 'off'].includes(name) ? false : undefined;
}

export function isAioMode(name: string): boolean {
  return ['threads', 'native', 'io_uring'].includes(name);
}

/** `open`; `imageOpts`: its argument is an option list. */
export function openCommand(imageOpts: boolean): Command {
  const command: Command = {
    name: 'open', alias: 'o', minimum: 1, maximum: Infinity, anytime: true,
    usage: '[-rsCnkU] [-t cache] [-d discard] [-o options] [path]',
    summary: 'open the file specified by path',
    details: describe('Opens an image for the commands that follow.', ['open -n -o driver=raw /tmp/data', 'opens a raw disk, writable, past the host cache'], {
      r: 'read-only', s: 'changes go to a temporary overlay', C: 'copy what is read from a backing file', n: 'no host cache, like -t none',
      U: 'share the image with other writers', k: 'native asynchronous I/O', i: 'kind of asynchronous I/O (threads, native or io_uring)',
      t: 'cache mode', d: 'discard mode', o: 'options for the driver',
    }),
    async run(args, session) {
      const { options, operands } = parseOptions(command, args, ['s', 'n', 'C', 'r', 'o=', 'k', 'i=', 't=', 'd=', 'U'], session);
      let cache = defaultCache;
      let unmap = true;
      let nativeAio = false;
      const given: Options = {};
      const has = (letter: string): boolean => options.some(({ name }) => name === letter);
      const refuse = (message: string): false => {
        session.complain(message);
        return false;
      };
      for (const { name, value } of options) {
        if (name === 'n') cache = { direct: true, noFlush: false, writethrough: false };
        else if (name === 'k') nativeAio = true;
        else if (name === 'o') Object.assign(given, parseDriverOptions(value!, session.io));
        else if (name === 't') {
          const mode = parseCacheMode(value!);
          if (mode === undefined) return refuse(`Invalid cache option: ${value}`);
          cache = mode;
        } else if (name === 'd') {
          const mode = parseDiscardMode(value!);
          if (mode === undefined) return refuse(`Invalid discard option: ${value}`);
          unmap = mode;
        } else if (name === 'i') {
          if (!isAioMode(value!)) return refuse(`Invalid aio option: ${value}`);
          nativeAio = value === 'native';
        }
      }
      if (imageOpts && operands.length === 1) Object.assign(given, parseDriverOptions(operands[0]!, session.io));
      else if (operands.length > 1 || (operands.length === 0 && Object.keys(given).length === 0)) throw wrongUsage(command);
      if (session.image !== undefined) return refuse("file open already, try 'help close'");
      const filename = imageOpts ? undefined : operands[0];
      try {
        session.image = await openForCommands({
          filename, options: given, cache, unmap, nativeAio, readOnly: has('r'), forceShare: has('U'), copyOnRead: has('C'), temporary: has('s'),
        });
      } catch (error) {
        return session.complainOf(error, filename === undefined ? "can't open: " : `can't open device ${filename}: `);
      }
      return true;
    },
  };
  return command;
}

export const close: Command = {
  name: 'close', alias: 'c', minimum: 0, maximum: 0,
  summary: 'close the current open file',
  async run(_args, session) {
    await session.close();
    return true;
  },
};

export const quit: Command = {
  name: 'quit', alias: 'q', minimum: 0, maximum: Infinity, anytime: true,
  summary: 'exit the program',
  run(_args, session) {
    session.finished = true;
    return true;
  },
};
