/** The command line of vmware-mount. */
import { Getopt, GetoptError } from '../getopt.js';
import { CliError, programName } from '../output.js';

export type Request =
  | { readonly action: 'help' }
  | { readonly action: 'partitions' | 'list'; readonly disk: string; readonly json: boolean }
  | { readonly action: 'list-disks'; readonly json: boolean }
  | { readonly action: 'mount'; readonly disk: string; readonly partition: number | 'flat'; readonly folder: string; readonly readOnly: boolean; readonly mountOptions?: string }
  | { readonly action: 'unmount'; readonly folder: string }
  | { readonly action: 'close'; readonly disk: string; readonly force: boolean }
  | { readonly action: 'close-all'; readonly force: boolean };

const actions: Readonly<Record<string, number>> = { p: 1, l: 1, L: 0, d: 1, f: 2, k: 1, K: 1, x: 0, X: 0 };

/** @throws CliError with exit code 2 */
export function parseOptions(argv: readonly string[]): Request {
  const getopt = new Getopt(argv, [...Object.keys(actions), 'r', 'o=', 'json', 'h,help', 'v=', 'F=', 'u=', 'P=', 'host=']);
  let chosen: string | undefined;
  const seen = new Map<string, string>();
  try {
    for (const { name, value = '' } of getopt) {
      if (['v', 'F', 'u', 'P', 'host'].includes(name)) {
        throw misuse(`Disks on a server cannot be mounted (${name.length > 1 ? '--' : '-'}${name}); name an NBD address of the disk instead`);
      }
      if (!Object.hasOwn(actions, name)) seen.set(name, value);
      else if (chosen === undefined) chosen = name;
      else throw misuse(`-${chosen} and -${name} exclude each other`);
    }
  } catch (error) {
    if (error instanceof GetoptError) throw misuse(error.message);
    throw error;
  }
  const { operands } = getopt;
  if (seen.has('help') || (chosen === undefined && operands.length === 0)) return { action: 'help' };
  if (chosen !== undefined && operands.length !== actions[chosen]) {
    throw misuse(['-L, -x and -X take no name', `-${chosen} takes the name of a ${chosen === 'd' ? 'directory' : 'disk'}`, '-f takes the name of a disk and a directory'][actions[chosen]!]!);
  }
  const json = seen.has('json');
  const [first = '', second = '', third] = operands;
  const force = chosen === 'K' || chosen === 'X';
  switch (chosen) {
    case 'p': return { action: 'partitions', disk: first, json };
    case 'l': return { action: 'list', disk: first, json };
    case 'L': return { action: 'list-disks', json };
    case 'd': return { action: 'unmount', folder: first };
    case 'k': case 'K': return { action: 'close', disk: first, force };
    case 'x': case 'X': return { action: 'close-all', force };
    default: break;
  }
  if (operands.length < 2 || operands.length > 3) throw misuse('A disk, the number of a partition, and a directory are needed');
  const mountOptions = seen.get('o');
  return {
    action: 'mount', disk: first, partition: chosen === 'f' ? 'flat' : third === undefined ? 1 : partitionNumber(second), folder: third ?? second,
    readOnly: seen.has('r'), ...(mountOptions !== undefined && { mountOptions }),
  };
}

function partitionNumber(text: string): number {
  if (!/^[1-9]\d{0,4}$/.test(text)) throw misuse(`'${text}' is no number of a partition`);
  return Number(text);
}

function misuse(message: string): CliError {
  return new CliError(message, { exitCode: 2, hint: `Try '${programName()} --help' for more information` });
}
