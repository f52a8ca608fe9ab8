/**
 * What a command line tool says and how it ends: complete, in order, even into a pipe.
 *
 * Standard output is buffered as C does it (unless a terminal reads it) and written when it is flushed, full, or the tool ends;
 * standard error is written at once. Scripts that merge both see the order they know from the peers.
 */
import { fstatSync, realpathSync, statSync, unlinkSync, writeSync } from 'node:fs';
import { BlockError, strerror } from '../../block/errors.js';

const bufferLimit = 16_384;

const state = {
  program: 'vdisk',
  quiet: false,
  buffered: '',
  cleanups: [] as (() => void)[],
  terminal: undefined as boolean | undefined,
  captured: undefined as string | undefined,
  /** Why standard output could not be written. */
  lost: undefined as string | undefined,
};

/** The name that error lines start with; ours is also that of the peer whose manners the tool has. */
export function setProgram(program: string): void { state.program = program; }
export function programName(): string { return state.program; }

/** Drops what `say` prints (-q). */
export function setQuiet(quiet: boolean): void { state.quiet = quiet; }

/** Ends the tool with an exit code and nothing more to say. */
export class ExitError extends Error {
  override readonly name = 'ExitError';
  readonly exitCode: number;
  constructor(exitCode: number) {
    super(`exit ${exitCode}`);
    this.exitCode = exitCode;
  }
}

/** Ends the tool with `program: message` on standard error. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exitCode: number;
  /** Lines that follow the message without the program's name. */
  readonly hint: string | undefined;
  /** A second line with the program's name. */
  readonly continuation: string | undefined;
  constructor(message: string, settings: { readonly exitCode?: number; readonly hint?: string; readonly continuation?: string; readonly cause?: unknown } = {}) {
    super(message, settings.cause === undefined ? undefined : { cause: settings.cause });
    this.exitCode = settings.exitCode ?? 1;
    this.hint = settings.hint;
    this.continuation = settings.continuation;
  }
}

/** A command line that can't be understood: the message and a line that names --help. */
export function usageError(message: string): CliError {
  return new CliError(message, { hint: `Try '${state.program} --help' for more information` });
}

/** Writes to standard output. */
export function out(text: string): void {
  if (state.captured !== undefined) {
    state.captured += text;
    return;
  }
  state.buffered += text;
  // asking process.stdout would load Node's streams and sockets
  state.terminal ??= fstatSync(1).isCharacterDevice();
  if (state.terminal || state.buffered.length >= bufferLimit) flushOut();
}

/** Writes to standard output unless the tool was told to be quiet. */
export function say(text: string): void {
  if (!state.quiet) out(text);
}

export function flushOut(): void {
  const text = state.buffered;
  state.buffered = '';
  if (text !== '') writeAll(1, Buffer.from(text));
}

/** Writes to standard error as is. */
export function err(text: string): void { writeAll(2, Buffer.from(text)); }

/** `program: message` on standard error. */
export function reportError(message: string, hint?: string): void {
  err(`${state.program}: ${message}\n${hint === undefined ? '' : ensureNewline(hint)}`);
}

export function warn(message: string): void { reportError(`warning: ${message}`); }

/** Prints an error the way the tool does and returns the exit code it stands for. */
export function reportFailure(error: unknown): number {
  const { message, hint, continuation, exitCode } = describeFailure(error);
  if (message !== undefined) reportError(message, hint);
  if (continuation !== undefined) reportError(continuation);
  return exitCode;
}

/** What an error says to a user. Errors that no user can have caused are thrown on. */
export function describeFailure(error: unknown): { message?: string; hint?: string | undefined; continuation?: string | undefined; exitCode: number } {
  if (error instanceof ExitError) return { exitCode: error.exitCode };
  if (error instanceof CliError) return error;
  if (error instanceof BlockError) return { message: error.message, hint: hintOf(error), exitCode: 1 };
  throw error;
}

/** What follows an error's message; the peers know less, such as who holds an image. */
export function hintOf({ context: { hint, fault, filename, holder } }: BlockError): string | undefined {
  if (state.program.startsWith('qemu-')) return hint;
  const lines = [
    ...(hint === undefined ? [] : [hint]),
    ...(fault === 'parent-changed' ? [`The parent '${filename}' has changed since the disk was made that stands on it; 'vdisk rebase -u' takes it as it is.`] : []),
    ...(holder === undefined ? [] : [`It is held by ${holder}.`]),
  ];
  return lines.length === 0 ? undefined : lines.map(ensureNewline).join('');
}

/** Keeps what goes to standard output from now on; the returned function ends that and hands it over. */
export function captureOut(): () => string {
  flushOut();
  state.captured = '';
  return () => {
    const text = state.captured ?? '';
    state.captured = undefined;
    return text;
  };
}

/** Runs `cleanup` if the tool is killed by a signal before the returned function is called. */
function onInterrupt(cleanup: () => void): () => void {
  if (state.cleanups.length === 0) for (const signal of signals) process.on(signal, interrupted);
  state.cleanups.push(cleanup);
  return () => {
    state.cleanups = state.cleanups.filter((other) => other !== cleanup);
    if (state.cleanups.length === 0) for (const signal of signals) process.off(signal, interrupted);
  };
}

/** Removes a half-written regular file if the tool is killed by a signal before the returned function is called. */
export function removeOnInterrupt(filename: string): () => void {
  return onInterrupt(() => {
    if (statSync(filename, { throwIfNoEntry: false })?.isFile()) unlinkSync(realpathSync(filename));
  });
}

/** Flushes what is left and ends the process. Open handles (workers, sockets, timers) do not keep it alive. */
export function exit(code: number): never {
  flushOut();
  if (state.lost === undefined || state.program !== 'vdisk') process.exit(code); // the peers don't look
  reportError(`error while writing to standard output: ${state.lost}`);
  process.exit(code === 0 ? 1 : code);
}

/** Nothing is left to wait for, though the command has not ended: what it has made so far must not pass for its result. */
export function stopped(): never {
  cleanUp();
  flushOut();
  reportError('stopped before it was done: an internal error');
  process.exit(1);
}

function cleanUp(): void {
  for (const cleanup of state.cleanups.splice(0).reverse()) cleanup();
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

function interrupted(signal: NodeJS.Signals): void {
  cleanUp();
  for (const other of signals) process.off(other, interrupted);
  flushOut();
  process.kill(process.pid, signal);
}

function ensureNewline(text: string): string { return text.endsWith('\n') ? text : `${text}\n`; }

function writeAll(fd: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      const { code, errno = 0 } = error as NodeJS.ErrnoException;
      if (code === 'EAGAIN') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
      else if (code === 'EPIPE') brokenPipe();
      else {
        if (fd === 1 && code !== 'EBADF') state.lost = strerror(-errno);
        return;
      }
    }
  }
}

/** Nobody reads any more: end as a C program is ended, by SIGPIPE's exit code. */
function brokenPipe(): never {
  cleanUp();
  process.exit(141);
}
