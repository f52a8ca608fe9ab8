/** The server against a bare client: what no well-behaved peer would send, and the bounds that keep one client from hurting others. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../block/graph.js';
import type { BlockBackend } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import { createRegistry } from '../../drivers.js';
import { getU32, getU64 } from '../../wire/nbd/bytes.js';
import { Chunk, Command, CommandFlag, NbdErrno, Option, OptionReply } from '../../wire/nbd/constants.js';
import {
  decodeGreeting, decodeOptionReplyHeader, encodeClientFlags, encodeInfoRequest, encodeMetaContextRequest, encodeOption,
} from '../../wire/nbd/handshake.js';
import { decodeErrorPayload, decodeReplyHeader, decodeStatus, emptyReplyHeader, encodeRequest, encodeStatusFilter, type ReplyHeader } from '../../wire/nbd/transmission.js';
import { ExportRegistry, NbdExport } from './exports.js';
import { NbdServer, type NbdServerOptions } from './server.js';

const MiB = 1 << 20;
const size = 64 * MiB;

/** A client that says exactly what it is told. */
class Client {
  readonly socket: Socket;
  #bytes = Buffer.alloc(0);
  #wake: (() => void) | undefined;
  closed = false;

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.on('data', (bytes) => { this.#bytes = Buffer.concat([this.#bytes, bytes]); this.#wake?.(); });
    this.socket.on('close', () => { this.closed = true; this.#wake?.(); });
    this.socket.on('error', () => undefined);
  }

  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length) {
      if (this.closed) throw new Error(`closed with ${this.#bytes.length} of ${length} bytes`);
      await new Promise<void>((resolve) => { this.#wake = resolve; });
    }
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async untilClosed(): Promise<void> {
    while (!this.closed) await new Promise<void>((resolve) => { this.#wake = resolve; });
  }

  async greet(): Promise<void> {
    decodeGreeting(await this.take(18));
    this.send(encodeClientFlags(3));
  }

  async option(option: number, data?: Uint8Array): Promise<{ type: number; data: Buffer }[]> {
    this.send(encodeOption(option, data));
    const replies: { type: number; data: Buffer }[] = [];
    for (;;) {
      const { type, length } = decodeOptionReplyHeader(await this.take(20));
      replies.push({ type, data: await this.take(length) });
      if (type === OptionReply.ACK || type >= OptionReply.UNSUP) return replies;
    }
  }

  /** Handshake up to transmission. */
  async begin(style: 'simple' | 'structured' | 'extended', contexts: string[] = []): Promise<void> {
    await this.greet();
    if (style !== 'simple') await this.option(style === 'extended' ? Option.EXTENDED_HEADERS : Option.STRUCTURED_REPLY);
    if (contexts.length > 0) await this.option(Option.SET_META_CONTEXT, encodeMetaContextRequest({ name: '', queries: contexts }));
    const replies = await this.option(Option.GO, encodeInfoRequest({ name: '', infos: [3] }));
    expect(replies.at(-1)!.type).toBe(OptionReply.ACK);
  }

  request(extended: boolean, fields: { type: number; flags?: number; offset?: number; length?: number; cookie?: number }, payload: Uint8Array = new Uint8Array(0)): void {
    const bytes = new Uint8Array(extended ? 32 : 28);
    encodeRequest(bytes, 0, extended, { flags: 0, offset: 0, length: 0, cookieHigh: 7, cookieLow: fields.cookie ?? 1, ...fields });
    this.send(bytes, payload);
  }

  async chunk(): Promise<{ header: ReplyHeader; payload: Buffer }> {
    const magic = await this.take(4);
    const length = { 0x67446698: 16, 0x668e33ef: 20, 0x6e8a278c: 32 }[getU32(magic, 0)];
    if (length === undefined) throw new Error(`magic ${magic.toString('hex')}`);
    const header = emptyReplyHeader();
    decodeReplyHeader(Buffer.concat([magic, await this.take(length - 4)]), 0, header);
    return { header: { ...header }, payload: await this.take(header.length) };
  }
}

let folder: string;
let path: string;
let graph: BlockGraph;
let backend: BlockBackend;
let server: NbdServer | undefined;
const clients: Client[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-nbd-'));
  path = join(folder, 'sock');
  graph = new BlockGraph({ drivers: createRegistry() });
  backend = await graph.openBackend({ driver: 'memory', size }, { discard: 'unmap' });
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.socket.destroy();
  await server?.stop();
  await graph.close();
  rmSync(folder, { recursive: true, force: true });
});

async function start(options: Partial<NbdServerOptions> = {}, writable = true): Promise<void> {
  const lent = new NbdExport(backend, { name: '', description: 'text', writable, allocationDepth: true });
  server = new NbdServer({ exports: new ExportRegistry([lent]), ...options });
  await server.listen({ type: 'unix', path });
}

function open(): Client {
  const client = new Client(path);
  clients.push(client);
  return client;
}

describe('handshake', () => {
  it('refuses what it does not know and goes on', async () => {
    await start();
    const client = open();
    await client.greet();
    expect((await client.option(99, new Uint8Array(5)))[0]!.type).toBe(OptionReply.UNSUP);
    expect((await client.option(Option.LIST, new Uint8Array(1)))[0]!.type).toBe(OptionReply.INVALID);
    expect((await client.option(Option.STARTTLS))[0]!.type).toBe(OptionReply.POLICY);
    expect((await client.option(Option.GO, encodeInfoRequest({ name: 'nobody', infos: [] })))[0]!.type).toBe(OptionReply.UNKNOWN);
    expect((await client.option(Option.GO, Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0)))[0]!.type).toBe(OptionReply.INVALID);
    expect((await client.option(Option.INFO, new Uint8Array(100_000)))[0]!.type).toBe(OptionReply.TOO_BIG);
    expect((await client.option(Option.SET_META_CONTEXT, encodeMetaContextRequest({ name: '', queries: [] })))[0]!.type).toBe(OptionReply.INVALID);
    expect((await client.option(Option.EXTENDED_HEADERS))[0]!.type).toBe(OptionReply.ACK);
    expect((await client.option(Option.STRUCTURED_REPLY))[0]!.type).toBe(OptionReply.EXT_HEADER_REQD);
    const listed = await client.option(Option.LIST_META_CONTEXT, encodeMetaContextRequest({ name: '', queries: ['qemu:'] }));
    expect(listed.slice(0, -1).map(({ data }) => data.subarray(4).toString())).toEqual(['qemu:allocation-depth']);
    expect((await client.option(Option.ABORT))[0]!.type).toBe(OptionReply.ACK);
    await client.untilClosed();
  });

  it('answers EXPORT_NAME with and without the zeroes', async () => {
    await start();
    for (const flags of [1, 3]) {
      const client = open();
      await client.take(18);
      client.send(encodeClientFlags(flags), encodeOption(Option.EXPORT_NAME));
      const reply = await client.take(flags === 3 ? 10 : 134);
      expect(getU64(reply, 0)).toBe(size);
      client.request(false, { type: Command.READ, length: 512 });
      expect((await client.take(16 + 512)).readUInt32BE(4)).toBe(0);
    }
  });

  it('answers in order what a client asks before it takes any answer', async () => {
    const exports = Array.from({ length: 300 }, (_, index) => new NbdExport(backend, { name: index === 0 ? '' : `${index}`.repeat(1000) }));
    server = new NbdServer({ exports: new ExportRegistry(exports) });
    await server.listen({ type: 'unix', path });
    const client = open();
    await client.greet();
    client.socket.pause();
    for (let round = 0; round < 2; round++) client.send(encodeOption(Option.LIST));
    client.send(encodeOption(Option.GO, encodeInfoRequest({ name: '', infos: [] })));
    client.request(false, { type: Command.READ, length: 4096, cookie: 99 });
    await new Promise((resolve) => setTimeout(resolve, 200));
    client.socket.resume();
    const types: number[] = [];
    for (let option: number = Option.LIST; types.at(-1) !== OptionReply.ACK || option !== Option.GO;) {
      const header = decodeOptionReplyHeader(await client.take(20));
      option = header.option;
      types.push(header.type);
      await client.take(header.length);
    }
    const list = [...exports.map(() => OptionReply.SERVER), OptionReply.ACK];
    expect(types).toEqual([...list, ...list, OptionReply.INFO, OptionReply.INFO, OptionReply.ACK]);
    expect((await client.chunk()).header).toMatchObject({ error: 0, cookieLow: 99 });
  });

  it('drops clients with unknown flags, a wrong magic, or no hurry', async () => {
    await start({ handshakeTimeoutMs: 200 });
    const unknown = open();
    await unknown.take(18);
    unknown.send(encodeClientFlags(0xff));
    await unknown.untilClosed();
    const wrong = open();
    await wrong.greet();
    wrong.send(new Uint8Array(16));
    await wrong.untilClosed();
    const slow = open();
    await slow.greet();
    await slow.untilClosed();
  });
});

describe('transmission', () => {
  it.each(['simple', 'structured', 'extended'] as const)('refuses requests without losing its place (%s)', async (style) => {
    await start();
    const client = open();
    await client.begin(style);
    const extended = style === 'extended';
    const errorOf = async (): Promise<number> => {
      const { header, payload } = await client.chunk();
      return header.kind === 'simple' ? header.error : decodeErrorPayload(header.type, payload).error;
    };
    const payloadFlag = extended ? CommandFlag.PAYLOAD_LEN : 0;
    client.request(extended, { type: Command.READ, offset: size - 1, length: 2 });
    expect(await errorOf()).toBe(NbdErrno.EINVAL);
    client.request(extended, { type: Command.READ, offset: 2 ** 63, length: 512 });
    expect(await errorOf()).toBe(NbdErrno.EINVAL);
    client.request(extended, { type: Command.WRITE, flags: payloadFlag, offset: size - 1, length: 4096 }, new Uint8Array(4096));
    expect(await errorOf()).toBe(NbdErrno.ENOSPC);
    client.request(extended, { type: Command.WRITE, flags: payloadFlag, offset: size, length: 3 * MiB }, new Uint8Array(3 * MiB));
    expect(await errorOf()).toBe(NbdErrno.ENOSPC);
    client.request(extended, { type: Command.WRITE, flags: payloadFlag, length: 33 * MiB }, new Uint8Array(33 * MiB));
    expect(await errorOf()).toBe(NbdErrno.EINVAL);
    client.request(extended, { type: Command.TRIM, offset: size, length: 1 });
    expect(await errorOf()).toBe(NbdErrno.ENOSPC);
    client.request(extended, { type: Command.BLOCK_STATUS, length: 512 });
    expect(await errorOf()).toBe(NbdErrno.EINVAL);
    client.request(extended, { type: 77 });
    expect(await errorOf()).toBe(NbdErrno.EINVAL);
    client.request(extended, { type: Command.FLUSH, cookie: 42 });
    expect((await client.chunk()).header.cookieLow).toBe(42);
  });

  it('keeps a read-only export as it is', async () => {
    await start({}, false);
    const client = open();
    await client.begin('simple');
    for (const [type, payload] of [[Command.WRITE, new Uint8Array(512)], [Command.TRIM, new Uint8Array(0)], [Command.WRITE_ZEROES, new Uint8Array(0)]] as const) {
      client.request(false, { type, length: 512 }, payload);
      expect((await client.chunk()).header.error).toBe(NbdErrno.EPERM);
    }
    expect(backend.stats.writeOperations).toBe(0);
  });

  it('tells a backend\'s failure by its errno', async () => {
    await start();
    const client = open();
    await client.begin('structured');
    const cases = [
      [new BlockError('NO_SPACE', 'full'), NbdErrno.ENOSPC], [new BlockError('PERMISSION', 'no'), NbdErrno.EPERM], [new BlockError('IO_ERROR', 'bad'), NbdErrno.EIO],
      [new Error('a bug'), NbdErrno.EIO],
    ] as const;
    for (const [error, errno] of cases) {
      for (const later of [false, true]) {
        for (const length of [4096, 256 * 1024]) {
          backend.write = () => {
            if (later) return Promise.reject(error);
            throw error;
          };
          client.request(false, { type: Command.WRITE, length }, new Uint8Array(length));
          const { header, payload } = await client.chunk();
          expect(decodeErrorPayload(header.type, payload)).toEqual({ error: errno, message: error.message });
        }
      }
    }
  });

  it('answers what completes later in any order, and the bytes are right', async () => {
    await start();
    const client = open();
    await client.begin('structured');
    const waiting: (() => void)[] = [];
    backend.read = (offset, target) => new Promise<void>((resolve) => waiting.push(() => { target.fill(offset / 4096); resolve(); }));
    for (let index = 0; index < 100; index++) client.request(false, { type: Command.READ, offset: index * 4096, length: 4096, cookie: index });
    while (waiting.length < 100) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const release of waiting.reverse()) release();
    const seen = new Set<number>();
    for (let index = 0; index < 100; index++) {
      const { header, payload } = await client.chunk();
      expect(header.type).toBe(Chunk.OFFSET_DATA);
      expect(getU64(payload, 0)).toBe(header.cookieLow * 4096);
      expect(payload.subarray(8).equals(Buffer.alloc(4096, header.cookieLow))).toBe(true);
      seen.add(header.cookieLow);
    }
    expect(seen.size).toBe(100);
  });

  it('keeps a write\'s bytes while the backend still reads them', async () => {
    await start();
    const client = open();
    await client.begin('simple');
    const written = new Map<number, { source: Uint8Array; done: () => void }>();
    backend.write = (offset, source) => new Promise<void>((resolve) => written.set(offset, { source, done: resolve }));
    const count = 20;
    for (let index = 0; index < count; index++) client.request(false, { type: Command.WRITE, offset: index * 65536, length: 65536, cookie: index }, Buffer.alloc(65536, index + 1));
    while (written.size < count) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const [offset, { source }] of written) expect(Buffer.from(source).equals(Buffer.alloc(65536, offset / 65536 + 1))).toBe(true);
    for (const { done } of written.values()) done();
    for (let index = 0; index < count; index++) expect((await client.chunk()).header.error).toBe(0);
  });

  it('shows extents in one answer per context, and only those a filter names', async () => {
    await start();
    await backend.write(65536, new Uint8Array(65536).fill(1));
    const client = open();
    await client.begin('extended', ['base:allocation', 'qemu:allocation-depth']);
    client.request(true, { type: Command.BLOCK_STATUS, length: size });
    const first = await client.chunk();
    const second = await client.chunk();
    expect(decodeStatus(first.payload, true)).toEqual({ contextId: 0, extents: [65536, 3, 65536, 0, size - 131072, 3] });
    expect(decodeStatus(second.payload, true).contextId).toBe(1);
    expect([first.header.flags, second.header.flags]).toEqual([0, 1]);
    const filter = encodeStatusFilter(131072, [1]);
    client.request(true, { type: Command.BLOCK_STATUS, flags: CommandFlag.PAYLOAD_LEN | CommandFlag.REQ_ONE, length: filter.length }, filter);
    const only = await client.chunk();
    expect(only.header.flags).toBe(1);
    expect(decodeStatus(only.payload, true).contextId).toBe(1);
  });

  it('sends holes as holes, and one chunk where DF asks for it', async () => {
    await start();
    await backend.write(MiB, new Uint8Array(65536).fill(5));
    const client = open();
    await client.begin('structured');
    client.request(false, { type: Command.READ, length: 2 * MiB });
    const types: number[] = [];
    for (let done = false; !done;) {
      const { header } = await client.chunk();
      types.push(header.type);
      done = (header.flags & 1) !== 0;
    }
    expect(types).toEqual([Chunk.OFFSET_HOLE, Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE]);
    for (const length of [2 * MiB, 5 * MiB]) {
      client.request(false, { type: Command.READ, flags: CommandFlag.DF, length });
      const { header, payload } = await client.chunk();
      expect([header.type, header.flags, header.length]).toEqual([Chunk.OFFSET_DATA, 1, length + 8]);
      expect(payload.indexOf(5)).toBe(MiB + 8);
    }
  });

  it('ends the connection when a reply that may not be cut fails in the middle', async () => {
    await start();
    const client = open();
    await client.begin('simple');
    const read = backend.read.bind(backend);
    backend.read = (offset, target, flags) => {
      if (offset > 3 * MiB) throw new BlockError('IO_ERROR', 'bad sector');
      return read(offset, target, flags);
    };
    client.request(false, { type: Command.READ, length: 8 * MiB });
    await client.untilClosed();
    const other = open();
    await other.begin('simple');
    other.request(false, { type: Command.READ, offset: 4 * MiB, length: 8 * MiB });
    expect((await other.chunk()).header.error).toBe(NbdErrno.EIO);
  });

  it('closes on a wrong magic', async () => {
    await start();
    const client = open();
    await client.begin('simple');
    client.send(new Uint8Array(28));
    await client.untilClosed();
  });
});

describe('bounds', () => {
  it('reads no further from a client that takes no replies, and serves the others', async () => {
    await start();
    const greedy = open();
    await greedy.begin('structured');
    greedy.socket.pause();
    await backend.write(0, new Uint8Array(8 * MiB).fill(1));
    const before = process.memoryUsage();
    for (let index = 0; index < 2000; index++) greedy.request(false, { type: Command.READ, length: 4 * MiB, cookie: index });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const after = process.memoryUsage();
    expect(after.external + after.arrayBuffers - before.external - before.arrayBuffers).toBeLessThan(32 * MiB);
    const polite = open();
    await polite.begin('structured');
    polite.request(false, { type: Command.READ, length: 4096 });
    expect((await polite.chunk()).header.type).toBe(Chunk.OFFSET_DATA);
    greedy.socket.destroy();
    await expect.poll(() => server!.clients).toBe(1);
  });

  it('gives every client its turn', async () => {
    await start();
    const busy = open();
    await busy.begin('simple');
    let stop = false;
    busy.socket.removeAllListeners('data'); // it keeps nothing
    busy.socket.on('data', () => { if (!stop) busy.request(false, { type: Command.READ, length: 16 * MiB }); });
    for (let index = 0; index < 8; index++) busy.request(false, { type: Command.READ, length: 16 * MiB });
    const other = open();
    await other.begin('simple');
    for (let index = 0; index < 20; index++) {
      other.request(false, { type: Command.READ, length: 512 });
      await other.take(16 + 512);
    }
    stop = true;
  });

  it('makes clients beyond the limit wait for a place', async () => {
    await start({ maxClients: 1 });
    const first = open();
    await first.begin('simple');
    const second = open();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(server!.clients).toBe(1);
    first.request(false, { type: Command.DISC });
    await second.begin('simple');
    await first.untilClosed();
  });

  it('stops without losing what is in flight', async () => {
    await start();
    const client = open();
    await client.begin('simple');
    let durable = false;
    let finish = (): void => undefined;
    const submitted = new Promise<void>((begun) => {
      backend.write = () => new Promise<void>((resolve) => {
        finish = () => { durable = true; resolve(); };
        begun();
      });
    });
    client.request(false, { type: Command.WRITE, length: 4096 }, new Uint8Array(4096));
    await submitted;
    const stopped = server!.stop();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(durable).toBe(false);
    finish();
    expect((await client.chunk()).header.error).toBe(0);
    await client.untilClosed();
    await stopped;
    server = undefined;
  });
});
