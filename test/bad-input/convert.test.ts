/**
 * Conversions that cannot be finished: a full disk, a signal, a server that goes away. What was made is removed and the exit status
 * says so; only kill -9 leaves something behind.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ToolFolder, until, type Running } from '../support/our-tools.js';
import { listens } from '../support/nbd-servers.js';
import { withBitmap } from '../support/parallels-maker.js';
import { havePeers } from '../support/peers.js';
import { randomBytes } from '../support/seed.js';

const MiB = 1 << 20;
let folder: ToolFolder;
let source: string;
beforeAll(() => {
  folder = new ToolFolder();
  source = folder.file('source.raw');
  writeFileSync(source, randomBytes(32 * MiB));
});
afterAll(() => folder.remove());

const formats = [['-O', 'raw'], ['-O', 'qcow2'], ['-O', 'qcow2', '-c'], ['-O', 'qcow2', '-c', '-W', '-m', '16'], ['-O', 'qcow2', '-o', 'preallocation=metadata']];
/** Their data lies in further files. */
const severalFiles = [
  ['vmdk', 'subformat=monolithicFlat', 'target-flat.img'], ['vmdk', 'subformat=twoGbMaxExtentSparse', 'target-s001.img'], ['qcow2', 'data_file=target.data', 'target.data'],
] as const;

/** A conversion that takes long, caught when its target has begun to grow. */
async function underWay(parameters: readonly string[], target: string, growing = target): Promise<Running> {
  const running = folder.start(folder.tool('qemu-img'), ['convert', '-r', '4M', ...parameters, target]);
  await until(() => (statSync(growing, { throwIfNoEntry: false })?.blocks ?? 0) > 1024 || running.child.exitCode !== null, 'the target to grow');
  expect(running.child.exitCode, running.output.stderr).toBeNull();
  return running;
}

const mayMount = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0;
if (!mayMount) {
  if (process.env['CI'] === 'true') throw new Error('A small file system cannot be mounted');
  console.warn('!!! A small file system cannot be mounted without root. The tests of full disks are NOT run.');
}

