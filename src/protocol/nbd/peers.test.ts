/** The client against foreign servers: nbdkit in many moods, qemu-nbd 7.2 and 10. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { havePeers, oracleTool } from '../../../test/support/peers.js';
import { testSeed } from '../../../test/support/seed.js';
import { makeCertificates, TestFolder, type RunningServer } from '../../../test/support/nbd-servers.js';
import { BlockError } from '../../block/errors.js';
import { BlockGraph, type OpenSpec } from '../../block/graph.js';
import type { BlockBackend } from '../../block/child.js';
import type { UserObject, UserObjects } from '../../block/objects.js';
import { DriverRegistry } from '../../block/registry.js';
import { seededRandom } from '../../testing/random.js';
import { nbd } from './index.js';

const MiB = 1024 * 1024;

async function using<T>(spec: OpenSpec, body: (disk: BlockBackend) => Promise<T>, objects?: UserObjects, readOnly = false): Promise<T> {
  const graph = new BlockGraph({ drivers: new DriverRegistry([nbd]), ...(objects && { objects }) });
  try {
    return await body(await graph.openBackend(spec, { driver: 'nbd', readOnly, discard: 'unmap' }));
  } finally {
    await graph.close();
  }
}

function unix(socket: string, more: Record<string, unknown> = {}): OpenSpec {
  return { server: { type: 'unix', path: socket }, ...more };
}

/** Requests at random places, 16 at a time on disjoint ranges, judged by a byte array. */
async function exercise(disk: BlockBackend, seed: number, rounds = 25, longest = 200_000): Promise<void> {
  const random = seededRandom(seed);
  const pick = (below: number): number => Math.floor(random() * below);
  const size = disk.size;
  const model = new Uint8Array(size);
  await disk.writeZeroes(0, size);
  const stripe = Math.floor(size / 16);
  for (let round = 0; round < rounds; round++) {
    await Promise.all(Array.from({ length: 16 }, async (_, index) => {
      const length = 1 + pick(Math.min(longest, stripe));
      const offset = index * stripe + pick(stripe - length + 1);
      const range = model.subarray(offset, offset + length);
      switch (pick(4)) {
        case 0: {
          const data = new Uint8Array(length).fill(1 + pick(255));
          range.set(data);
          return disk.write(offset, data, pick(2));
        }
        case 1:
          range.fill(0);
          return disk.writeZeroes(offset, length, pick(4));
        default: {
          const target = new Uint8Array(length).fill(0xee);
          await disk.read(offset, target);
          expect(Buffer.compare(target, range), `seed ${seed}, round ${round}: read ${length} at ${offset}`).toBe(0);
        }
      }
    }));
  }
  await disk.flush();
  const all = new Uint8Array(size);
  await disk.read(0, all);
  expect(Buffer.compare(all, model)).toBe(0);
  for (let offset = 0; offset < size;) {
    const status = await disk.status(offset, size - offset);
    expect(status.length).toBeGreaterThan(0);
    if (status.zero) expect(model.subarray(offset, offset + status.length).every((byte) => byte === 0)).toBe(true);
    offset += status.length;
  }
}

