/**
 * getopt_long as the GNU C library does it: permutation, clustered short options, attached and separate arguments, unique
 * prefixes of long names.
 */

export interface ParsedOption {
  /** The long name where there is one, else the letter. */
  readonly name: string;
  /** Present exactly for options that take an argument. */
  readonly value?: string;
}

export type GetoptProblem = 'unknown' | 'ambiguous' | 'missing' | 'unexpected';

/** The word can't be understood as an option. Every tool has its own text for it. */
export class GetoptError extends Error {
  override readonly name = 'GetoptError';
  readonly problem: GetoptProblem;
  /** `argv[optind - 1]` as C programs see it when getopt returns: the offending word, or the one before an unfinished cluster. */
  readonly word: string;
  /** The C library's own message, without the program's name. */
  constructor(problem: GetoptProblem, word: string, message: string) {
    super(message);
    this.problem = problem;
    this.word = word;
  }
}

interface Definition { readonly name: string; readonly long: string | undefined; readonly argument: boolean }

export interface GetoptSettings {
  /** argv[0], as it may show up in `word`. */
  readonly program?: string;
  /** Options may follow operands (default true). */
  readonly permute?: boolean;
}

/**
 * Reads options one by one, so that the caller can complain about one before it meets the next.
 *
 * A definition is `letter`, `long` or `letter,long`, with `=` behind it where an argument is taken: `'f,format='`, `'q'`,
 * `'image-opts'`.
 */
export class Getopt {
  readonly #short = new Map<string, Definition>();
  readonly #long: Definition[] = [];
  readonly #argv: readonly string[];
  readonly #program: string;
  readonly #permute: boolean;
  readonly #operands: string[] = [];
  #index = 0;
  #cluster = '';

  constructor(argv: readonly string[], definitions: readonly string[], settings: GetoptSettings = {}) {
    this.#argv = argv;
    this.#program = settings.program ?? '';
    this.#permute = settings.permute ?? true;
    for (const text of definitions) {
      const argument = text.endsWith('=');
      const names = (argument ? text.slice(0, -1) : text).split(',');
      const long = names.find((name) => name.length > 1);
      const definition = { name: names.at(-1)!, long, argument };
      for (const name of names) {
        if (name.length === 1) this.#short.set(name, definition);
        else this.#long.push(definition);
      }
    }
  }

  /** The next option; undefined at the end. @throws GetoptError */
  next(): ParsedOption | undefined {
    if (this.#cluster !== '') return this.#nextShort();
    while (this.#index < this.#argv.length) {
      const word = this.#argv[this.#index]!;
      if (word === '--') {
        this.#index++;
        break;
      }
      if (word.startsWith('-') && word.length > 1) {
        this.#index++;
        if (word.startsWith('--')) return this.#nextLong(word);
        this.#cluster = word.slice(1);
        return this.#nextShort();
      }
      if (!this.#permute) break;
      this.#operands.push(word);
      this.#index++;
    }
    this.#operands.push(...this.#argv.slice(this.#index));
    this.#index = this.#argv.length;
    return undefined;
  }

  /** Words that are no options; complete once next() has returned undefined. */
  get operands(): readonly string[] { return this.#operands; }

  *[Symbol.iterator](): Iterator<ParsedOption> {
    for (let option = this.next(); option !== undefined; option = this.next()) yield option;
  }

  /** argv[optind - 1]; while letters of a cluster are left, optind has not moved past it. */
  #word(): string {
    const before = this.#index - (this.#cluster === '' ? 1 : 2);
    return this.#argv[before] ?? this.#program;
  }

  #nextShort(): ParsedOption {
    const letter = this.#cluster[0]!;
    this.#cluster = this.#cluster.slice(1);
    const definition = this.#short.get(letter);
    if (definition === undefined) throw new GetoptError('unknown', this.#word(), `invalid option -- '${letter}'`);
    if (!definition.argument) return { name: definition.name };
    if (this.#cluster !== '') {
      const value = this.#cluster;
      this.#cluster = '';
      return { name: definition.name, value };
    }
    const value = this.#argv[this.#index];
    if (value === undefined) throw new GetoptError('missing', this.#word(), `option requires an argument -- '${letter}'`);
    this.#index++;
    return { name: definition.name, value };
  }

  #nextLong(word: string): ParsedOption {
    const equals = word.indexOf('=');
    const typed = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const candidates = this.#long.filter(({ long }) => long!.startsWith(typed));
    const definition = candidates.find(({ long }) => long === typed) ?? (candidates.length === 1 ? candidates[0] : undefined);
    if (definition === undefined) {
      if (candidates.length === 0) throw new GetoptError('unknown', word, `unrecognized option '${word}'`);
      const list = candidates.map(({ long }) => ` '--${long}'`).join('');
      throw new GetoptError('ambiguous', word, `option '${word}' is ambiguous; possibilities:${list}`);
    }
    if (!definition.argument) {
      if (equals >= 0) throw new GetoptError('unexpected', word, `option '--${definition.long}' doesn't allow an argument`);
      return { name: definition.name };
    }
    if (equals >= 0) return { name: definition.name, value: word.slice(equals + 1) };
    const value = this.#argv[this.#index];
    if (value === undefined) throw new GetoptError('missing', word, `option '--${definition.long}' requires an argument`);
    this.#index++;
    return { name: definition.name, value };
  }
}
