/** The NBD server judged by the tools of others: libnbd's, QEMU 7.2's and 10's, fio. Integrity is checked, not only success. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../src/block/child.js';
import { Perm } from '../../src/block/driver.js';
import { allowImplicitOpens } from '../../src/block/gate.js';
import { BlockGraph } from '../../src/block/graph.js';
import { createImageFile } from '../../src/block/create.js';
import { createRegistry } from '../../src/drivers.js';
import { DirectoryExports } from '../../src/face/nbd/directory.js';
import { ExportRegistry, NbdExport } from '../../src/face/nbd/exports.js';
import { NbdServer, type NbdServerOptions } from '../../src/face/nbd/server.js';
import { loadTlsCredentials } from '../../src/platform/tls-credentials.js';
import { until } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';
import { randomBytes, testSeed } from '../support/seed.js';

const run = promisify(execFile);
const MiB = 1 << 20;
const size = 64 * MiB;
const nbdSh = '/usr/bin/python3';

let folder: string;
let socket: string;
let uri: string;
let graph: BlockGraph;
let backend: BlockBackend;
let server: NbdServer;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-interop-'));
  socket = join(folder, 'sock');
  uri = `nbd+unix:///?socket=${socket}`;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(async () => {
  await server?.stop();
  await graph?.close();
});

/** Serves a new image of `format` on the unix socket. */
async function serve(format: 'raw' | 'qcow2', options: Partial<NbdServerOptions> = {}): Promise<string> {
  graph = new BlockGraph({ drivers: createRegistry(), gate: allowImplicitOpens });
  const filename = join(folder, `disk.${format}`);
  await createImageFile(graph, { filename, format, size });
  backend = await graph.openBackend(filename, { driver: format, discard: 'unmap', share: Perm.ALL });
  server = new NbdServer({ exports: new ExportRegistry([new NbdExport(backend, { name: '', writable: true, allocationDepth: true })]), ...options });
  await server.listen({ type: 'unix', path: socket });
  return filename;
}

const haveLibnbd = havePeers('nbdcopy', 'nbdinfo');
const haveQemu = havePeers('qemu-img', 'qemu-io');

describe.each(['raw', 'qcow2'] as const)('a %s export', (format) => {
  it.skipIf(!haveLibnbd)('comes back from nbdcopy as it went in', async () => {
    await serve(format);
    const source = join(folder, 'source');
    const target = join(folder, 'target');
    const content = Buffer.alloc(size);
    for (let at = 0; at < size; at += 4 * MiB) randomBytes(MiB).copy(content, at);
    writeFileSync(source, content);
    await run('nbdcopy', ['--connections=4', source, uri]);
    await run('nbdcopy', ['--connections=4', uri, target]);
    expect(readFileSync(target).equals(content)).toBe(true);
    const { stdout } = await run('nbdinfo', ['--map', '--json', uri]);
    const map = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
    expect(map.slice(0, 3)).toEqual([
      { offset: 0, length: MiB, type: 0, description: 'data' }, { offset: MiB, length: 3 * MiB, type: 3, description: 'hole,zero' },
      { offset: 4 * MiB, length: MiB, type: 0, description: 'data' },
    ]);
  });

  it.skipIf(!havePeers('nbdsh'))('survives libnbd\'s random requests', async () => {
    await serve(format);
    const script = join(folder, 'requests.py');
    writeFileSync(script, randomRequests);
    const { stdout } = await run(nbdSh, [script, uri, String(testSeed)], { timeout: 200_000 });
    expect(stdout).toBe('ok\n');
  });

  it.skipIf(!havePeers('fio'))('passes fio\'s verification with four jobs at depth 16', async () => {
    await serve(format);
    await run('fio', ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=16', '--numjobs=4', '--size=4m',
      '--offset_increment=4m', '--verify=crc32c', '--verify_fatal=1', '--group_reporting', '--output-format=json'], { timeout: 200_000, cwd: folder });
  });

  const newQemu = haveQemu ? oracleTool('qemu-io') : undefined;
  for (const [label, io] of [['7.2', haveQemu ? 'qemu-io' : undefined], ['10', newQemu]] as const) {
    it.skipIf(io === undefined)(`is written, zeroed, trimmed and read by qemu-io ${label}`, async () => {
      await serve(format);
      const { stdout } = await run(io!, ['-f', 'raw', '-c', 'write -P 7 0 3M', '-c', 'write -z 64k 64k', '-c', 'write -z -u 1M 64k', '-c', 'discard 2M 64k', '-c', 'flush',
        '-c', 'read -P 7 0 64k', '-c', 'read -P 0 64k 64k', '-c', 'read -P 0 1M 64k', '-c', 'read -P 7 128k 896k', '-c', 'read -P 0 3M 1M', '-c', 'aio_write -P 9 8M 1M', '-c', 'aio_flush', '-c', 'read -P 9 8M 1M', uri]);
      expect(stdout).not.toMatch(/failed|error/i);
    });
  }
});

