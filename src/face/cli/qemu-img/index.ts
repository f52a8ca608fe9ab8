/** qemu-img: the options before the command, then the command's own module. */
import { Getopt, GetoptError } from '../getopt.js';
import { out, usageError, warn } from '../output.js';
import { optionError } from './options.js';

/** A verb: takes its arguments, resolves with the exit code. */
export type Verb = (argv: string[]) => Promise<number>;

export const verbs: Readonly<Record<string, () => Promise<{ readonly main: Verb }>>> = {
  amend: () => import('./amend.js'),
  bench: () => import('./bench.js'),
  bitmap: () => import('./bitmap.js'),
  check: () => import('./check.js'),
  commit: () => import('./commit.js'),
  compare: () => import('./compare.js'),
  convert: () => import('./convert.js'),
  create: () => import('./create.js'),
  dd: () => import('./dd.js'),
  info: () => import('./info.js'),
  map: () => import('./map.js'),
  measure: () => import('./measure.js'),
  rebase: () => import('./rebase.js'),
  resize: () => import('./resize.js'),
  snapshot: () => import('./snapshot.js'),
};

export async function main(argv: string[]): Promise<number> {
  const options = new Getopt(argv, ['h,help', 'V,version', 'T,trace='], { program: 'qemu-img', permute: false });
  try {
    for (const { name, value } of options) {
      if (name === 'trace') warn(`trace event '${value}' does not exist`);
      else {
        const { helpText, versionText } = await import('./help.js');
        out(name === 'help' ? helpText() : versionText());
        return 0;
      }
    }
  } catch (error) {
    throw error instanceof GetoptError ? optionError(error) : error;
  }
  const [command, ...rest] = options.operands;
  if (command === undefined) throw usageError('Not enough arguments');
  const load = Object.hasOwn(verbs, command) ? verbs[command] : undefined;
  if (load === undefined) throw usageError(`Command not found: ${command}`);
  return (await load()).main(rest);
}
