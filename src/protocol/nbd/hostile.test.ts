/** The client against servers that break the protocol: every one ends in an error, soon, and with bounded memory. */
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { BlockError } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import type { BlockBackend } from '../../block/child.js';
import { DriverRegistry } from '../../block/registry.js';
import { putU32, putU64 } from '../../wire/nbd/bytes.js';
import { Chunk, Command, Context, Option, OptionReply } from '../../wire/nbd/constants.js';
import { decodeOptionHeader, encodeGreeting, encodeInfo, encodeMetaContext, encodeOptionReply } from '../../wire/nbd/handshake.js';
import { decodeRequest, emptyRequest, encodeErrorPayload, putSimpleReply, putStructuredReply, type Request } from '../../wire/nbd/transmission.js';
import { nbd } from './index.js';
import { testSeed } from '../../../test/support/seed.js';

const size = 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), 'vdisk-hostile-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'socket');
let server: net.Server | undefined;
const sockets = new Set<net.Socket>();

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  server?.close();
  rmSync(path, { force: true });
});

interface Manners {
  readonly greeting?: Uint8Array;
  /** Answer to an option; undefined: the honest one. */
  readonly option?: (option: number, socket: net.Socket) => Uint8Array | 'close' | 'silent' | undefined;
  /** Called for each request; answers or does not. */
  readonly request?: (request: Request, socket: net.Socket) => void;
}

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

const exportInfo = encodeInfo({ type: 'export', size, flags: 1 | 4 | 8 | 32 | 64 });

function honestAnswer(option: number): Uint8Array {
  const ack = encodeOptionReply(option, OptionReply.ACK);
  switch (option) {
    case Option.STRUCTURED_REPLY: return ack;
    case Option.SET_META_CONTEXT: return concat(encodeOptionReply(option, OptionReply.META_CONTEXT, encodeMetaContext(1, Context.BASE_ALLOCATION)), ack);
    case Option.GO: return concat(encodeOptionReply(option, OptionReply.INFO, exportInfo), ack);
    default: return encodeOptionReply(option, OptionReply.UNSUP);
  }
}

/** Listens; honest except where `manners` says otherwise. */
async function listen(manners: Manners): Promise<void> {
  server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.write(manners.greeting ?? encodeGreeting(3));
    let inbox = Buffer.alloc(0);
    let phase: 'flags' | 'options' | 'requests' = 'flags';
    const request = emptyRequest();
    const take = (): boolean => {
      if (phase === 'flags' && inbox.length >= 4) {
        inbox = inbox.subarray(4);
        phase = 'options';
        return true;
      }
      if (phase === 'options' && inbox.length >= 16) {
        const { option, length } = decodeOptionHeader(inbox);
        if (inbox.length < 16 + length) return false;
        inbox = inbox.subarray(16 + length);
        if (option === Option.GO) phase = 'requests';
        const answer = manners.option?.(option, socket) ?? honestAnswer(option);
        if (answer === 'close') socket.destroy();
        else if (answer !== 'silent') socket.write(answer);
        return true;
      }
      if (phase === 'requests' && inbox.length >= 28 && decodeRequest(inbox, 0, false, request)) {
        const payload = request.type === Command.WRITE ? request.length : 0;
        if (inbox.length < 28 + payload) return false;
        inbox = inbox.subarray(28 + payload);
        manners.request?.(request, socket);
        return true;
      }
      return false;
    };
    socket.on('data', (bytes) => {
      inbox = Buffer.concat([inbox, bytes]);
      while (take());
    });
  });
  await new Promise<void>((resolve) => { server!.listen(path, resolve); });
}

async function open(options: Record<string, unknown> = {}): Promise<BlockBackend> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([nbd]) });
  return graph.openBackend({ server: { type: 'unix', path }, timeout: 20, ...options }, { driver: 'nbd' });
}