it.skipIf(!haveQemu)('leaves a qcow2 image that qemu-img finds in order', async () => {
  const filename = await serve('qcow2');
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 7 100k 5M', '-c', 'write -z 1M 1M', '-c', 'discard 3M 1M', uri]);
  await server.stop();
  await graph.close();
  expect((await run('qemu-img', ['check', filename])).stdout).toContain('No errors');
});

describe.skipIf(!haveLibnbd || !havePeers('certtool'))('TLS', () => {
  let pki: string;
  beforeAll(async () => {
    pki = join(folder, 'pki');
    mkdirSync(pki);
    const make = async (name: string, template: string, signed: boolean): Promise<void> => {
      const file = (suffix: string): string => join(pki, `${name}-${suffix}.pem`);
      writeFileSync(join(pki, `${name}.info`), template);
      await run('certtool', ['--generate-privkey', '--ecc', '--outfile', file('key')]);
      await run('certtool', [signed ? '--generate-certificate' : '--generate-self-signed', '--load-privkey', file('key'), '--template', join(pki, `${name}.info`), '--outfile', file('cert'),
        ...(signed ? ['--load-ca-certificate', join(pki, 'ca-cert.pem'), '--load-ca-privkey', join(pki, 'ca-key.pem')] : [])]);
    };
    await make('ca', 'cn = test authority\nca\ncert_signing_key\n', false);
    await make('server', 'cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n', true);
    await make('client', 'cn = client\ntls_www_client\nencryption_key\nsigning_key\n', true);
    writeFileSync(join(pki, 'keys.psk'), `alice:${'ab'.repeat(32)}\n`);
  });
  const credentials = (type: string) => loadTlsCredentials({ type, id: 't', properties: { dir: pki, endpoint: 'server' } });

  it('serves those whom it is told to let in', async () => {
    const judged: string[] = [];
    const authorize = (name: string): boolean => judged.push(name) === 1;
    await serve('raw', { tls: credentials('tls-creds-x509'), authorize });
    const address = await server.listen({ type: 'inet', host: '127.0.0.1', port: '0' });
    const uri = `nbds://localhost:${address.type === 'inet' ? address.port : ''}/?tls-certificates=${pki}`;
    expect((await run('nbdinfo', ['--size', uri])).stdout.trim()).toBe(String(size));
    await expect(run('nbdinfo', ['--size', uri])).rejects.toThrow();
    expect(new Set(judged)).toEqual(new Set(['CN=client']));
  });

  it('serves clients with a certificate and no others', async () => {
    await serve('raw', { tls: credentials('tls-creds-x509') });
    const address = await server.listen({ type: 'inet', host: '127.0.0.1', port: '0' });
    const where = address.type === 'inet' ? `localhost:${address.port}` : '';
    expect((await run('nbdinfo', ['--size', `nbds://${where}/?tls-certificates=${pki}`])).stdout.trim()).toBe(String(size));
    await expect(run('nbdinfo', ['--size', `nbd://${where}/`])).rejects.toThrow(/TLS|Operation not supported|Function not implemented|policy/i);
    rmSync(join(pki, 'client-cert.pem'));
    await expect(run('nbdinfo', ['--size', `nbds://${where}/?tls-certificates=${pki}`])).rejects.toThrow();
  });

  it('serves clients with the key and no others', async () => {
    await serve('raw', { tls: credentials('tls-creds-psk') });
    const secure = (file: string) => `nbds+unix://alice@/?socket=${socket}&tls-psk-file=${file}`;
    expect((await run('nbdinfo', ['--size', secure(join(pki, 'keys.psk'))])).stdout.trim()).toBe(String(size));
    const source = join(folder, 'secret');
    writeFileSync(source, randomBytes(8 * MiB));
    await run('nbdcopy', [source, secure(join(pki, 'keys.psk'))]);
    await run('nbdcopy', [secure(join(pki, 'keys.psk')), join(folder, 'secret-back')]);
    expect(readFileSync(join(folder, 'secret-back')).subarray(0, 8 * MiB).equals(readFileSync(source))).toBe(true);
    writeFileSync(join(pki, 'wrong.psk'), `alice:${'cd'.repeat(32)}\n`);
    await expect(run('nbdinfo', ['--size', secure(join(pki, 'wrong.psk'))])).rejects.toThrow();
  });
});