describe.skipIf(!mayMount)('a full disk', () => {
  let small: string;
  beforeEach(() => {
    small = folder.file('small');
    mkdirSync(small, { recursive: true });
    folder.succeed('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', small]);
  });
  afterEach(() => { folder.succeed('umount', [small]); });
  const qemuImg = (...parameters: readonly string[]) => folder.run(folder.tool('qemu-img'), parameters);

  it.each([...formats, ['-O', 'raw', '-C'], ['-O', 'raw', '-t', 'writethrough']].map((options) => [options.join(' '), options] as const))('convert %s', (_name, options) => {
    const { status, stderr } = qemuImg('convert', '-f', 'raw', ...options, source, `${small}/target`);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^qemu-img: error while writing at byte \d+: No space left on device\n$/);
    expect(readdirSync(small)).toEqual([]);
  });

  it('convert to where a link leads', () => {
    const link = folder.file('link');
    symlinkSync(`${small}/target`, link);
    const { status, stderr } = qemuImg('convert', '-f', 'raw', '-O', 'qcow2', source, link);
    expect([status, stderr]).toEqual([1, expect.stringContaining('No space left on device')]);
    expect(readdirSync(small)).toEqual([]);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    rmSync(link);
  });

  it.each(severalFiles)('convert -O %s -o %s', (format, option) => {
    const options = option.replace('data_file=', `data_file=${small}/`);
    const { status, stderr } = qemuImg('convert', '-f', 'raw', '-O', format, '-o', options, source, `${small}/target.img`);
    expect([status, stderr]).toEqual([1, expect.stringContaining('No space left on device')]);
    expect(readdirSync(small)).toEqual([]);
  });

  it.each([
    ['raw', 'falloc', 'Could not preallocate new data'], ['raw', 'full', 'Could not write zeros for preallocation'],
    ['qcow2', 'falloc', 'No space left on device'], ['qcow2', 'full', 'No space left on device'],
  ])('create and convert with everything preallocated: %s, %s', (format, preallocation, message) => {
    for (const parameters of [
      ['create', '-q', '-f', format, '-o', `preallocation=${preallocation}`, `${small}/target`, '32M'],
      ['convert', '-f', 'raw', '-O', format, '-o', `preallocation=${preallocation}`, source, `${small}/target`],
    ]) {
      const { status, stderr } = qemuImg(...parameters);
      expect(status).toBe(1);
      expect(stderr).toContain(`${small}/target`);
      expect(stderr).toContain(message);
      expect(stderr).toContain('No space left on device');
      expect(readdirSync(small)).toEqual([]);
    }
  });

  it.each(['raw', 'qcow2'])('an existing %s target stays, and is never said to be good', (format) => {
    expect(qemuImg('create', '-q', '-f', format, `${small}/target`, '32M').status).toBe(0);
    const { status, stderr } = qemuImg('convert', '-n', '-f', 'raw', '-O', format, source, `${small}/target`);
    expect([status, stderr]).toEqual([1, expect.stringContaining('No space left on device')]);
    expect(readdirSync(small)).toEqual(['target']);
  });

  it.each(['raw', 'qcow2'])('a %s image that cannot grow is as it was', (format) => {
    expect(qemuImg('create', '-q', '-f', format, `${small}/target`, '1M').status).toBe(0);
    const before = readFileSync(`${small}/target`);
    const { status, stderr } = qemuImg('resize', '-f', format, '--preallocation=full', `${small}/target`, '32M');
    expect([status, stderr]).toEqual([1, expect.stringContaining('No space left on device')]);
    if (format === 'raw') expect(readFileSync(`${small}/target`).equals(before)).toBe(true);
    else {
      expect(qemuImg('check', '-f', format, `${small}/target`)).toMatchObject({ status: 0 });
      expect(qemuImg('info', '-f', format, `${small}/target`).stdout).toContain('virtual size: 1 MiB (1048576 bytes)');
    }
  });

  it.each(['falloc', 'full'])('a fixed VHD that gets no room to grow (%s) is as it was', (preallocation) => {
    expect(qemuImg('create', '-q', '-f', 'vpc', '-o', 'subformat=fixed,force_size=on', `${small}/target`, '1M').status).toBe(0);
    const before = readFileSync(`${small}/target`);
    const resized = folder.run(folder.tool('vdisk'), ['resize', '-f', 'vpc', `--preallocation=${preallocation}`, `${small}/target`, '32M']);
    expect([resized.status, resized.stderr]).toEqual([1, expect.stringMatching(/Could not (preallocate new data|write zeros for preallocation): No space left on device/)]);
    expect(readFileSync(`${small}/target`).equals(before)).toBe(true);
    expect(folder.run(folder.tool('vdisk'), ['resize', '-f', 'vpc', `--preallocation=${preallocation}`, `${small}/target`, '2M']).status).toBe(0);
    const { size, blocks } = statSync(`${small}/target`);
    expect(size).toBe(2 * MiB + 512);
    expect(blocks * 512).toBeGreaterThan(MiB);
    expect(qemuImg('info', '-f', 'vpc', `${small}/target`).stdout).toContain('virtual size: 2 MiB (2097152 bytes)');
  });

  it('a Parallels disk whose bitmaps find no room keeps its data, says so, and leaves nothing behind its last cluster', () => {
    const target = `${small}/target`;
    const write = ['-c', 'write -P 7 1M 1M', `driver=parallels,prealloc-size=64k,prealloc-mode=truncate,file.filename=${target}`];
    const lost = [];
    for (let room = 1024; room <= 1280; room += 32) {
      expect(qemuImg('create', '-q', '-f', 'parallels', '-o', 'cluster_size=65536', target, '32M').status).toBe(0);
      writeFileSync(target, withBitmap(readFileSync(target), 32 * MiB));
      const image = statSync(target).blocks * 512;
      writeFileSync(`${small}/other`, new Uint8Array(8 * MiB - image - room * 1024));
      const { stdout, stderr } = folder.run(folder.tool('qemu-io'), ['--image-opts', ...write]);
      expect(stdout).toContain('wrote 1048576/1048576 bytes');
      if (stderr === 'qemu-io: Lost persistent bitmaps during inactivation: No space left on device\n') lost.push(room);
      else expect(stderr).toBe('');
      expect(qemuImg('check', '-f', 'parallels', target)).toMatchObject({ status: 0, stdout: expect.stringContaining('No errors were found') as string });
      expect(folder.run(folder.tool('qemu-io'), ['-r', '-f', 'parallels', '-c', 'read -P 7 1M 1M', target])).toMatchObject({ status: 0 });
      rmSync(`${small}/other`);
    }
    expect(lost.length).toBeGreaterThan(1);
    expect(lost.length).toBeLessThan(9);
  });

  it('a qcow2 image that runs full takes nothing more, keeps what it has, and stays sound', () => {
    expect(qemuImg('create', '-q', '-f', 'qcow2', `${small}/target`, '32M').status).toBe(0);
    const write = Array.from({ length: 16 }, (_, index) => ['-c', `write -P ${index + 1} ${index}M 1M`]).flat();
    const { status, stdout, stderr } = folder.run(folder.tool('qemu-io'), ['-f', 'qcow2', ...write, `${small}/target`]);
    const written = [...stdout.matchAll(/^wrote 1048576\/1048576 bytes at offset (\d+)$/gm)].map(([, offset]) => Number(offset) / MiB);
    expect(status).toBe(1);
    expect(`${stdout}${stderr}`).toContain('write failed: No space left on device');
    expect(written.length).toBeGreaterThanOrEqual(6);
    const read = written.flatMap((index) => ['-c', `read -P ${index + 1} ${index}M 1M`]);
    expect(folder.run(folder.tool('qemu-io'), ['-f', 'qcow2', ...read, `${small}/target`]).status).toBe(0);
    expect([0, 3]).toContain(qemuImg('check', '-f', 'qcow2', `${small}/target`).status);
  });
});