async function failure(promise: Promise<unknown>): Promise<BlockError> {
  const error = await promise.then(() => undefined, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(BlockError);
  return error as BlockError;
}

const folder = new TestFolder();
afterAll(() => folder.remove());

describe.skipIf(!havePeers('nbdkit'))('nbdkit', () => {
  const moods: Record<string, readonly string[]> = {
    'as it comes': ['memory', '4M'],
    'simple replies only': ['--no-sr', 'memory', '4M'],
    'plain newstyle (EXPORT_NAME)': ['--mask-handshake=0', 'memory', '4M'],
    'fixed newstyle without NO_ZEROES': ['--mask-handshake=1', 'memory', '4M'],
    'replies in any order': ['--filter=delay', 'memory', '4M', 'rdelay=3ms', 'wdelay=1ms'],
    'blocks of 4096 bytes, at most 64 KiB at once': [
      '--filter=blocksize-policy', 'memory', '4M', 'blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=65536', 'blocksize-error-policy=error',
    ],
    'no zeroing': ['--filter=nozero', 'memory', '4M'],
    'FUA by flushing': ['--filter=fua', 'memory', '4M', 'fuamode=emulate'],
    'no block status': ['--filter=noextents', 'memory', '4M'],
    'copy on write': ['--filter=cow', 'memory', '4M'],
    'an odd size': ['memory', String(4 * MiB + 77)],
  };
  test.each(Object.entries(moods))('%s', async (_name, parameters) => {
    const server = await folder.nbdkit(parameters);
    await using(server.uri(), (disk) => exercise(disk, testSeed));
    await server.stop();
  });

  test('oldstyle', async () => {
    // Only reads: nbdkit 1.32 refuses what its oldstyle greeting promises.
    const server = await folder.nbdkit(['-o', '-r', 'pattern', '4M']);
    await using(server.uri(), async (disk) => {
      const target = Buffer.alloc(1024);
      await disk.read(2 * MiB, target);
      expect([target.readBigUInt64BE(0), target.readBigUInt64BE(1016)]).toEqual([BigInt(2 * MiB), BigInt(2 * MiB + 1016)]);
    }, undefined, true);
    await expect(using(server.uri('name'), async () => undefined, undefined, true)).rejects.toThrow('Server does not support non-empty export names');
  });

  test('several connections share the work', async () => {
    const server = await folder.nbdkit(['memory', '8M']);
    await using(unix(server.socket, { connections: 4 }), (disk) => exercise(disk, testSeed + 1));
  });

  test('errors keep their number, and the connection goes on', async () => {
    const server = await folder.nbdkit(['--filter=error', 'memory', '1M', 'error-pread=ENOSPC', 'error-pread-rate=100%', 'error-pwrite=EPERM', 'error-pwrite-rate=50%']);
    await using(server.uri(), async (disk) => {
      for (let round = 0; round < 10; round++) {
        const error = await failure(Promise.resolve(disk.read(0, new Uint8Array(512))));
        expect([error.code, error.errno, error.message]).toEqual(['NO_SPACE', 28, 'No space left on device']);
      }
      const results = await Promise.allSettled(Array.from({ length: 100 }, (_, index) => disk.write(512 * index, new Uint8Array(512))));
      const failed = results.filter((result) => result.status === 'rejected');
      expect(failed.length).toBeGreaterThan(20);
      expect(failed.length).toBeLessThan(80);
      for (const { reason } of failed) expect((reason as BlockError).errno).toBe(1);
    });
  });

  test('a read that fails behind its first chunk', async () => {
    // The error filter sits above the one that cuts requests, so a long read fails as a whole; below it, in its middle.
    const server = await folder.nbdkit(['--filter=blocksize', '--filter=error', 'memory', '1M', 'maxdata=64k', 'error-pread=EIO', 'error-pread-rate=30%']);
    await using(server.uri(), async (disk) => {
      const results = await Promise.allSettled(Array.from({ length: 50 }, () => disk.read(0, new Uint8Array(MiB))));
      expect(results.some((result) => result.status === 'rejected')).toBe(true);
    });
  });

  test('read-only: opens for reading, refuses to open for writing', async () => {
    const server = await folder.nbdkit(['-r', 'memory', '1M']);
    await using(server.uri(), async (disk) => expect(disk.readOnly).toBe(true), undefined, true);
    expect((await failure(using(server.uri(), async () => undefined))).message).toBe('Could not open image: Permission denied');
  });

  test('names of exports', async () => {
    const server = await folder.nbdkit(['eval', 'get_size=echo 512', 'pread=printf "%-512s" "$2"', 'open=echo "$3"', 'list_exports=echo NAMES']);
    await using(server.uri('a b/ü?'), async (disk) => {
      const target = new Uint8Array(512);
      await disk.read(0, target);
      expect(new TextDecoder().decode(target).trimEnd()).toBe('a b/ü?');
    }, undefined, true);
  });

  test('requests in flight survive a server that comes back', async () => {
    const file = folder.file('persistent.raw');
    writeFileSync(file, new Uint8Array(MiB).fill(5));
    const slow = ['--filter=delay', 'file', file, 'rdelay=300ms'];
    const server = await folder.nbdkit(slow);
    await using(unix(server.socket, { 'reconnect-delay': 20 }), async (disk) => {
      const target = new Uint8Array(64 * 1024);
      const reading = Promise.resolve(disk.read(4096, target));
      const more = Array.from({ length: 10 }, (_, index) => disk.write(512 * 1024 + 512 * index, new Uint8Array(512).fill(9)));
      await new Promise((resolve) => { setTimeout(resolve, 100); });
      await server.stop();
      await new Promise((resolve) => { setTimeout(resolve, 300); });
      await folder.nbdkit(slow, server.socket);
      await Promise.all([reading, ...more]);
      expect(target.every((byte) => byte === 5)).toBe(true);
    });
  });

  test('a server that stays away: EIO after the delay, and once more for whoever asks later', async () => {
    const server = await folder.nbdkit(['--filter=delay', 'memory', '1M', 'rdelay=10']);
    await using(unix(server.socket, { 'reconnect-delay': 1 }), async (disk) => {
      const reading = failure(Promise.resolve(disk.read(0, new Uint8Array(512))));
      await new Promise((resolve) => { setTimeout(resolve, 50); });
      const started = performance.now();
      await server.stop();
      expect((await reading).message).toBe('Input/output error');
      const waited = performance.now() - started;
      expect(waited).toBeGreaterThan(800);
      expect(waited).toBeLessThan(20_000);
      expect((await failure(Promise.resolve(disk.read(0, new Uint8Array(512))))).errno).toBe(5);
      await folder.nbdkit(['memory', '1M'], server.socket);
      await disk.read(0, new Uint8Array(512));
    });
  });

  test('without a delay a lost server fails requests at once; the next request finds it again', async () => {
    const server = await folder.nbdkit(['--filter=delay', 'memory', '1M', 'rdelay=10']);
    await using(unix(server.socket), async (disk) => {
      const reading = failure(Promise.resolve(disk.read(0, new Uint8Array(512))));
      await new Promise((resolve) => { setTimeout(resolve, 50); });
      await server.stop();
      expect((await reading).code).toBe('CONNECTION_LOST');
      await folder.nbdkit(['memory', '1M'], server.socket);
      await disk.read(0, new Uint8Array(512));
    });
  });

  test('an export in the place of a new image', async () => {
    const server = await folder.nbdkit(['pattern', '1M', '--filter=cow']);
    await nbd.createFile!(server.uri(), {});
    const readOnly = await folder.nbdkit(['-r', 'memory', '1M']);
    const prefix = "Protocol driver 'nbd' does not support creating new images, so an existing image must be selected as the target; "
      + 'however, opening the given target as an existing image failed: ';
    expect((await failure(nbd.createFile!(readOnly.uri(), {}))).message).toBe(`${prefix}Could not open image: Permission denied`);
    const nowhere = folder.file('nowhere');
    expect((await failure(nbd.createFile!(`nbd:unix:${nowhere}`, {}))).message).toBe(`${prefix}Failed to connect to '${nowhere}': No such file or directory`);
  });

  test('open-timeout waits for a server that starts late', async () => {
    const socket = folder.file('late.sock');
    const opening = using(unix(socket, { 'open-timeout': 20 }), (disk) => Promise.resolve(disk.size));
    await new Promise((resolve) => { setTimeout(resolve, 300); });
    await folder.nbdkit(['memory', '3M'], socket);
    expect(await opening).toBe(3 * MiB);
    await expect(using(unix(folder.file('never.sock'), { 'open-timeout': 0.3 }), async () => undefined)).rejects.toThrow('Failed to connect');
  });
});

function objects(...all: readonly UserObject[]): UserObjects {
  return new Map(all.map((object) => [object.id, object]));
}

describe.skipIf(!havePeers('nbdkit', 'openssl', 'qemu-nbd'))('TLS', () => {
  const pki = folder.file('pki');
  const strangers = folder.file('strangers');
  const keys = folder.file('psk');
  const x509 = (dir: string, more: Record<string, unknown> = {}): UserObjects => objects({ type: 'tls-creds-x509', id: 'tls0', properties: { dir, endpoint: 'client', ...more } });
  const psk = (username: string, dir = keys): UserObjects => objects({ type: 'tls-creds-psk', id: 'tls0', properties: { dir, endpoint: 'client', username } });
  const withTls = (server: RunningServer, more: Record<string, unknown> = {}): OpenSpec => unix(server.socket, { 'tls-creds': 'tls0', ...more });

  beforeAll(() => {
    makeCertificates(pki);
    makeCertificates(strangers);
    mkdirSync(keys);
    writeFileSync(`${keys}/keys.psk`, `alice:${'0123456789abcdef'.repeat(4)}\nbob:${'ff'.repeat(32)}\n`, { mode: 0o600 });
    cpSync(keys, folder.file('wrong'), { recursive: true });
    writeFileSync(folder.file('wrong/keys.psk'), `alice:${'00'.repeat(32)}\n`);
  });

  test('certificates: nbdkit', async () => {
    const server = await folder.nbdkit(['--tls=require', `--tls-certificates=${pki}`, '--tls-verify-peer', 'memory', '4M']);
    await using(withTls(server, { 'tls-hostname': 'localhost' }), (disk) => exercise(disk, testSeed + 2, 5), x509(pki));
    expect((await failure(using(withTls(server), async () => undefined, x509(pki)))).message).toBe('No hostname for certificate validation');
    expect((await failure(using(withTls(server, { 'tls-hostname': 'elsewhere' }), async () => undefined, x509(pki)))).message)
      .toBe('Certificate does not match the hostname elsewhere');
    expect((await failure(using(withTls(server, { 'tls-hostname': 'localhost' }), async () => undefined, x509(strangers)))).message)
      .toBe("The certificate hasn't got a known issuer");
    expect((await failure(using(unix(server.socket), async () => undefined))).message).toMatch(/^TLS negotiation required before option 7 \(go\)/);
  });

  test('certificates: qemu-nbd', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', folder.file('tls.raw'), '4M']);
    const server = await folder.qemuNbd('qemu-nbd', ['--object', `tls-creds-x509,id=t,endpoint=server,dir=${pki}`, '--tls-creds', 't', '-f', 'raw', folder.file('tls.raw')]);
    await using(withTls(server, { 'tls-hostname': 'localhost' }), (disk) => exercise(disk, testSeed + 3, 5), x509(pki));
    expect((await failure(using(unix(server.socket), async () => undefined))).context.hint)
      .toMatch(/^Did you forget a valid tls-creds\?\nserver reported: /);
  });

  test('pre-shared keys: nbdkit and qemu-nbd', async () => {
    const kit = await folder.nbdkit(['--tls=require', `--tls-psk=${keys}/keys.psk`, 'memory', '4M']);
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', folder.file('psk.raw'), '4M']);
    const qemu = await folder.qemuNbd('qemu-nbd', ['--object', `tls-creds-psk,id=t,endpoint=server,dir=${keys}`, '--tls-creds', 't', '-f', 'raw', folder.file('psk.raw')]);
    for (const server of [kit, qemu]) {
      await using(withTls(server), (disk) => exercise(disk, testSeed + 4, 5), psk('alice'));
      await using(withTls(server), (disk) => exercise(disk, testSeed + 5, 2), psk('bob'));
      expect((await failure(using(withTls(server), async () => undefined, psk('alice', folder.file('wrong'))))).message).toMatch(/^TLS handshake failed: /);
    }
    expect((await failure(using(withTls(kit), async () => undefined, psk('carol')))).message).toBe(`Username carol not found in PSK file ${keys}/keys.psk`);
  });

  test('credentials that do not fit', async () => {
    const server = await folder.nbdkit(['--tls=off', 'memory', '1M']);
    const message = async (given: UserObjects): Promise<string> => (await failure(using(withTls(server), async () => undefined, given))).message;
    expect(await message(new Map())).toBe("No TLS credentials with id 'tls0'");
    expect(await message(objects({ type: 'secret', id: 'tls0', properties: { data: 'x' } }))).toBe("Object with id 'tls0' is not TLS credentials");
    expect(await message(x509(pki, { endpoint: 'server' }))).toBe('Expected TLS credentials for a client endpoint');
    expect(await message(x509('/nonexistent'))).toBe('Unable to access credentials /nonexistent/ca-cert.pem: No such file or directory');
    expect(await message(x509(pki))).toMatch(/\(starttls\)$/);
  });
});

