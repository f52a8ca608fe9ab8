/** aio_read, aio_write, aio_flush: requests that go on while further commands run. */
import { Perm, Req } from '../../../../block/driver.js';
import { clockMs } from '../../../../platform/clock.js';
import type { MaybePromise } from '../../../../util/maybe.js';
import { CommandFailure, describe, parseOptions, requestFailure, wrongUsage, type Command, type Session } from '../command.js';
import { hexDump, longestRequest, parseLengths, parsePattern, parseQuantity, report, verifyPattern } from '../values.js';
import { collect, defaultPattern, unread } from './transfer.js';

const note = 'Succeeds as soon as the request is on its way; aio_flush waits for all of them.';

/** Starts a request; how it ended is said when the event loop turns next, or later. */
function start(session: Session, what: string, request: () => MaybePromise<void>, done: () => void): void {
  let result: MaybePromise<void>;
  try {
    result = request();
  } catch (error) {
    result = Promise.reject(error);
  }
  const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  session.track(Promise.resolve(result).then(
    () => nextTurn().then(done),
    (error: unknown) => nextTurn().then(() => session.io.out(`${requestFailure(what, error, session).message}\n`))));
}

export const aioRead: Command = {
  name: 'aio_read', minimum: 2, maximum: Infinity,
  usage: '[-Ciqrv] [-P pattern] off len [len..]',
  summary: 'asynchronously reads a number of bytes',
  details: describe('Reads a range of the open image in the background.', ['aio_read -v 512 1k 1k', 'shows 2 kilobytes from byte 512 on'], {
    C: 'print statistics as one line for programs', i: 'count an invalid request', P: 'expect every byte to have this value',
    q: 'print no statistics', r: 'accepted, without effect', v: 'show what was read',
  }, note),
  run(args, session) {
    const { options, operands } = parseOptions(aioRead, args, ['C', 'i', 'P=', 'q', 'r', 'v'], session);
    const given = collect(options);
    const patternText = given.value('P');
    const pattern = patternText === undefined ? undefined : parsePattern(patternText);
    if (given.has('i')) {
      session.io.out('injecting invalid read request\n');
      return true;
    }
    if (operands.length < 2) throw wrongUsage(aioRead);
    const offset = parseQuantity(operands[0]!);
    const buffer = new Uint8Array(parseLengths(operands.slice(1)).reduce((sum, length) => sum + length, 0)).fill(unread);
    const startedMs = clockMs();
    start(session, 'readv', () => session.backend.read(offset, buffer), () => {
      if (pattern !== undefined) verifyPattern(session, buffer, pattern, offset);
      if (given.has('q')) return;
      if (given.has('v')) hexDump(session, buffer, offset);
      report(session, { verb: 'read', offset, length: buffer.length, startedMs, terse: given.has('C') });
    });
    return true;
  },
};

export const aioWrite: Command = {
  name: 'aio_write', minimum: 2, maximum: Infinity, permissions: Perm.WRITE,
  usage: '[-Cfiqruz] [-P pattern] off len [len..]',
  summary: 'asynchronously writes a number of bytes',
  details: describe('Writes a range of the open image in the background, from buffers filled with 0xcd.', ['aio_write 512 1k 1k', 'writes 2 kilobytes from byte 512 on'], {
    C: 'print statistics as one line for programs', f: 'the data is durable when the request completes', i: 'count an invalid request',
    P: 'fill the buffers with this value', q: 'print no statistics', r: 'accepted, without effect', u: 'with -z: space may be given back',
    z: 'write zeroes without a buffer',
  }, note),
  run(args, session) {
    const { options, operands } = parseOptions(aioWrite, args, ['C', 'f', 'i', 'q', 'r', 'P=', 'u', 'z'], session);
    const given = collect(options);
    const pattern = parsePattern(given.value('P') ?? String(defaultPattern));
    const zeroes = given.has('z');
    if (given.has('i')) {
      session.io.out('injecting invalid write request\n');
      return true;
    }
    if (operands.length < 2) throw wrongUsage(aioWrite);
    if (zeroes && operands.length !== 2) throw new CommandFailure('-z supports only a single length parameter');
    if (given.has('u') && !zeroes) throw new CommandFailure('-u requires -z to be specified');
    const offset = parseQuantity(operands[0]!);
    const length = zeroes ? parseQuantity(operands[1]!) : parseLengths(operands.slice(1)).reduce((sum, each) => sum + each, 0);
    if (zeroes && length > longestRequest) throw new CommandFailure(`length cannot exceed ${longestRequest}, given ${operands[1]}`);
    const flags = given.has('f') ? Req.FUA : 0;
    const buffer = zeroes ? undefined : new Uint8Array(length).fill(pattern);
    const startedMs = clockMs();
    const { backend } = session;
    start(session, 'aio_write',
      () => buffer === undefined ? backend.writeZeroes(offset, length, flags | (given.has('u') ? Req.MAY_UNMAP : 0)) : backend.write(offset, buffer, flags),
      () => {
        if (!given.has('q')) report(session, { verb: 'wrote', offset, length, startedMs, terse: given.has('C') });
      });
    return true;
  },
};

export const aioFlush: Command = {
  name: 'aio_flush', minimum: 0, maximum: 0,
  summary: 'completes all outstanding aio requests',
  async run(_args, session) {
    await session.drain();
    return true;
  },
};
