/** Runs qemu-io's commands over an open image: for the tool itself, and for whoever offers them elsewhere (a monitor). */
import type { BlockBackend } from '../../../block/child.js';
import type { BlockGraph } from '../../../block/graph.js';
import { CommandFailure, Session, usageLine, type Command, type CommandIo } from './command.js';
import { aioFlush, aioRead, aioWrite } from './commands/background.js';
import { removeBreak, resume, setBreak, waitBreak, zoneCommands } from './commands/debug.js';
import { alloc, flush, info, length, map, truncate } from './commands/image.js';
import { abort, sigraise, sleep } from './commands/process.js';
import { reopen } from './commands/reopen.js';
import { discard, read, readv, write, writev } from './commands/transfer.js';

const help: Command = {
  name: 'help', alias: '?', minimum: 0, maximum: 1, anytime: true,
  usage: '[command]',
  summary: 'help for one or all commands',
  run: () => true,
};

/** Commands that need nothing but an image. */
export const imageCommands: readonly Command[] = [
  abort, aioFlush, aioRead, aioWrite, alloc, discard, flush, help, info, length, map, read, readv, removeBreak, reopen, resume, setBreak,
  sigraise, sleep, truncate, waitBreak, write, writev, ...zoneCommands,
];

/**
 * Runs one command line on an image and waits for what it started. False where it failed; the reason is in the output.
 * Rejects only for faults that are not the request's own.
 */
export async function runCommand(graph: BlockGraph, backend: BlockBackend, line: string, io: CommandIo): Promise<boolean> {
  const session = new Session(io, { graph, backend });
  const done = await runLine(session, line, imageCommands);
  await session.drain();
  return done;
}

/** Runs one command line of a session. Words are separated by blanks; there is no quoting. */
export async function runLine(session: Session, line: string, commands: readonly Command[]): Promise<boolean> {
  const [name, ...args] = line.split(' ').filter((word) => word !== '');
  if (name === undefined) return true;
  const { io } = session;
  const command = commands.find((each) => each.name === name || each.alias === name);
  if (command === undefined) {
    io.err(`command "${name}" not found\n`);
    return false;
  }
  if (!command.anytime && session.image === undefined) {
    io.err("no file open, try 'help open'\n");
    return false;
  }
  const { minimum, maximum } = command;
  if (args.length < minimum || args.length > maximum) {
    const expected = maximum === Infinity ? `at least ${minimum}` : minimum === maximum ? minimum : `between ${minimum} and ${maximum}`;
    io.err(`bad argument count ${args.length} to ${name}, expected ${expected} arguments\n`);
    return false;
  }
  try {
    if (command.permissions !== undefined) session.acquire(command.permissions);
  } catch (error) {
    return session.complainOf(error);
  }
  if (command === help) return showHelp(session, commands, args[0]);
  try {
    return await command.run(args, session);
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    io.out(`${error.message}\n`);
    return false;
  }
}

function showHelp({ io }: Session, commands: readonly Command[], topic: string | undefined): boolean {
  if (topic === undefined) {
    for (const command of [...commands].sort((a, b) => (a.name < b.name ? -1 : 1))) io.out(usageLine(command));
    io.out("\nUse 'help commandname' for extended help.\n");
    return true;
  }
  const command = commands.find(({ name, alias }) => name === topic || alias === topic);
  if (command === undefined) {
    io.out(`command ${topic} not found\n`);
    return false;
  }
  io.out(usageLine(command) + (command.details?.() ?? ''));
  return true;
}
