/** The daemons against images that refer to what they must not, and clients that mean no good. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import type { BlockBackend } from '../../src/block/child.js';
import { createRegistry } from '../../src/drivers.js';
import { ToolFolder, until, type Running } from '../support/our-tools.js';
import { randomBytes } from '../support/seed.js';

const MiB = 1 << 20;
let folder: ToolFolder;
beforeAll(() => {
  folder = new ToolFolder();
});
afterAll(() => folder.remove());

describe('images that refer to what lies elsewhere', () => {
  const overlay = (name: string, backing: string, format = 'raw'): void => {
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-u', '-f', 'qcow2', '-b', backing, '-F', format, folder.file(`disks/${name}`), '1M']);
  };
  const hopeless = { 'loop.qcow2': /creates an infinite loop/, 'unknown.qcow2': /Unsupported qcow2 feature\(s\): /, 'cut.qcow2': /qcow2 header too short/ };
  const refused = ['device.qcow2', 'elsewhere.qcow2', 'above.qcow2', 'link.qcow2', 'web.qcow2', 'nbd.qcow2', 'options.qcow2', 'below.qcow2', 'unnamed.qcow2', 'data.qcow2'];
  beforeAll(() => {
    mkdirSync(folder.file('disks'));
    writeFileSync(folder.file('disks/base.raw'), new Uint8Array(MiB).fill(1));
    writeFileSync(folder.file('secret.raw'), new Uint8Array(MiB).fill(2));
    symlinkSync('../secret.raw', folder.file('disks/looks-near'));
    overlay('beside.qcow2', 'base.raw');
    overlay('device.qcow2', '/dev/zero');
    overlay('elsewhere.qcow2', folder.file('secret.raw'));
    overlay('above.qcow2', '../secret.raw');
    overlay('link.qcow2', 'looks-near');
    overlay('web.qcow2', 'https://127.0.0.1:1/disk');
    overlay('nbd.qcow2', 'nbd://127.0.0.1:1/');
    overlay('options.qcow2', `json:{"driver":"file","filename":"${folder.file('secret.raw')}"}`);
    overlay('below.qcow2', 'above.qcow2', 'qcow2');
    overlay('loop.qcow2', 'loop.qcow2', 'qcow2');
    overlay('unknown.qcow2', 'base.raw');
    const unknown = readFileSync(folder.file('disks/unknown.qcow2'));
    writeFileSync(folder.file('disks/cut.qcow2'), unknown.subarray(0, 100));
    unknown[74] = 1;
    writeFileSync(folder.file('disks/unknown.qcow2'), unknown);
    overlay('unnamed.qcow2', folder.file('secret.raw'), 'raw');
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'qcow2', '-o', `data_file=${folder.file('secret.data')},data_file_raw=on`, folder.file('disks/data.qcow2'), '1M']);
  });

  it('vdisk serve serves the rest and says why not', async () => {
    const socket = folder.file('serve.sock');
    const server = folder.start(folder.tool('vdisk'), ['serve', '--writable', '--socket', socket, folder.file('disks')]);
    await until(() => server.output.stdout.includes('Ctrl-C stops') || server.child.exitCode !== null, 'vdisk serve');
    for (const name of refused) expect(server.output.stdout).toMatch(new RegExp(`^ {2}${name} {2}cannot be served: .*is not allowed`, 'm'));
    for (const [name, reason] of Object.entries(hopeless)) expect(server.output.stdout).toMatch(new RegExp(`^ {2}${name} {2}cannot be served: .*${reason.source}`, 'm'));
    expect(server.output.stdout).toMatch(/^ {2}beside\.qcow2 {2}qcow2, 1 MiB$/m);
    expect(server.output.stdout).not.toMatch(/^ {2}looks-near/m);
    for (const name of [...refused, ...Object.keys(hopeless), 'looks-near', '../secret.raw', folder.file('secret.raw')]) {
      expect(folder.run(folder.tool('qemu-img'), ['info', `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}`]), name).toMatchObject({ status: 1 });
    }
    expect(folder.run(folder.tool('qemu-io'), ['-f', 'raw', '-c', 'read -P 1 0 1M', `nbd+unix:///beside.qcow2?socket=${socket}`])).toMatchObject({ status: 0 });
    server.child.kill('SIGINT');
    expect(await server.ended).toMatchObject({ status: 0, stderr: '' });
  });

  it('vdisk nbd refuses them, unless told to trust', async () => {
    const socket = folder.file('nbd.sock');
    for (const [name, reason] of [...refused.map((name) => [name, /is not allowed/] as const), ...Object.entries(hopeless)]) {
      const { status, stderr } = folder.run(folder.tool('vdisk'), ['nbd', '--socket', socket, folder.file(`disks/${name}`)]);
      expect([name, status, stderr]).toEqual([name, 1, expect.stringMatching(reason)]);
    }
    for (const parameters of [[folder.file('disks/beside.qcow2')], ['--trust-images', folder.file('disks/above.qcow2')]]) {
      const server = folder.start(folder.tool('vdisk'), ['nbd', '--socket', socket, ...parameters]);
      await until(() => existsSync(socket) || server.child.exitCode !== null, 'vdisk nbd');
      expect(server.child.exitCode, server.output.stderr).toBeNull();
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ status: 0 });
    }
  });

  it.each(['nbd:127.0.0.1:1', 'json:{"file":{"driver":"nbd","host":"127.0.0.1","port":"1"}}'])('an address is none the less one where a file is called so: %s', (name) => {
    writeFileSync(folder.file(name), new Uint8Array(MiB));
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-u', '-f', 'qcow2', '-b', name, '-F', 'raw', folder.file('disguised.qcow2'), '1M']);
    expect(folder.run(folder.tool('vdisk'), ['nbd', '--socket', folder.file('nbd.sock'), 'disguised.qcow2'])).toMatchObject({
      status: 1, stderr: expect.stringMatching(/is not allowed: it is no file in/) as string,
    });
  });
});

describe('a server that was killed', () => {
  it('leaves a socket that the next one replaces, but nobody takes a socket in use, or a file', async () => {
    const socketPath = folder.file('left.sock');
    writeFileSync(folder.file('left.raw'), new Uint8Array(MiB));
    for (const [tool, ...parameters] of [['vdisk', 'nbd', '--socket', socketPath], ['qemu-nbd', '-t', '-f', 'raw', '-k', socketPath]] as const) {
      const begin = (): Running => folder.start(folder.tool(tool), [...parameters, folder.file('left.raw')]);
      const info = (): number | null => folder.run(folder.tool('qemu-img'), ['info', `nbd+unix:///${tool === 'vdisk' ? 'left.raw' : ''}?socket=${socketPath}`]).status;
      const killed = begin();
      await until(() => info() === 0, 'the first server');
      killed.child.kill('SIGKILL');
      await killed.ended;
      expect(existsSync(socketPath)).toBe(true);
      const next = begin();
      await until(() => info() === 0, 'the next server');
      expect(folder.run(folder.tool('vdisk'), ['nbd', '--socket', socketPath, folder.file('left.raw')])).toMatchObject({
        status: 1, stderr: expect.stringContaining('Address already in use') as string,
      });
      expect(info()).toBe(0);
      next.child.kill('SIGTERM');
      expect(await next.ended).toMatchObject({ status: 0 });
      expect(existsSync(socketPath)).toBe(false);
    }
    writeFileSync(socketPath, 'a file');
    expect(folder.run(folder.tool('vdisk'), ['nbd', '--socket', socketPath, folder.file('left.raw')])).toMatchObject({ status: 1 });
    expect(readFileSync(socketPath, 'utf8')).toBe('a file');
  });
});

/** Milliseconds of processor time that the process has used. */
function processorTime(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
const residentBytes = (pid: number): number => Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;

describe.skipIf(!existsSync('/proc/self/stat'))('clients that mean no good', () => {
  const size = 64 * MiB;
  let socketPath: string;
  let server: Running;
  let graph: BlockGraph;
  let honest: BlockBackend;
  let sockets: Socket[];

  beforeAll(() => {
    writeFileSync(folder.file('disk.raw'), randomBytes(size));
  });
  const oneImage = (): string[] => ['nbd', '-f', 'raw', folder.file('disk.raw')];
  beforeEach(() => begin(oneImage()));
  afterEach(end);

  async function begin(parameters: readonly string[]): Promise<void> {
    sockets = [];
    socketPath = folder.file('hostile.sock');
    server = folder.start(folder.tool('vdisk'), [...parameters, '--writable', '--socket', socketPath]);
    await until(() => server.output.stdout.includes('nbd+unix') || server.child.exitCode !== null, 'the server');
    graph = new BlockGraph({ drivers: createRegistry() });
    honest = await graph.openBackend({ driver: 'raw', file: { driver: 'nbd', server: { type: 'unix', path: socketPath }, export: 'disk.raw' } });
  }

  async function end(): Promise<void> {
    for (const socket of sockets) socket.destroy();
    await graph.close();
    server.child.kill('SIGTERM');
    expect(await server.ended).toMatchObject({ status: 0, signal: null, stderr: '' });
  }

  interface Client { readonly socket: Socket; received: number; closed: boolean }
  function client(): Client {
    const made: Client = { socket: connect(socketPath), received: 0, closed: false };
    made.socket.on('data', (bytes) => { made.received += bytes.length; });
    made.socket.on('error', () => undefined);
    made.socket.on('close', () => { made.closed = true; });
    sockets.push(made.socket);
    return made;
  }

  const u32 = (value: number): Buffer => Buffer.from(value.toString(16).padStart(8, '0'), 'hex');
  const u64 = (value: number): Buffer => Buffer.from(value.toString(16).padStart(16, '0'), 'hex');
  const flags = u32(3);
  const option = (number: number, data: Uint8Array = new Uint8Array(), length = data.length): Buffer =>
    Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(length), data]);
  const go = (name: string): Buffer => option(7, Buffer.concat([u32(name.length), Buffer.from(name), Buffer.alloc(2)]));
  const request = (type: number, offset: number, length: number): Buffer =>
    Buffer.concat([u32(0x2560_9513), Buffer.from([0, 0, 0, type]), u64(offset), u64(offset), u32(length)]);
  const [READ, WRITE] = [0, 1];

  /** A client past its handshake. */
  async function inTransmission(): Promise<Client> {
    const made = client();
    made.socket.write(Buffer.concat([flags, go('disk.raw')]));
    await until(() => made.received >= 18 + 20 + 12 + 20, 'the handshake');
    return made;
  }

  /** The honest client is served promptly, and the server is soon not busy with anyone else (unless clients go on giving it work). */
  async function expectUnharmed(comesToRest = true): Promise<void> {
    const pid = server.child.pid!;
    let slowest = 0;
    for (let index = 0; index < 10; index++) {
      const block = randomBytes(4096);
      const back = new Uint8Array(4096);
      const sent = performance.now();
      await honest.write(index * 4096, block);
      await honest.read(index * 4096, back);
      slowest = Math.max(slowest, performance.now() - sent);
      expect(block.equals(back)).toBe(true);
      await new Promise((resolve) => { setTimeout(resolve, 10); });
    }
    expect(slowest, 'milliseconds for 4 KiB to and fro').toBeLessThan(5000);
    if (comesToRest) {
      await until(async () => {
        const before = processorTime(pid);
        const start = performance.now();
        await new Promise((resolve) => { setTimeout(resolve, 200); });
        return (processorTime(pid) - before) / (performance.now() - start) < 0.2;
      }, 'a server that does nothing');
    }
    expect(residentBytes(pid)).toBeLessThan(400 * MiB);
    expect(server.child.exitCode).toBeNull();
  }

  it.each<[string, readonly Uint8Array[]]>([
    ['nothing', []],
    ['one byte', [flags.subarray(0, 1)]],
    ['the client flags', [flags]],
    ['the client flags in pieces', [flags.subarray(0, 1), flags.subarray(1, 3), flags.subarray(3)]],
    ['half an option header', [flags, option(3).subarray(0, 9)]],
    ['an option with half its data', [flags, go('disk.raw').subarray(0, 20)]],
    ['an option of 4 GiB that never comes', [flags, option(7, Buffer.from('x'), 0xffff_ffff)]],
    ['an option of 100 KiB that never comes', [flags, option(99, Buffer.from('x'), 100_000)]],
  ])('then silence: %s', async (_name, pieces) => {
    for (let count = 0; count < 5; count++) {
      const { socket } = client();
      for (const piece of pieces) {
        socket.write(piece);
        await new Promise((resolve) => { setTimeout(resolve, 5); });
      }
    }
    await expectUnharmed();
  });

  it.each<[string, readonly Uint8Array[]]>([
    ['garbage', [Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')]],
    ['flags nobody knows', [u32(0xffff_ffff)]],
    ['a wrong option magic', [flags, Buffer.alloc(16, 0x41)]],
    ['an endless option', [flags, option(7, Buffer.alloc(1), 0xffff_ffff), Buffer.alloc(4 * MiB)]],
  ])('dropped in the handshake: %s', async (_name, pieces) => {
    const made = client();
    for (const piece of pieces) made.socket.write(piece);
    await until(() => made.closed, 'the server to hang up');
    await expectUnharmed();
  });

  it('dropped in transmission: a wrong request magic', async () => {
    const made = await inTransmission();
    made.socket.write(Buffer.alloc(28, 0x41));
    await until(() => made.closed, 'the server to hang up');
    await expectUnharmed();
  });

  it.each<[string, readonly Uint8Array[]]>([
    ['half a request', [request(READ, 0, 4096).subarray(0, 13)]],
    ['a write whose data does not come', [request(WRITE, 32 * MiB, 16 * MiB), Buffer.alloc(100)]],
    ['a write of 4 GiB', [request(WRITE, 0, 0xffff_fffe), Buffer.alloc(4 * MiB)]],
    ['reads and writes beyond the end', [request(READ, 2 ** 50, 4096), request(READ, size - 1, 4096), request(WRITE, 2 ** 50, 4), Buffer.alloc(4)]],
    ['commands nobody knows', Array.from({ length: 100 }, () => request(77, 0, 0))],
  ])('harmless in transmission: %s', async (_name, pieces) => {
    for (let count = 0; count < 5; count++) {
      const made = await inTransmission();
      for (const piece of pieces) made.socket.write(piece);
    }
    await expectUnharmed();
  });

  it('requests whose replies are never taken', async () => {
    for (let count = 0; count < 5; count++) {
      const made = await inTransmission();
      made.socket.pause();
      for (let index = 0; index < 500; index++) made.socket.write(request(READ, 0, 32 * MiB));
    }
    await expectUnharmed();
  });

  it.each([['never taken', 0], ['taken', 1]])('long lists that are asked for again and again, and %s', async (_name, taken) => {
    await end();
    mkdirSync(folder.file('many'), { recursive: true });
    for (let index = 0; index < 1000; index++) writeFileSync(folder.file(`many/a file with a rather long name, number ${index}.raw`), '');
    writeFileSync(folder.file('many/disk.raw'), new Uint8Array(MiB));
    await begin(['serve', folder.file('many')]);
    for (let count = 0; count < 5; count++) {
      const made = client();
      if (!taken) made.socket.pause();
      made.socket.write(flags);
      for (let index = 0; index < 20_000; index++) made.socket.write(option(3));
    }
    await expectUnharmed(!taken);
  });

  it('those who leave at any point', async () => {
    const said = Buffer.concat([flags, option(3), go('disk.raw'), request(READ, 0, 4096), request(WRITE, 32 * MiB, 100), Buffer.alloc(100)]);
    for (let length = 0; length <= said.length; length++) {
      const { socket } = client();
      await new Promise<void>((resolve) => {
        socket.once('close', resolve);
        socket.write(said.subarray(0, length), () => socket.destroy());
      });
    }
    await expectUnharmed();
  });

  it('very many who come and go', async () => {
    for (let round = 0; round < 20; round++) {
      const many = Array.from({ length: 50 }, client);
      for (const { socket } of many) socket.write(flags);
      await new Promise((resolve) => { setTimeout(resolve, 5); });
      for (const { socket } of many) socket.destroy();
    }
    await expectUnharmed();
    const later = await inTransmission();
    expect(later.closed).toBe(false);
  });
});
