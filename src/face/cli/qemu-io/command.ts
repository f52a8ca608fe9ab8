/** What a qemu-io command is, and what it works with. */
import type { BlockBackend } from '../../../block/child.js';
import type { BlockGraph } from '../../../block/graph.js';
import { BlockError, strerror } from '../../../block/errors.js';
import { refreshPermissions } from '../../../block/permissions.js';
import { ExitError } from '../output.js';
import { Getopt, GetoptError, type ParsedOption } from '../getopt.js';

/** Where a command's output goes. */
export interface CommandIo {
  /** Standard output. */
  out(text: string): void;
  /** Standard error. */
  err(text: string): void;
  /** Name that error lines start with. */
  readonly program: string;
}

/** The image a session works on. */
export interface OpenImage {
  readonly graph: BlockGraph;
  readonly backend: BlockBackend;
  /** The backend's node is a filter that a switch put there, not one the user named. */
  readonly hasImplicitFilter?: boolean;
}

export interface Command {
  readonly name: string;
  readonly alias?: string;
  /** Words the command takes, options included. */
  readonly minimum: number;
  readonly maximum: number;
  /** Arguments as its usage line shows them. */
  readonly usage?: string;
  readonly summary: string;
  readonly details?: () => string;
  /** Runs without an open image. */
  readonly anytime?: boolean;
  /** Permissions (Perm bits) the image is used with. */
  readonly permissions?: number;
  /** Resolves with false where it failed; by then it has said why. */
  run(args: readonly string[], session: Session): Promise<boolean> | boolean;
}

/** Ends a command as failed, with a line on standard output. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure';
}

/** One run of commands: the open image and the requests still on their way. */
export class Session {
  readonly io: CommandIo;
  /** Most commands refuse without one. */
  image: OpenImage | undefined;
  /** Set by `quit`. */
  finished = false;
  readonly #outstanding = new Set<Promise<void>>();
  #fault: unknown;

  constructor(io: CommandIo, image?: OpenImage) {
    this.io = io;
    this.image = image;
  }

  /** The open image; only for commands that need one. */
  get backend(): BlockBackend {
    return this.image!.backend;
  }

  /** A line on standard error that starts with the program's name. */
  complain(message: string, hint?: string): void {
    this.io.err(`${this.io.program}: ${message}\n${hint === undefined ? '' : `${hint}\n`}`);
  }

  /** Says on standard error what a failed request or open says itself. Errors that are none of the engine's are thrown on. */
  complainOf(error: unknown, prefix = ''): false {
    if (!(error instanceof BlockError)) throw error;
    this.complain(prefix + error.message, error.context.hint);
    return false;
  }

  /** Takes note of a request that goes on while further commands run. What it rejects with, drain() throws. */
  track(request: Promise<void>): void {
    const tracked = request.catch((error: unknown) => { this.#fault ??= error; }).then(() => { this.#outstanding.delete(tracked); });
    this.#outstanding.add(tracked);
  }

  /** Lets requests in the background that are done say so before a foreground command does. */
  settle(): Promise<void> | undefined {
    return this.#outstanding.size === 0 ? undefined : new Promise((resolve) => setImmediate(resolve));
  }

  /** Resolves when nothing is in the background any more. */
  async drain(): Promise<void> {
    while (this.#outstanding.size > 0) await Promise.all(this.#outstanding);
    if (this.#fault !== undefined) throw this.#fault;
  }

  /** Takes permissions of the image that it was not opened with. @throws BlockError */
  acquire(permissions: number): void {
    const { backend } = this;
    const before = backend.take;
    if ((before & permissions) === permissions) return;
    backend.take = before | permissions;
    try {
      refreshPermissions(backend.node);
    } catch (error) {
      backend.take = before;
      throw error;
    }
  }

  /**
   * Waits for what is in the background and closes the image. A failure to write back does not make the session fail, and is only
   * said where a layer has more to say than the system's text: so does the peer.
   */
  async close(): Promise<void> {
    await this.drain();
    const { image } = this;
    this.image = undefined;
    try {
      await image?.backend.close();
    } catch (error) {
      if (!(error instanceof BlockError) || error.message !== strerror(error.errno)) this.complainOf(error);
    }
  }
}

export function usageLine({ name, usage, summary }: Command): string {
  return `${name} ${usage === undefined ? '' : `${usage} `}-- ${summary}\n`;
}

/** Text for `help COMMAND`: what it does, an example, its options. */
export function describe(description: string, example: readonly [command: string, effect: string], options: Readonly<Record<string, string>>, note?: string): () => string {
  return () => [
    '', ` ${description}`, '', ' Example:', ` '${example[0]}' - ${example[1]}`, '',
    ...(note === undefined ? [] : [` ${note}`]),
    ...Object.entries(options).map(([letter, meaning]) => ` -${letter}, -- ${meaning}`), '', '',
  ].join('\n');
}

/** Options and operands of a command line. A wrong option says so and ends the command with its usage line. */
export function parseOptions(command: Command, args: readonly string[], definitions: readonly string[], { io }: Session): { options: ParsedOption[]; operands: readonly string[] } {
  const getopt = new Getopt(args, definitions, { program: command.name });
  try {
    return { options: [...getopt], operands: getopt.operands };
  } catch (error) {
    if (!(error instanceof GetoptError)) throw error;
    io.err(`${command.name}: ${error.message}\n`);
    throw wrongUsage(command);
  }
}

export function wrongUsage(command: Command): CommandFailure {
  return new CommandFailure(usageLine(command).trimEnd());
}

/** `what failed: reason` for a request that failed. What blkverify found ends the tool. Errors that are none of the engine's are thrown on. */
export function requestFailure(what: string, error: unknown, { io }: Session): CommandFailure {
  if (!(error instanceof BlockError)) throw error;
  if (error.context.driver === 'blkverify' && error.context.op === 'verify') {
    io.err(`${error.message}\n`);
    throw new ExitError(1);
  }
  return new CommandFailure(`${what} failed: ${strerror(error.errno)}`, { cause: error });
}
