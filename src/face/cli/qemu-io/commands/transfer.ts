/** read, write, readv, writev, discard: requests that the next command waits for. */
import { readFileSync } from 'node:fs';
import type { BlockBackend } from '../../../../block/child.js';
import { Perm, Req } from '../../../../block/driver.js';
import { Errno, systemError } from '../../../../block/errors.js';
import { clockMs } from '../../../../platform/clock.js';
import { andThen, type MaybePromise } from '../../../../util/maybe.js';
import type { ParsedOption } from '../../getopt.js';
import { CommandFailure, describe, parseOptions, requestFailure, wrongUsage, type Command, type Session } from '../command.js';
import { hexDump, longestRequest, parseLengths, parsePattern, parseQuantity, report, verifyPattern } from '../values.js';

export const defaultPattern = 0xcd;
/** What a buffer holds before a read: a driver that leaves bytes out is seen. */
export const unread = 0xab;
const statistics = { C: 'print statistics as one line for programs', q: 'print no statistics' };

/** Collects options of one command by their letter; the last one of a kind wins. */
export function collect(options: readonly ParsedOption[]): { has(letter: string): boolean; value(letter: string): string | undefined } {
  const values = new Map(options.map(({ name, value }) => [name, value]));
  return { has: (letter) => values.has(letter), value: (letter) => values.get(letter) };
}

/** Runs a request of the foreground, and lets what finished in the background report first. */
async function perform(session: Session, what: string, request: () => MaybePromise<void>): Promise<void> {
  try {
    await request();
  } catch (error) {
    await session.settle();
    throw requestFailure(what, error, session);
  }
  await session.settle();
}

function checkSectors(name: string, value: number): void {
  if (value % 512 !== 0) throw new CommandFailure(`${value} is not a sector-aligned value for '${name}'`);
}

function vmState({ node }: BlockBackend): { read(offset: number, target: Uint8Array): MaybePromise<void>; write(offset: number, source: Uint8Array): MaybePromise<void> } {
  const facet = node.facet('vmState');
  if (facet === undefined) throw systemError(Errno.ENOTSUP);
  return facet;
}

export const read: Command = {
  name: 'read', alias: 'r', minimum: 2, maximum: Infinity,
  usage: '[-abCqrv] [-P pattern [-s off] [-l len]] off len',
  summary: 'reads a number of bytes at a specified offset',
  details: describe('Reads a range of the open image.', ['read -v 512 1k', 'shows 1 kilobyte from byte 512 on'], {
    b: 'read VM state instead of the disk', ...statistics, l: 'length of the range to verify (with -P)', p: 'accepted, without effect',
    P: 'expect every byte to have this value', r: 'accepted, without effect', s: 'where the range to verify starts (with -P)', v: 'show what was read',
  }),
  async run(args, session) {
    const { options, operands } = parseOptions(read, args, ['b', 'C', 'l=', 'p', 'P=', 'q', 'r', 's=', 'v'], session);
    let pattern: number | undefined;
    let skip = 0;
    let count: number | undefined;
    for (const { name, value } of options) {
      if (name === 'l') count = parseQuantity(value!);
      else if (name === 'P') pattern = parsePattern(value!);
      else if (name === 's') skip = parseQuantity(value!);
    }
    const given = collect(options);
    if (operands.length !== 2) throw wrongUsage(read);
    const offset = parseQuantity(operands[0]!);
    const length = parseQuantity(operands[1]!);
    if (length > longestRequest) throw new CommandFailure(`length cannot exceed ${longestRequest}, given ${operands[1]}`);
    if (pattern === undefined && (given.has('l') || given.has('s'))) throw wrongUsage(read);
    count ??= length - skip;
    if (count < 0 || count + skip > length) throw new CommandFailure('pattern verification range exceeds end of read data');
    if (given.has('b')) {
      checkSectors('offset', offset);
      checkSectors('count', length);
    }
    const buffer = new Uint8Array(length).fill(unread);
    const startedMs = clockMs();
    await perform(session, 'read', () => given.has('b') ? vmState(session.backend).read(offset, buffer) : session.backend.read(offset, buffer));
    const matches = pattern === undefined || verifyPattern(session, buffer.subarray(skip, skip + count), pattern, offset + skip);
    if (given.has('q')) return matches;
    if (given.has('v')) hexDump(session, buffer, offset);
    report(session, { verb: 'read', offset, length, startedMs, terse: given.has('C') });
    return matches;
  },
};

