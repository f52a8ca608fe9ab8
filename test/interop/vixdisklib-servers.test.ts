/** VixDiskLib over nbd and nbdssl: against our own server, qemu-nbd and nbdkit. */
import { X509Certificate } from 'node:crypto';
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../src/block/graph.js';
import { createRegistry } from '../../src/drivers.js';
import { NbdExport, ExportRegistry } from '../../src/face/nbd/exports.js';
import { NbdServer } from '../../src/face/nbd/server.js';
import {
  AdapterType, DiskLib, DiskType, isVixError, OpenFlags, SECTOR_SIZE, type ConnectOptions, type Connection, type ConnectParams, type LogFunction, type VixErrorSymbol,
} from '../../src/face/vixdisklib/index.js';
import { loadTlsCredentials } from '../../src/platform/tls-credentials.js';
import { makeCertificates, TestFolder } from '../support/nbd-servers.js';
import { havePeers } from '../support/peers.js';

const folder = new TestFolder();
const certificates = folder.file('certificates');
const size = 4 << 20;
const content = new Uint8Array(size);
for (let at = 1 << 20; at < 2 << 20; at++) content[at] = at * 7 + (at >> 8) & 0xff;
const other = Array.from({ length: 20 }, () => '00').join(':');
const logged: string[] = [];
let lib: DiskLib;
let thumbPrint: string;
const stops: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  makeCertificates(certificates);
  thumbPrint = new X509Certificate(readFileSync(`${certificates}/server-cert.pem`)).fingerprint;
  lib = await DiskLib.init({ log: (message) => logged.push(message), tlsDirectory: undefined });
});
afterEach(async () => { for (const stop of stops.splice(0).reverse()) await stop(); });
afterAll(async () => {
  await lib.close();
  await folder.remove();
});

async function failure(work: Promise<unknown>): Promise<VixErrorSymbol | 'no error' | 'no VixError'> {
  return work.then(() => 'no error' as const, (error: unknown) => (isVixError(error) ? error.symbol : 'no VixError'));
}

interface OurServer { readonly port: number; readonly stop: () => Promise<void>; readonly bytes: () => Promise<Uint8Array> }

/** Our server with one disk under some names. */
async function serve(names: readonly string[], { tls = false, writable = true } = {}): Promise<OurServer> {
  const file = folder.file(`${Math.random().toString(36).slice(2)}.raw`);
  writeFileSync(file, '');
  truncateSync(file, size);
  const fd = openSync(file, 'r+');
  writeSync(fd, content, 1 << 20, 1 << 20, 1 << 20);
  closeSync(fd);
  const graph = new BlockGraph({ drivers: createRegistry() });
  const backend = await graph.openBackend({ driver: 'raw', file: { driver: 'file', filename: file } });
  const exports = new ExportRegistry(names.map((name) => new NbdExport(backend, { name, writable })));
  const credentials = loadTlsCredentials({ type: 'tls-creds-x509', id: 'tls', properties: { dir: certificates, endpoint: 'server', 'verify-peer': false } });
  const server = new NbdServer({ exports, ...(tls && { tls: credentials }) });
  const address = await server.listen({ type: 'inet', host: '127.0.0.1', port: '0' });
  let running = true;
  const stop = async (): Promise<void> => {
    if (running) await server.stop();
    running = false;
    await graph.close();
  };
  stops.push(stop);
  return { port: address.type === 'inet' ? Number(address.port) : 0, stop, bytes: async () => readFileSync(file) };
}

async function connect(params: ConnectParams, options?: ConnectOptions): Promise<Connection> {
  const connection = await lib.connect(params, options);
  stops.push(() => connection.disconnect().catch(() => undefined));
  return connection;
}