describe('a signal', () => {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    it.each(formats.map((options) => [options.join(' '), options] as const))(`${signal} amid convert %s`, async (_name, options) => {
      const target = folder.file(`${signal}.img`);
      const running = await underWay(['-f', 'raw', ...options, source], target);
      running.child.kill(signal);
      const { status, signal: died } = await running.ended;
      expect([status, died]).toEqual([null, signal]);
      expect(existsSync(target)).toBe(false);
    });
  }

  it.each(severalFiles)('SIGINT amid convert -O %s -o %s', async (format, option, growing) => {
    const made = folder.file('made');
    mkdirSync(made, { recursive: true });
    const options = option.replace('data_file=', `data_file=${made}/`);
    const running = await underWay(['-f', 'raw', '-O', format, '-o', options, source], `${made}/target.img`, `${made}/${growing}`);
    running.child.kill('SIGINT');
    expect((await running.ended).signal).toBe('SIGINT');
    expect(readdirSync(made)).toEqual([]);
  });

  it('SIGINT amid convert to where a link leads', async () => {
    const [link, target] = [folder.file('link'), folder.file('led-to')];
    symlinkSync(target, link);
    const running = await underWay(['-f', 'raw', '-O', 'raw', source], link);
    running.child.kill('SIGINT');
    expect((await running.ended).signal).toBe('SIGINT');
    expect(existsSync(target)).toBe(false);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    rmSync(link);
  });

  it('is heard by a conversion that never waits', async () => {
    const target = folder.file('endless.raw');
    const running = folder.start(folder.tool('qemu-img'), ['convert', '--image-opts', '-O', 'raw', 'driver=null-co,read-zeroes=off,size=8T', target]);
    await until(() => existsSync(target), 'the target');
    await new Promise((resolve) => { setTimeout(resolve, 500); });
    expect(running.child.exitCode, running.output.stderr).toBeNull();
    const sent = performance.now();
    running.child.kill('SIGINT');
    expect((await running.ended).signal).toBe('SIGINT');
    expect(performance.now() - sent).toBeLessThan(20_000);
    expect(existsSync(target)).toBe(false);
  });

  it('leaves a target that was there before', async () => {
    const target = folder.file('existing.raw');
    writeFileSync(target, '');
    truncateSync(target, 32 * MiB);
    const running = await underWay(['-n', '-f', 'raw', '-O', 'raw', source], target);
    running.child.kill('SIGINT');
    expect((await running.ended).signal).toBe('SIGINT');
    expect(statSync(target).size).toBe(32 * MiB);
  });

  it('kill -9 leaves a part of the target, which differs from the source and can be overwritten', async () => {
    for (const format of ['raw', 'qcow2']) {
      const target = folder.file(`killed.${format}`);
      const running = await underWay(['-f', 'raw', '-O', format, source], target);
      running.child.kill('SIGKILL');
      await running.ended;
      const compare = ['compare', '-f', 'raw', '-F', format, source, target];
      expect(folder.run(folder.tool('qemu-img'), compare)).toMatchObject({ status: 1 });
      folder.succeed(folder.tool('qemu-img'), ['convert', '-f', 'raw', '-O', format, source, target]);
      expect(folder.run(folder.tool('qemu-img'), compare)).toMatchObject({ status: 0 });
      rmSync(target);
    }
  });
});

it.each(['zlib', 'zstd'])('a compressed cluster that cannot be read is named, though several are read at once: %s', (type) => {
  const [image, target] = [folder.file(`harmed-${type}.qcow2`), folder.file('of-harmed.raw')];
  writeFileSync(folder.file('text.raw'), 'some text '.repeat(4 * MiB / 10));
  folder.succeed(folder.tool('qemu-img'), ['convert', '-f', 'raw', '-O', 'qcow2', '-c', '-o', `compression_type=${type}`, folder.file('text.raw'), image]);
  const bytes = readFileSync(image);
  const table = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0xff_ffff_ffff_fe00n);
  const cluster = 37;
  const place = Number(bytes.readBigUInt64BE(table + 8 * cluster) & ((1n << 54n) - 1n));
  // zstd's frame itself is still whole
  const harmed = type === 'zlib' ? place : place + 10;
  bytes.fill(0xff, harmed, harmed + 3);
  writeFileSync(image, bytes);
  const { status, stderr } = folder.run(folder.tool('qemu-img'), ['convert', '-O', 'raw', image, target]);
  expect({ status, stderr }).toEqual({ status: 1, stderr: `qemu-img: error while reading at byte ${cluster * 65536}: Input/output error\n` });
  expect(existsSync(target)).toBe(false);

  folder.succeed(folder.tool('qemu-img'), ['convert', '--salvage', '-q', '-O', 'raw', image, target]);
  const salvaged = readFileSync(folder.file('text.raw')).fill(0, cluster * 65536, (cluster + 1) * 65536);
  expect(readFileSync(target).subarray(0, salvaged.length).equals(salvaged)).toBe(true);
});

