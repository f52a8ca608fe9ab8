/** What the verbs of qemu-img share on their command lines. */
import { BlockError } from '../../../block/errors.js';
import { parseSnapshotReference, type SnapshotReference } from '../../../image/snapshot-source.js';
import { Getopt, GetoptError, type GetoptSettings, type ParsedOption } from '../getopt.js';
import { addObject } from '../objects.js';
import { CliError, ExitError, out, usageError } from '../output.js';
import type { ImageSource } from '../open.js';

/** Options of a verb as it meets them; getopt's complaints in qemu-img's words. `-h` shows the help and ends the tool. */
export class VerbOptions {
  readonly #getopt: Getopt;
  readonly #verb: string;

  constructor(verb: string, argv: readonly string[], definitions: readonly string[], settings: GetoptSettings = {}) {
    this.#verb = verb;
    this.#getopt = new Getopt(argv, ['h,help', ...definitions], { program: verb, ...settings });
  }

  /** @throws CliError, or ExitError after help was shown */
  async next(): Promise<ParsedOption | undefined> {
    let option: ParsedOption | undefined;
    try {
      option = this.#getopt.next();
    } catch (error) {
      throw error instanceof GetoptError ? optionError(error) : error;
    }
    if (option?.name === 'help') {
      out((await import('./help.js')).helpText(this.#verb));
      throw new ExitError(0);
    }
    if (option?.name === 'object') addObject(option.value!);
    return option;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<ParsedOption> {
    for (let option = await this.next(); option !== undefined; option = await this.next()) yield option;
  }

  get operands(): readonly string[] { return this.#getopt.operands; }
}

/** qemu-img's words for getopt's complaint. */
export function optionError({ problem, word }: GetoptError): CliError {
  return usageError(problem === 'missing' ? `missing argument for option '${word}'` : `unrecognized option '${word}'`);
}

/** --output: 'human' or 'json'. */
export function outputFormat(value: string): 'human' | 'json' {
  if (value === 'human' || value === 'json') return value;
  throw new CliError('--output must be used with human or json as argument.');
}

/** Several -o add up to one list. @throws CliError where one can't be joined */
export function joinOptionLists(lists: readonly string[]): string | undefined {
  for (const list of lists) {
    if (list === '' || list.startsWith(',') || /(^|[^,])(,,)*,$/.test(list)) throw new CliError(`Invalid option list: ${list}`);
  }
  return lists.length === 0 ? undefined : lists.join(',');
}

/** The argument of -l. @throws CliError */
export function snapshotArgument(text: string): SnapshotReference | string {
  try {
    return parseSnapshotReference(text);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new CliError(error.message, { continuation: `Failed in parsing snapshot param '${text}'`, cause: error });
  }
}

/** The one image name a verb takes. */
export function oneFilename(operands: readonly string[]): string {
  if (operands.length !== 1) throw usageError('Expecting one image file name');
  return operands[0]!;
}

/** --image-opts and -f exclude each other. */
export function checkImageOptions({ imageOpts, format }: ImageSource): void {
  if (imageOpts && format !== undefined) throw new CliError('--image-opts and --format are mutually exclusive');
}