describe('nbd', () => {
  it('a managed disk is read and written', async () => {
    const { port, bytes } = await serve(['vm-16/[store] web/web.vmdk']);
    const connection = await connect({ serverName: '127.0.0.1', port, vmxSpec: 'moref=vm-16', creds: { userName: 'root', password: 'secret' } }, { transportModes: 'san:nbd' });
    expect(connection.remote).toBe(true);
    const disk = await connection.open('[store] web/web.vmdk');
    expect(disk.transportMode).toBe('nbd');
    expect(disk.capacity).toBe(size / SECTOR_SIZE);
    expect(Buffer.from(await disk.read(2048, 2048)).equals(content.subarray(1 << 20, 2 << 20))).toBe(true);
    await disk.write(5, new Uint8Array(SECTOR_SIZE).fill(9));
    await disk.flush();
    expect((await bytes()).subarray(5 * SECTOR_SIZE, 6 * SECTOR_SIZE).every((byte) => byte === 9)).toBe(true);
    expect(await disk.info()).toMatchObject({ capacity: size / SECTOR_SIZE, numLinks: 1, parentFileNameHint: null });
    const blocks = await disk.queryAllocatedBlocks();
    expect(blocks).toContainEqual({ offset: 2048, length: 2048 });
    expect(blocks.reduce((sum, { length }) => sum + length, 0)).toBeLessThan(4096);
    expect(logged.join('\n')).not.toContain('secret');
    const error: unknown = await connection.open('nowhere').catch((reason: unknown) => reason);
    for (const shown of [error, connection, disk, connection.params]) expect(inspect(shown, { depth: 9, showHidden: true }) + JSON.stringify(shown)).not.toContain('secret');
    expect(isVixError(error, 'VIX_E_FILE_NOT_FOUND')).toBe(true);
    await disk.close();
  });

  it('a disk by other names', async () => {
    const { port } = await serve(['store/web/web.vmdk', 'disk', 'vm-16@snapshot-2/disk', 'fcd-1']);
    const params = { serverName: '127.0.0.1', port, vmxSpec: 'moref=vm-16' };
    const nbd = { transportModes: 'nbd' };
    for (const path of ['[store] web/web.vmdk', 'disk']) await (await (await connect(params, nbd)).open(path)).close();
    await (await (await connect(params, { ...nbd, snapshotRef: 'snapshot-2', readOnly: true })).open('disk', { flags: OpenFlags.READ_ONLY })).close();
    expect(await failure((await connect(params, { ...nbd, snapshotRef: 'snapshot-3' })).open('disk'))).toBe('VIX_E_FILE_NOT_FOUND');
    expect(await failure((await connect(params, nbd)).open('nothing'))).toBe('VIX_E_FILE_NOT_FOUND');
    await (await (await connect({ ...params, specType: 1, vStorageObjSpec: { id: 'fcd-1', datastoreMoRef: 'datastore-1' } }, nbd)).open('')).close();
  });

  it('a disk is cloned from and to a server', async () => {
    const { port, bytes } = await serve(['disk']);
    const remote = await connect({ serverName: '127.0.0.1', port }, { transportModes: 'nbd' });
    const host = await lib.connect();
    const copy = folder.file('copy.vmdk');
    await host.clone(copy, remote, 'disk', { createParams: { diskType: DiskType.STREAM_OPTIMIZED } });
    const disk = await host.open(copy, { flags: OpenFlags.READ_ONLY });
    expect(Buffer.from(await disk.read(0, disk.capacity)).equals(content)).toBe(true);
    await disk.close();
    await using back = await remote.open('disk');
    await back.write(0, new Uint8Array(1 << 20).fill(1));
    await back.close();
    await remote.clone('disk', host, copy, { overwrite: true });
    expect(Buffer.from(await bytes()).equals(content)).toBe(true);
    await host.disconnect();
  });

  it('what is for disks of this host alone', async () => {
    const { port } = await serve(['disk']);
    const remote = await connect({ serverName: '127.0.0.1', port }, { transportModes: 'nbd' });
    const refusal = 'VIX_E_NOT_SUPPORTED_ON_REMOTE_OBJECT';
    expect(await failure(remote.create('new', { diskType: DiskType.MONOLITHIC_FLAT, adapterType: AdapterType.IDE, capacity: 100 }))).toBe(refusal);
    expect(await failure(remote.grow('disk', 100_000))).toBe(refusal);
    expect(await failure(remote.rename('disk', 'other'))).toBe(refusal);
    expect(await failure(remote.unlink('disk'))).toBe(refusal);
    expect(await failure(remote.checkRepair('disk', false))).toBe(refusal);
    await using disk = await remote.open('disk');
    expect(await failure((async () => disk.shrink())())).toBe(refusal);
    expect(await failure((async () => disk.defragment())())).toBe(refusal);
    expect(await failure((async () => disk.createChild('child'))())).toBe(refusal);
    expect(await failure((async () => disk.attach(disk))())).toBe(refusal);
  });

  it('servers that are not there, do not want to, or go away', async () => {
    const { port, stop } = await serve(['disk'], { writable: false });
    const params = { serverName: '127.0.0.1', port };
    const nbd = { transportModes: 'nbd' };
    const connection = await connect(params, nbd);
    expect(await failure(connection.open('disk'))).toBe('VIX_E_FILE_READ_ONLY');
    expect(await failure((await connect(params, { ...nbd, readOnly: true })).open('disk'))).toBe('VIX_E_FILE_READ_ONLY');
    expect(await failure((await connect(params, { transportModes: 'nbdssl' })).open('disk', { flags: OpenFlags.READ_ONLY }))).toBe('VIX_E_HOST_NETBLKDEV_HANDSHAKE');
    const disk = await connection.open('disk', { flags: OpenFlags.READ_ONLY | OpenFlags.COMPRESSION_FASTLZ });
    await stop();
    expect(await failure((async () => disk.read(0, 1))())).toBe('VIX_E_HOST_TCP_CONN_LOST');
    await disk.close().catch(() => undefined);
    expect(await failure(connection.open('disk', { flags: OpenFlags.READ_ONLY }))).toBe('VIX_E_HOST_NETWORK_CONN_REFUSED');
    expect(await failure((await connect({ serverName: 'no-such-host.invalid' }, nbd)).open('disk'))).toBe('VIX_E_HOST_SERVER_NOT_FOUND');
    const silent = createServer((socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\nand nothing else'));
    await new Promise<void>((resolve) => { silent.listen(0, '127.0.0.1', resolve); });
    stops.push(async () => silent.close());
    expect(await failure((await connect({ serverName: '127.0.0.1', port: (silent.address() as { port: number }).port }, nbd)).open('disk'))).toBe('VIX_E_HOST_NETBLKDEV_HANDSHAKE');
  });

  it('what is said of the way there can be left out', async () => {
    for (const [level, expected] of [[1, []], [2, ['warn']], [3, ['warn', 'log']]] as const) {
      const { port } = await serve(['disk']);
      const config = folder.file('levels.conf');
      writeFileSync(config, `vixDiskLib.transport.LogLevel=${level}\n`);
      const said: string[] = [];
      const say: LogFunction = (_message, details) => { if (details.component === 'transport') said.push(details.level); };
      await using heard = await DiskLib.init({ configFile: config, log: say, warn: say });
      // nbdssl is tried first, and refused
      await using disk = await (await heard.connect({ serverName: '127.0.0.1', port })).open('disk', { flags: OpenFlags.READ_ONLY | OpenFlags.COMPRESSION_SKIPZ });
      expect(said, String(level)).toEqual(expected);
      expect(disk.transportMode).toBe('nbd');
    }
  });

  it('transports that there are not', async () => {
    const params = { serverName: '127.0.0.1' };
    expect(await failure(lib.connect(params, { transportModes: 'san' }))).toBe('VIX_E_NOT_SUPPORTED');
    expect(await failure(lib.connect(params, { transportModes: 'hotadd:san' }))).toBe('VIX_E_NOT_SUPPORTED');
    expect(await failure(lib.connect(params, { transportModes: 'file' }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(lib.connect(params, { transportModes: 'scsi' }))).toBe('VIX_E_INVALID_ARG');
    expect(await failure(lib.connect(null, { transportModes: 'nbd' }))).toBe('VIX_E_INVALID_ARG');
  });

  it.skipIf(!havePeers('qemu-nbd', 'qemu-img'))('qemu-nbd', async () => {
    const raw = folder.file('qemu.raw');
    writeFileSync(raw, content);
    const { socket, stop } = await folder.qemuNbd('qemu-nbd', ['-f', 'raw', '-x', 'disk', raw]);
    const connection = await connect({ serverName: socket }, { transportModes: 'nbd' });
    const disk = await connection.open('disk');
    expect(Buffer.from(await disk.read(0, disk.capacity)).equals(content)).toBe(true);
    await disk.write(0, new Uint8Array(SECTOR_SIZE).fill(3));
    expect((await disk.read(0, 1))[0]).toBe(3);
    await disk.drain();
    await stop();
    expect(await failure((async () => disk.read(0, 1))())).toBe('VIX_E_HOST_TCP_CONN_LOST');
    await disk.close().catch(() => undefined);
    expect(await failure(connection.open('disk'))).toMatch(/^VIX_E_HOST_/);
  });

  it.skipIf(!havePeers('nbdkit'))('nbdkit', async () => {
    const { socket } = await folder.nbdkit(['memory', String(size)]);
    await using disk = await (await connect({ serverName: socket }, { transportModes: 'nbd' })).open('any name');
    expect(await disk.queryAllocatedBlocks()).toEqual([]);
    await disk.write(1024, content.subarray(1 << 20, (1 << 20) + SECTOR_SIZE));
    expect(await disk.queryAllocatedBlocks({ start: 1000 })).toEqual([{ offset: 1000, length: 128 }]);
    expect(Buffer.from(await disk.read(1024, 1)).equals(content.subarray(1 << 20, (1 << 20) + SECTOR_SIZE))).toBe(true);
  });
});

describe('nbdssl', () => {
  it('pins the certificate', async () => {
    const { port } = await serve(['disk'], { tls: true });
    const sha256 = new X509Certificate(readFileSync(`${certificates}/server-cert.pem`)).fingerprint256;
    for (const pin of [thumbPrint, thumbPrint.toLowerCase(), sha256]) {
      const disk = await (await connect({ serverName: '127.0.0.1', port, thumbPrint: pin })).open('disk');
      expect(disk.transportMode).toBe('nbdssl');
      expect(Buffer.from(await disk.read(2048, 1)).equals(content.subarray(1 << 20, (1 << 20) + SECTOR_SIZE))).toBe(true);
      await disk.close();
    }
    const wrong = (await connect({ serverName: '127.0.0.1', port, thumbPrint: other }, { transportModes: 'nbdssl:nbd' })).open('disk');
    await expect(wrong).rejects.toMatchObject({ symbol: 'VIX_E_AUTHENTICATION_FAIL', code: 35 });
    await expect(wrong).rejects.toThrow('(tried: nbdssl)');
  });

  it('believes authorities', async () => {
    const { port } = await serve(['disk'], { tls: true });
    expect(await failure((await connect({ serverName: 'localhost', port })).open('disk'))).toBe('VIX_E_AUTHENTICATION_FAIL');
    await using trusting = await DiskLib.init({ tlsDirectory: certificates });
    await using disk = await (await trusting.connect({ serverName: 'localhost', port })).open('disk');
    expect(disk.transportMode).toBe('nbdssl');
  });

  it('a thumbprint is no thumbprint without encryption', async () => {
    const { port } = await serve(['disk']);
    expect(await failure((await connect({ serverName: '127.0.0.1', port, thumbPrint })).open('disk'))).toBe('VIX_E_HOST_NETBLKDEV_HANDSHAKE');
    const disk = await (await connect({ serverName: '127.0.0.1', port })).open('disk');
    expect(disk.transportMode).toBe('nbd');
    await disk.close();
    expect(await failure((await connect({ serverName: '127.0.0.1', port }, { transportModes: 'nbdssl' })).open('disk'))).toBe('VIX_E_HOST_NETBLKDEV_HANDSHAKE');
  });

  it.skipIf(!havePeers('nbdkit'))('nbdkit', async () => {
    const { socket } = await folder.nbdkit(['--tls=require', `--tls-certificates=${certificates}`, 'memory', String(size)]);
    await using disk = await (await connect({ serverName: socket, thumbPrint })).open('');
    await disk.write(0, new Uint8Array(SECTOR_SIZE).fill(1));
    expect((await disk.read(0, 1))[0]).toBe(1);
    expect(await failure((await connect({ serverName: socket, thumbPrint: other })).open(''))).toBe('VIX_E_AUTHENTICATION_FAIL');
  });
});
