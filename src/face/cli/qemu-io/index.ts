/** qemu-io: reads, writes and examines an image by commands. */
import type { Options } from '../../../block/key-values.js';
import { Getopt, GetoptError } from '../getopt.js';
import { parseCacheMode } from '../open.js';
import { CliError, ExitError, err, flushOut, out, programName, warn } from '../output.js';
import { Session } from './command.js';
import { close, defaultCache, isAioMode, openCommand, parseDiscardMode, quit } from './commands/session.js';
import { parseDriverOptions } from './driver-options.js';
import { openForCommands } from './open.js';
import { imageCommands, runLine } from './run.js';

const definitions = [
  'h,help', 'V,version', 'c,cmd=', 'f,format=', 'r,read-only', 's,snapshot', 'n,nocache', 'C,copy-on-read', 'm,misalign', 'k,native-aio',
  'i,aio=', 't,cache=', 'd,discard=', 'T,trace=', 'U,force-share', 'object=', 'image-opts',
];

/** Runs the tool; resolves with its exit code: 1 where any command failed. */
export async function main(argv: readonly string[]): Promise<number> {
  const io = { out, err, program: programName() };
  const commandLines: string[] = [];
  const seen = new Set<string>();
  let format: string | undefined;
  let cache = defaultCache;
  let unmap = true;
  let nativeAio = false;
  const getopt = new Getopt(argv, definitions, { program: programName() });
  try {
    for (const { name, value = '' } of getopt) {
      seen.add(name);
      switch (name) {
        case 'help': return usage(0);
        case 'version':
          out((await import('../qemu-img/help.js')).versionText());
          return 0;
        case 'cmd': commandLines.push(value); break;
        case 'format': format = value; break;
        case 'nocache': cache = { direct: true, noFlush: false, writethrough: false }; break;
        case 'native-aio': nativeAio = true; break;
        case 'aio':
          if (!isAioMode(value)) throw new CliError(`Invalid aio option: ${value}`);
          nativeAio = value === 'native';
          break;
        case 'cache': cache = parseCacheMode(value) ?? invalid('cache', value); break;
        case 'discard': unmap = parseDiscardMode(value) ?? invalid('discard', value); break;
        case 'object': (await import('../objects.js')).addObject(value); break;
        case 'trace': warn(`trace event '${value}' does not exist`); break;
        default:
      }
    }
  } catch (error) {
    if (!(error instanceof GetoptError)) throw error;
    err(`${programName()}: ${error.message}\n`);
    return usage(1);
  }
  if (getopt.operands.length > 1) return usage(1);
  const imageOpts = seen.has('image-opts');
  if (imageOpts && format !== undefined) throw new CliError('--image-opts and -f are mutually exclusive');
  const session = new Session(io);
  const name = getopt.operands[0];
  if (name !== undefined) {
    const options: Options = imageOpts ? parseDriverOptions(name, io) : format === undefined ? {} : { driver: format };
    const forceShare = seen.has('force-share');
    if (imageOpts && forceShare && ![undefined, 'on'].includes(options['force-share'] as string | undefined)) throw new CliError('-U conflicts with image options');
    const filename = imageOpts ? undefined : name;
    try {
      session.image = await openForCommands({
        filename, options, cache, unmap, nativeAio, forceShare, readOnly: seen.has('read-only'), copyOnRead: seen.has('copy-on-read'),
        temporary: seen.has('snapshot'),
      });
    } catch (error) {
      session.complainOf(error, filename === undefined ? "can't open: " : `can't open device ${filename}: `);
      throw new ExitError(1);
    }
  }
  const commands = [...imageCommands, openCommand(imageOpts), close, quit];
  let failed = false;
  for await (const line of commandLines.length > 0 ? commandLines : prompted()) {
    if (!await runLine(session, line, commands)) failed = true;
    if (session.finished) break;
  }
  await session.close();
  return failed ? 1 : 0;
}

/** Lines of standard input; each is asked for. */
async function* prompted(): AsyncGenerator<string> {
  const { createInterface } = await import('node:readline');
  const prompt = (): void => {
    out('qemu-io> ');
    flushOut();
  };
  prompt();
  for await (const line of createInterface({ input: process.stdin, terminal: false })) {
    yield line;
    prompt();
  }
}

function invalid(what: string, value: string): never {
  throw new CliError(`Invalid ${what} option: ${value}`);
}

async function usage(code: number): Promise<number> {
  out((await import('./help.js')).helpText);
  return code;
}