async function errorOf(promise: Promise<unknown>): Promise<BlockError> {
  const error = await promise.then(() => undefined, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(BlockError);
  return error as BlockError;
}

describe('in the handshake', () => {
  const reply = (option: number, type: number, data?: Uint8Array): Uint8Array => encodeOptionReply(option, type, data);
  const onGo = (answer: Uint8Array | 'close' | 'silent'): Manners => ({ option: (option) => option === Option.GO ? answer : undefined });
  const withInfo = (data: Uint8Array): Manners => onGo(concat(reply(Option.GO, OptionReply.INFO, data), reply(Option.GO, OptionReply.ACK)));
  const lie = (type: number, length: number): Uint8Array => {
    const bytes = reply(Option.GO, type);
    putU32(bytes, 16, length);
    return bytes;
  };
  const sizes = (minimum: number, preferred: number, maximum: number): Manners =>
    onGo(concat(reply(7, OptionReply.INFO, exportInfo), reply(7, OptionReply.INFO, encodeInfo({ type: 'block-size', minimum, preferred, maximum })), reply(7, OptionReply.ACK)));
  const cases: [string, Manners, RegExp][] = [
    ['another protocol', { greeting: Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian\r\n') }, /^Bad initial magic received: 0x5353482d322e302d$/],
    ['half a magic', { greeting: Buffer.from('NBDMAGIC-no-such-') }, /^Bad server magic received: 0x2d6e6f2d73756368$/],
    ['nothing after the magic', { greeting: Buffer.from('NBDMAGIC') }, /^Failed to connect to .*: Connection timed out$/],
    ['silence at GO', onGo('silent'), /^Failed to connect to .*: Connection timed out$/],
    ['gone at GO', onGo('close'), /^Failed to read option reply: (Unexpected end-of-file before all data were read|Unable to read from socket: Connection reset by peer)$/],
    ['garbage at GO', onGo(Buffer.alloc(20, 0x55)), /^Unexpected option reply magic$/],
    ['garbage behind the last word', onGo(concat(honestAnswer(Option.GO), Buffer.alloc(20, 0x55))), /^Failed to read reply: invalid magic number in a reply$/],
    ['answer to another option', onGo(reply(6, OptionReply.ACK)), /^Unexpected option type 6 \(info\), expected 7 \(go\)$/],
    ['no export information', onGo(reply(Option.GO, OptionReply.ACK)), /^broken server omitted NBD_INFO_EXPORT$/],
    ['a reply of 2 GiB', onGo(lie(OptionReply.INFO, 0x7fffffff)), /^option reply of 2147483647 bytes is too long$/],
    ['an error text of 4 GiB', onGo(lie(OptionReply.UNKNOWN, 0xffffffff)), /^option reply of 4294967295 bytes is too long$/],
    ['export information cut short', withInfo(exportInfo.subarray(0, 7)), /^Invalid length of export info$/],
    ['size beyond 2^53', withInfo(Buffer.from([0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1])), /^export length is too large$/],
    ['blocks of 3 bytes', sizes(3, 512, 4096), /^server minimum block size 3 is not a power of two$/],
    ['blocks of 2 GiB', sizes(2 ** 31, 2 ** 31, 2 ** 31), /^server minimum block size 2147483648/],
    ['no block at all', sizes(0, 0, 0), /^server minimum block size 0 is not a power of two$/],
    ['a maximum below the minimum', sizes(4096, 4096, 512), /^server maximum block size 512 is not valid$/],
    ['contexts nobody asked for', {
      option: (option) => option === Option.SET_META_CONTEXT ? reply(option, OptionReply.META_CONTEXT, encodeMetaContext(1, 'x:y')) : undefined,
    }, /^Server sent meta context 'x:y' that was not asked for$/],
    ['control characters in its text', onGo(reply(Option.GO, OptionReply.UNKNOWN, Buffer.from('a\x1b[2Jb'))), /^Requested export not available$/],
    ['information without end', {
      option: (option, socket) => {
        if (option !== Option.GO) return undefined;
        const flood = Buffer.concat(Array.from({ length: 1000 }, () => reply(Option.GO, OptionReply.INFO, Buffer.from([0, 9]))));
        const pump = (): void => { while (!socket.destroyed && socket.write(flood)); };
        socket.on('drain', pump);
        pump();
        return 'silent';
      },
    }, /^(too many replies to option 7 \(go\)|Failed to connect to .*: Connection timed out)$/],
  ];
  test.each(cases)('%s', async (_name, manners, message) => {
    await listen(manners);
    const error = await errorOf(open(message.source.includes('timed out') ? { timeout: 1 } : {}));
    expect(error.message).toMatch(message);
    expect(error.context.hint ?? '').not.toContain('\x1b');
  });

  test('an open that is cancelled', async () => {
    await listen(onGo('silent'));
    const graph = new BlockGraph({ drivers: new DriverRegistry([nbd]) });
    const signal = AbortSignal.timeout(50);
    await expect(graph.open({ server: { type: 'unix', path }, 'open-timeout': 60 }, { driver: 'nbd', signal })).rejects.toThrow();
  });
});

describe('in transmission', () => {
  const simple = (request: Request, error = 0): Uint8Array => {
    const bytes = new Uint8Array(16);
    putSimpleReply(bytes, 0, error, request.cookieHigh, request.cookieLow);
    return bytes;
  };
  const chunk = (request: Request, type: number, payload: Uint8Array, done = true, length = payload.length, cookieLow = request.cookieLow): Uint8Array => {
    const header = new Uint8Array(20);
    putStructuredReply(header, 0, done ? 1 : 0, type, request.cookieHigh, cookieLow, length);
    return concat(header, payload);
  };
  const data = (offset: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(8 + length).fill(0xab);
    putU64(bytes, 0, offset);
    return bytes;
  };
  const hole = (offset: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(12);
    putU64(bytes, 0, offset);
    putU32(bytes, 8, length);
    return bytes;
  };
  const none = new Uint8Array(0);
  /** Answers to READ that must fail it; all reads are of 4096 bytes at 8192. */
  const answers: [string, (request: Request) => Uint8Array | 'close'][] = [
    ['garbage', () => Buffer.alloc(64, 0x77)],
    ['a cookie nobody gave', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 4096), true, 4104, request.cookieLow + 1)],
    ['a cookie with high bits', (request) => chunk({ ...request, cookieHigh: 1 }, Chunk.OFFSET_DATA, data(8192, 4096))],
    ['a simple reply', (request) => concat(simple(request), new Uint8Array(4096))],
    ['data before the range', (request) => chunk(request, Chunk.OFFSET_DATA, data(8191, 4096))],
    ['data beyond the range', (request) => chunk(request, Chunk.OFFSET_DATA, data(8193, 4096))],
    ['more data than asked for', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 8192))],
    ['4 GiB of data', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 16), true, 0xffffffff)],
    ['no data in a data chunk', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 0))],
    ['a hole beyond the range', (request) => chunk(request, Chunk.OFFSET_HOLE, hole(8192, 4097))],
    ['an empty hole', (request) => chunk(request, Chunk.OFFSET_HOLE, hole(8192, 0))],
    ['a hole cut short', (request) => chunk(request, Chunk.OFFSET_HOLE, hole(8192, 4096).subarray(0, 11))],
    ['half the data and the end', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 2048))],
    ['the end alone', (request) => chunk(request, Chunk.NONE, none)],
    ['an end with a payload', (request) => chunk(request, Chunk.NONE, new Uint8Array(4))],
    ['an unknown chunk', (request) => chunk(request, 77, new Uint8Array(4))],
    ['block status', (request) => chunk(request, Chunk.BLOCK_STATUS, new Uint8Array(12))],
    ['an error without number', (request) => chunk(request, Chunk.ERROR, encodeErrorPayload(0, 'fine'))],
    ['an error whose text is longer than the chunk', (request) => chunk(request, Chunk.ERROR, new Uint8Array([0, 0, 0, 5, 0xff, 0xff]))],
    ['an error of 4 GiB', (request) => chunk(request, Chunk.ERROR, none, true, 0xffffffff)],
    ['the end in the middle of a header', (request) => chunk(request, Chunk.NONE, none).subarray(0, 9)],
    ['the end in the middle of data', (request) => chunk(request, Chunk.OFFSET_DATA, data(8192, 4096)).subarray(0, 1000)],
    ['the end at once', () => 'close'],
  ];
  test.each(answers)('%s', async (_name, answer) => {
    const cut = new Set(['the end in the middle of a header', 'the end in the middle of data']);
    await listen({
      request: (request, socket) => {
        const bytes = answer(request);
        if (bytes === 'close') socket.destroy();
        else if (cut.has(_name)) socket.end(bytes);
        else socket.write(bytes);
      },
    });
    const disk = await open();
    const target = new Uint8Array(4096);
    const error = await errorOf(Promise.resolve(disk.read(8192, target)));
    expect([error.message, error.errno]).toEqual(['Input/output error', 5]);
    expect(error.cause).toBeInstanceOf(Error);
    await disk.close().catch(() => undefined);
  });

  test('silence', async () => {
    await listen({});
    const disk = await open({ timeout: 2 });
    const all = await Promise.all(Array.from({ length: 5 }, (_, index) => errorOf(Promise.resolve(disk.read(4096 * index, new Uint8Array(512))))));
    for (const error of all) expect((error.cause as Error).message).toMatch(/^The server did not answer for/);
    await disk.close().catch(() => undefined);
  });

  test('errors before and after data: the first one counts, the connection stays', async () => {
    let reads = 0;
    await listen({
      request: (request, socket) => {
        if (request.type !== Command.READ) socket.write(simple(request));
        else if (reads++ === 0) {
          socket.write(concat(
            chunk(request, Chunk.OFFSET_DATA, data(8192, 512), false), chunk(request, Chunk.ERROR_OFFSET, encodeErrorPayload(28, 'full', 8704), false),
            chunk(request, Chunk.ERROR, encodeErrorPayload(5, 'broken'), false), chunk(request, Chunk.NONE, none)));
        } else {
          socket.write(concat(chunk(request, Chunk.OFFSET_HOLE, hole(8192 + 1024, 3072), false), chunk(request, Chunk.OFFSET_DATA, data(8192, 1024))));
        }
      },
    });
    const disk = await open();
    const error = await errorOf(Promise.resolve(disk.read(8192, new Uint8Array(4096))));
    expect([error.errno, (error.cause as Error).message]).toEqual([28, 'server reported: full']);
    const target = new Uint8Array(4096).fill(1);
    await disk.read(8192, target);
    expect([target[0], target[1023], target[1024], target[4095]]).toEqual([0xab, 0xab, 0, 0]);
    await disk.close();
  });

  test('replies byte by byte, in parts, interleaved and backwards', async () => {
    const held: Request[] = [];
    await listen({
      request: (request, socket) => {
        if (request.type !== Command.READ) return void socket.write(simple(request));
        held.push({ ...request });
        if (held.length < 4) return;
        const chunks = held.reverse().flatMap((one) => [
          chunk(one, Chunk.OFFSET_DATA, data(one.offset + 40_000, 30_000), false), chunk(one, Chunk.OFFSET_HOLE, hole(one.offset, 40_000), false),
        ]).concat(held.map((one) => chunk(one, Chunk.OFFSET_DATA, data(one.offset + 70_000, one.length - 70_000))));
        const stream = concat(...chunks);
        let at = 0;
        const pump = (): void => {
          // Headers come in tiny pieces, long data in long ones.
          for (let pieces = 0; pieces < 50 && at < stream.length; pieces++) {
            const length = pieces % 10 === 9 ? 50_000 : 7;
            socket.write(stream.subarray(at, at + length));
            at += length;
          }
          if (at < stream.length) setImmediate(pump);
        };
        pump();
      },
    });
    const disk = await open();
    const targets = Array.from({ length: 4 }, () => new Uint8Array(150_000).fill(1));
    await Promise.all(targets.map((target, index) => disk.read(index * 150_000, target)));
    for (const target of targets) {
      expect(target.subarray(0, 40_000).every((byte) => byte === 0)).toBe(true);
      expect(target.subarray(40_000).every((byte) => byte === 0xab)).toBe(true);
    }
    await disk.close();
  });

  test('a server that breaks the protocol again and again does not keep a request for ever', async () => {
    let connections = 0;
    await listen({ request: (_request, socket) => { connections++; socket.destroy(); } });
    const disk = await open({ 'reconnect-delay': 1 });
    const started = performance.now();
    await errorOf(Promise.resolve(disk.read(0, new Uint8Array(512))));
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(connections).toBeLessThan(20);
    await disk.close().catch(() => undefined);
  });

  test('block status: no extent, an empty one, one of another context', async () => {
    const payloads = [new Uint8Array(4), new Uint8Array([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), new Uint8Array([0, 0, 0, 2, 0, 0, 16, 0, 0, 0, 0, 0])];
    for (const payload of payloads) {
      await listen({ request: (request, socket) => { socket.write(chunk(request, Chunk.BLOCK_STATUS, payload)); } });
      const disk = await open();
      expect((await errorOf(Promise.resolve(disk.status(0, size)))).errno).toBe(5);
      await disk.close().catch(() => undefined);
      server?.close();
      rmSync(path, { force: true });
    }
  });
});