export const readv: Command = {
  name: 'readv', minimum: 2, maximum: Infinity,
  usage: '[-Cqrv] [-P pattern] off len [len..]',
  summary: 'reads a number of bytes at a specified offset',
  details: describe('Reads a range of the open image into several buffers.', ['readv -v 512 1k 1k', 'shows 2 kilobytes from byte 512 on'], {
    C: statistics.C, P: 'expect every byte to have this value', q: statistics.q, r: 'accepted, without effect', v: 'show what was read',
  }),
  async run(args, session) {
    const { options, operands } = parseOptions(readv, args, ['C', 'P=', 'q', 'r', 'v'], session);
    const given = collect(options);
    const patternText = given.value('P');
    const pattern = patternText === undefined ? undefined : parsePattern(patternText);
    if (operands.length < 2) throw wrongUsage(readv);
    const offset = parseQuantity(operands[0]!);
    const buffer = new Uint8Array(parseLengths(operands.slice(1)).reduce((sum, length) => sum + length, 0)).fill(unread);
    const startedMs = clockMs();
    await perform(session, 'readv', () => session.backend.read(offset, buffer));
    const matches = pattern === undefined || verifyPattern(session, buffer, pattern, offset);
    if (given.has('q')) return matches;
    if (given.has('v')) hexDump(session, buffer, offset);
    report(session, { verb: 'read', offset, length: buffer.length, startedMs, terse: given.has('C') });
    return matches;
  },
};

export const write: Command = {
  name: 'write', alias: 'w', minimum: 2, maximum: Infinity, permissions: Perm.WRITE,
  usage: '[-bcCfnqruz] [-P pattern | -s source_file] off len',
  summary: 'writes a number of bytes at a specified offset',
  details: describe('Writes a range of the open image, from a buffer filled with 0xcd.', ['write 512 1k', 'writes 1 kilobyte from byte 512 on'], {
    b: 'write VM state instead of the disk', c: 'store the data compressed', C: statistics.C, f: 'the data is durable when the request completes',
    n: 'with -z: fail rather than write zeroes as data', p: 'accepted, without effect', P: 'fill the buffer with this value', q: statistics.q,
    r: 'accepted, without effect', s: 'fill the buffer from this file, repeated', u: 'with -z: space may be given back', z: 'write zeroes without a buffer',
  }),
  async run(args, session) {
    const { options, operands } = parseOptions(write, args, ['b', 'c', 'C', 'f', 'n', 'p', 'P=', 'q', 'r', 's=', 'u', 'z'], session);
    let pattern = defaultPattern;
    for (const { name, value } of options) if (name === 'P') pattern = parsePattern(value!);
    const given = collect(options);
    const zeroes = given.has('z');
    if (operands.length !== 2) throw wrongUsage(write);
    if (given.has('b') && zeroes) throw new CommandFailure('-b and -z cannot be specified at the same time');
    if (given.has('f') && (given.has('b') || given.has('c'))) throw new CommandFailure('-f and -b or -c cannot be specified at the same time');
    if (given.has('n') && !zeroes) throw new CommandFailure('-n requires -z to be specified');
    if (given.has('u') && !zeroes) throw new CommandFailure('-u requires -z to be specified');
    if (Number(zeroes) + Number(given.has('P')) + Number(given.has('s')) > 1) {
      throw new CommandFailure('Only one of -z, -P, and -s can be specified at the same time');
    }
    const offset = parseQuantity(operands[0]!);
    const length = parseQuantity(operands[1]!);
    if (length > longestRequest && !given.has('n')) throw new CommandFailure(`length cannot exceed ${longestRequest} without -n, given ${operands[1]}`);
    if (given.has('b') || given.has('c')) {
      checkSectors('offset', offset);
      checkSectors('count', length);
    }
    const source = given.value('s');
    const buffer = zeroes ? new Uint8Array() : source === undefined ? new Uint8Array(length).fill(pattern) : fillFrom(source, length, session);
    if (buffer === undefined) return false;
    const flags = given.has('f') ? Req.FUA : 0;
    const startedMs = clockMs();
    const { backend } = session;
    await perform(session, 'write', () => {
      if (given.has('b')) return andThen(vmState(backend).write(offset, buffer), () => (backend.writethrough ? backend.flush() : undefined));
      if (zeroes) return backend.writeZeroes(offset, length, flags | (given.has('u') ? Req.MAY_UNMAP : 0) | (given.has('n') ? Req.NO_FALLBACK : 0));
      return backend.write(offset, buffer, given.has('c') ? Req.COMPRESSED : flags);
    });
    if (!given.has('q')) report(session, { verb: 'wrote', offset, length, startedMs, terse: given.has('C') });
    return true;
  },
};