describe('a directory', () => {
  it.skipIf(!haveQemu)('serves what lies in it and nothing else', async () => {
    const root = join(folder, 'disks');
    mkdirSync(root);
    writeFileSync(join(folder, 'outside.raw'), randomBytes(MiB));
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', join(root, 'a.qcow2'), '10M']);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', join(root, 'inside.qcow2')]);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', join(folder, 'outside.raw'), '-F', 'raw', join(root, 'outside.qcow2')]);
    symlinkSync(join(folder, 'outside.raw'), join(root, 'link.raw'));
    const exports = new DirectoryExports(root, { drivers: createRegistry(), writable: false });
    server = new NbdServer({ exports });
    await server.listen({ type: 'unix', path: socket });
    const info = (name: string) => run('qemu-img', ['info', '--output=json', `nbd+unix:///${name}?socket=${socket}`]);
    for (const name of ['a.qcow2', 'inside.qcow2']) {
      expect((JSON.parse((await info(name)).stdout) as { 'virtual-size': number })['virtual-size']).toBe(10 * MiB);
    }
    for (const name of ['outside.qcow2', 'link.raw', '../outside.raw', '']) await expect(info(name)).rejects.toThrow();
    writeFileSync(join(root, 'later.raw'), randomBytes(MiB));
    expect((await info('later.raw')).stdout).toContain('1048576');
    await expect(run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', `nbd+unix:///later.raw?socket=${socket}`])).rejects.toThrow();
    await server.stop();
    await exports.close();
  });
});

it.skipIf(!haveLibnbd)('a client that is killed in the middle of everything hurts nobody', async () => {
  await serve('raw');
  await backend.write(0, new Uint8Array(size).fill(1));
  let [reads, writes, goOn] = [0, 0, (): void => undefined];
  const over = new Promise<void>((resolve) => { goOn = resolve; });
  const [read, write] = [backend.read.bind(backend), backend.write.bind(backend)];
  backend.read = async (...request) => {
    if (++reads > 50) await over;
    return read(...request);
  };
  backend.write = async (...request) => {
    if (++writes > 50) await over;
    return write(...request);
  };
  const commands = Array.from({ length: 3 }, () => [['--requests=64', '/dev/zero', uri], [uri, 'null:']]).flat();
  const children = commands.map((parameters) => spawn('nbdcopy', parameters, { stdio: 'ignore' }));
  await until(() => reads > 50 && writes > 50, 'requests under way');
  await Promise.all(children.map((child) => {
    child.kill('SIGKILL');
    return once(child, 'exit');
  }));
  goOn();
  expect((await run('nbdinfo', ['--size', uri])).stdout.trim()).toBe(String(size));
  await expect.poll(() => server.clients).toBe(0);
});

/** Random requests through libnbd, mirrored in memory. */
const randomRequests = `
import nbd, random, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
random.seed(int(sys.argv[2]))
size = h.get_size()
mirror = bytearray(size)
for _ in range(200):
    op = random.choice("wwwrrrdzt")
    length = random.choice([1, 511, 4096, 65536, 100000, 131072, 131073, 262144, 500001, 3 << 20])
    offset = random.randrange(0, size - length)
    if op == "w":
        data = random.randbytes(length)
        h.pwrite(data, offset, nbd.CMD_FLAG_FUA if random.random() < .2 else 0)
        mirror[offset:offset + length] = data
    elif op == "r":
        assert h.pread(length, offset) == mirror[offset:offset + length], (offset, length)
    elif op == "d":
        chunks = []
        h.pread_structured(length, offset, lambda data, at, kind, error: chunks.append(bytes(data)) and 0, nbd.CMD_FLAG_DF)
        assert chunks == [bytes(mirror[offset:offset + length])], (offset, length)
    elif op == "z":
        h.zero(length, offset, random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        mirror[offset:offset + length] = bytes(length)
    else:
        h.trim(length, offset)
        mirror[offset:offset + length] = h.pread(length, offset)
for at in range(0, size, 4 << 20):
    assert h.pread(4 << 20, at) == mirror[at:at + (4 << 20)], at
h.shutdown()
print("ok")
`;