describe('streams with random damage', () => {
  /** A byte flipped, a piece cut out or doubled, or the rest cut off. */
  function damage(bytes: Uint8Array, seed: number): Uint8Array {
    let state = seed;
    const pick = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const copy = Buffer.from(bytes);
    const at = pick(copy.length);
    const to = Math.min(copy.length, at + 1 + pick(24));
    switch (pick(4)) {
      case 0: return copy.subarray(0, at);
      case 1: return Buffer.concat([copy.subarray(0, at), copy.subarray(to)]);
      case 2: return Buffer.concat([copy.subarray(0, to), copy.subarray(at)]);
      default:
        copy[at]! ^= 1 << pick(8);
        return copy;
    }
  }

  test('end in data or in an error, never in silence', async () => {
    const kinds = { data: 0, error: 0 };
    for (let seed = testSeed; seed < testSeed + 300; seed++) {
      await listen({
        option: (option, socket) => {
          if (option !== Option.GO || seed % 3 !== 0) return undefined;
          socket.end(damage(honestAnswer(option), seed));
          return 'silent';
        },
        request: (request, socket) => {
          const header = new Uint8Array(20);
          const reply = (type: number, payload: Uint8Array, done: number): Uint8Array => {
            putStructuredReply(header, 0, done, type, request.cookieHigh, request.cookieLow, payload.length);
            return concat(header, payload);
          };
          const data = new Uint8Array(8 + 2048).fill(0xab);
          putU64(data, 0, request.offset);
          const hole = new Uint8Array(12);
          putU64(hole, 0, request.offset + 2048);
          putU32(hole, 8, 2048);
          const error = encodeErrorPayload(5, 'no');
          const parts = [reply(Chunk.OFFSET_HOLE, hole, 0), reply(Chunk.OFFSET_DATA, data, 0), seed % 2 === 0 ? reply(Chunk.ERROR, error, 1) : reply(Chunk.NONE, new Uint8Array(0), 1)];
          socket.end(damage(concat(...parts), seed));
        },
      });
      const target = new Uint8Array(4096);
      const attempt = async (): Promise<unknown> => (await open({ timeout: 1 })).read(8192, target);
      const outcome = await attempt().then(() => 'data', (error: unknown) => error);
      if (outcome === 'data') kinds.data++;
      else {
        expect(outcome, `seed ${seed}`).toBeInstanceOf(BlockError);
        kinds.error++;
      }
      for (const socket of sockets) socket.destroy();
      sockets.clear();
      server?.close();
      rmSync(path, { force: true });
    }
    expect(kinds.data).toBeGreaterThan(10);
    expect(kinds.error).toBeGreaterThan(100);
  });
});