describe.skipIf(!havePeers('qemu-nbd'))('an NBD server that goes away', () => {
  let servers = 0;
  async function serve(image: string): Promise<{ server: Running; uri: string }> {
    const socket = folder.file(`${servers++}.sock`); // a killed server's stays
    const server = folder.start('qemu-nbd', ['-t', '-e', '0', '-f', 'raw', '-k', socket, image]);
    await until(() => listens(socket), 'qemu-nbd');
    return { server, uri: `nbd+unix:///?socket=${socket}` };
  }

  it.each(formats.map((options) => [options.join(' '), options] as const))('as the source of convert %s: an error, and no target', async (_name, options) => {
    const { server, uri } = await serve(source);
    const target = folder.file('cut.img');
    const running = await underWay(['-f', 'raw', ...options, uri], target);
    server.child.kill('SIGKILL');
    const { status, stderr } = await running.ended;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^(qemu-img: .*\n)*qemu-img: error while reading at byte \d+: .+\n$/);
    expect(existsSync(target)).toBe(false);
  });

  it('as the target: an error', async () => {
    const image = folder.file('remote.raw');
    writeFileSync(image, '');
    truncateSync(image, 32 * MiB);
    const { server, uri } = await serve(image);
    const running = folder.start(folder.tool('qemu-img'), ['convert', '-r', '4M', '-n', '-f', 'raw', '-O', 'raw', source, uri]);
    await until(() => statSync(image).blocks > 1024, 'the target to grow');
    server.child.kill('SIGKILL');
    const { status, stderr } = await running.ended;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^(qemu-img: .*\n)*qemu-img: error while writing at byte \d+: .+\n$/);
  });

  it('as a backing file: an error, and no target', async () => {
    const { server, uri } = await serve(source);
    const overlay = folder.file('overlay.qcow2');
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'qcow2', '-b', uri, '-F', 'raw', overlay]);
    const target = folder.file('cut-below.img');
    const running = await underWay(['-f', 'qcow2', '-O', 'qcow2', overlay], target);
    server.child.kill('SIGKILL');
    expect((await running.ended).status).toBe(1);
    expect(existsSync(target)).toBe(false);
  });

  it('before it was reached: an error that names the address, and no target', () => {
    const { status, stderr } = folder.run(folder.tool('qemu-img'), ['convert', '-O', 'raw', `nbd+unix:///?socket=${folder.file('nobody')}`, folder.file('never.img')]);
    expect(status).toBe(1);
    expect(stderr).toContain(folder.file('nobody'));
    expect(existsSync(folder.file('never.img'))).toBe(false);
  });
});

describe('compressed clusters whose table cannot be read when they are to be referred to', () => {
  it('are lost, but nothing that was referred to before them', () => {
    const image = folder.file('compressed.qcow2');
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', image, '1M']);
    // a cache of two tables: those of the first clusters are read again, and the second time that fails
    const failing = JSON.stringify({
      driver: 'qcow2', 'l2-cache-size': 1024,
      file: {
        driver: 'blkdebug', image: { driver: 'file', filename: image },
        'set-state': [{ event: 'l2_load', state: 1, new_state: 2 }], 'inject-error': [{ event: 'l2_load', state: 2, once: true }],
      },
    });
    const { status, stdout } = folder.run(folder.tool('qemu-io'), ['-c', 'write -c -P 0xaa 0 256k', `json:${failing}`]);
    expect({ status, stdout }).toEqual({ status: 1, stdout: 'write failed: Input/output error\n' });
    const soundOrLeaking = [0, 3];
    expect(soundOrLeaking).toContain(folder.run(folder.tool('qemu-img'), ['check', image]).status);
    expect(folder.succeed(folder.tool('qemu-io'), ['-r', '-c', 'read -P 0xaa 0 32k', '-c', 'read -P 0 32k 992k', image])).not.toContain('failed');
    if (havePeers('qemu-img')) expect(soundOrLeaking).toContain(folder.run('qemu-img', ['check', image]).status);
  });
});