const newQemuNbd = oracleTool('qemu-nbd');
describe.skipIf(!havePeers('qemu-nbd', 'qemu-img', 'qemu-io')).each([
  ['qemu-nbd of Debian 12', 'qemu-nbd'], ...(newQemuNbd === undefined ? [] : [['qemu-nbd 10 (extended headers)', newQemuNbd] as const]),
] as const)('%s', (_name, command) => {
  const image = folder.file(`${command.replaceAll('/', '-')}.qcow2`);
  beforeAll(() => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '8M']);
    execFileSync('qemu-img', ['bitmap', '--add', image, 'b0']);
  });

  test('qcow2 behind it: data, zeroes and holes in pieces', async () => {
    const server = await folder.qemuNbd(command, ['-f', 'qcow2', '--discard=unmap', image]);
    await using(server.uri(), (disk) => exercise(disk, testSeed + 6));
    await server.stop();
    expect(() => execFileSync('qemu-img', ['check', '-q', image])).not.toThrow();
  });

  test('status of contexts', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
    execFileSync('qemu-img', ['bitmap', '--add', image, 'b0']);
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write 128k 64k', image]);
    const server = await folder.qemuNbd(command, ['-r', '-f', 'qcow2', '-A', '-B', 'b0', image]);
    const map = (context?: string): Promise<string[]> => using(unix(server.socket, context === undefined ? {} : { 'x-dirty-bitmap': context }), async (disk) => {
      const found: string[] = [];
      for (let offset = 0; offset < disk.size;) {
        const { length, data, zero } = await disk.status(offset, disk.size - offset);
        found.push(`${length / 1024}${data ? ' data' : ''}${zero ? ' zero' : ''}`);
        offset += length;
      }
      return found;
    }, undefined, true);
    expect(await map()).toEqual(['128 zero', '64 data', '832 zero']);
    // As in qemu-img map: flags of any context are read like those of base:allocation, so a dirty range is a hole of unknown content.
    expect(await map('qemu:dirty-bitmap:b0')).toEqual(['128 data', '64', '832 data']);
    expect(await map('qemu:allocation-depth')).toEqual(['128 data', '64', '832 data']);
    await expect(map('qemu:dirty-bitmap:none')).rejects.toThrow('Could not open image: Invalid argument');
  });

  test('an export it does not have', async () => {
    const server = await folder.qemuNbd(command, ['-x', 'here', '-r', '-f', 'qcow2', image]);
    const error = await failure(using(server.uri('there'), async () => undefined, undefined, true));
    expect([error.code, error.message, error.context.hint]).toEqual(['NOT_FOUND', 'Requested export not available', "server reported: export 'there' not present"]);
    await using(server.uri('here'), async (disk) => expect(disk.node.filename).toBe(`nbd+unix:///here?socket=${server.socket}`), undefined, true);
  });

  test('sizes stay as they are', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', `${image}.raw`, '1M']);
    const server = await folder.qemuNbd(command, ['-f', 'raw', `${image}.raw`]);
    await using(server.uri(), async (disk) => {
      expect((await failure(disk.resize(2 * MiB))).message).toBe('Cannot resize NBD nodes');
      expect((await failure(disk.resize(MiB / 2))).message).toBe('Cannot resize NBD nodes');
      expect((await failure(disk.resize(2 * MiB, { exact: false }))).message).toBe('Cannot grow NBD nodes');
      await disk.resize(MiB);
    });
  });
});