/** A file's content, repeated to `length` bytes. */
function fillFrom(filename: string, length: number, { io }: Session): Uint8Array | undefined {
  let content: Uint8Array;
  try {
    content = readFileSync(filename);
  } catch (error) {
    const errno = -((error as NodeJS.ErrnoException).errno ?? -Errno.EIO);
    io.err(`${filename}: ${systemError(errno).message}\n`);
    return undefined;
  }
  if (content.length === 0) {
    io.err(`${filename}: file is empty\n`);
    return undefined;
  }
  const buffer = new Uint8Array(length);
  for (let at = 0; at < length; at += content.length) buffer.set(content.subarray(0, length - at), at);
  return buffer;
}

export const writev: Command = {
  name: 'writev', minimum: 2, maximum: Infinity, permissions: Perm.WRITE,
  usage: '[-Cfqr] [-P pattern] off len [len..]',
  summary: 'writes a number of bytes at a specified offset',
  details: describe('Writes a range of the open image from several buffers filled with 0xcd.', ['writev 512 1k 1k', 'writes 2 kilobytes from byte 512 on'], {
    C: statistics.C, f: 'the data is durable when the request completes', P: 'fill the buffers with this value', q: statistics.q, r: 'accepted, without effect',
  }),
  async run(args, session) {
    const { options, operands } = parseOptions(writev, args, ['C', 'f', 'q', 'r', 'P='], session);
    const given = collect(options);
    const pattern = parsePattern(given.value('P') ?? String(defaultPattern));
    if (operands.length < 2) throw wrongUsage(writev);
    const offset = parseQuantity(operands[0]!);
    const buffer = new Uint8Array(parseLengths(operands.slice(1)).reduce((sum, length) => sum + length, 0)).fill(pattern);
    const startedMs = clockMs();
    await perform(session, 'writev', () => session.backend.write(offset, buffer, given.has('f') ? Req.FUA : 0));
    if (!given.has('q')) report(session, { verb: 'wrote', offset, length: buffer.length, startedMs, terse: given.has('C') });
    return true;
  },
};

export const discard: Command = {
  name: 'discard', alias: 'd', minimum: 2, maximum: Infinity, permissions: Perm.WRITE,
  usage: '[-Cq] off len',
  summary: 'discards a number of bytes at a specified offset',
  details: describe('Gives the space of a range of the open image back.', ['discard 512 1k', 'discards 1 kilobyte from byte 512 on'], statistics),
  async run(args, session) {
    const { options, operands } = parseOptions(discard, args, ['C', 'q'], session);
    const given = collect(options);
    if (operands.length !== 2) throw wrongUsage(discard);
    const offset = parseQuantity(operands[0]!);
    const length = parseQuantity(operands[1]!);
    if (length > longestRequest) throw new CommandFailure(`length cannot exceed ${longestRequest}, given ${operands[1]}`);
    const startedMs = clockMs();
    await perform(session, 'discard', () => session.backend.discard(offset, length));
    if (!given.has('q')) report(session, { verb: 'discard', offset, length, startedMs, terse: given.has('C') });
    return true;
  },
};
