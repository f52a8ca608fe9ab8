/** LUKS and encrypted qcow2 between us, both QEMUs, cryptsetup and nbdkit: passphrases, keyslots, detached headers, LUKS2. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { share } from '../support/cases.js';
import { content } from '../support/disk-model.js';
import { settle, ToolFolder } from '../support/our-tools.js';
import { havePeers, oracleTool } from '../support/peers.js';

const oracle = { img: oracleTool('qemu-img'), io: oracleTool('qemu-io') };
let folder: ToolFolder;
beforeAll(() => { folder = new ToolFolder(); }, 120_000);
afterAll(() => folder.remove());

const secrets = ['first', 'second', 'third'].flatMap((name) => ['--object', `secret,id=${name},data=${name}`]);
const size = 1 << 20;

/** --image-opts of an image opened with one of the secrets. */
function keyed(format: 'luks' | 'qcow2', file: string, secret = 'first'): string[] {
  return ['--image-opts', `driver=${format},${format === 'luks' ? '' : 'encrypt.'}key-secret=${secret},file.filename=${file}`];
}

function cryptsetupOpens(image: string, passphrase: string): boolean {
  const { status } = folder.run('cryptsetup', ['open', '--test-passphrase', '--key-file', '-', image], { input: passphrase });
  return status === 0;
}

describe.skipIf(oracle.img === undefined)('with QEMU 10', () => {
  const kinds: readonly (readonly ['luks' | 'qcow2', string])[] = [
    ['luks', 'cipher-mode=ctr,hash-alg=sha512'], ['qcow2', 'encrypt.format=luks,cluster_size=2k'],
    ['qcow2', 'encrypt.format=aes,cluster_size=16k,extended_l2=on'], ['luks', 'cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain'],
  ];
  // QEMU takes its time for each passphrase
  it.each(share(kinds, 2))('%s %s: each writes what the other reads, and they describe it alike', (format, options) => {
    const prefix = format === 'luks' ? '' : 'encrypt.';
    const all = [options, `${prefix}key-secret=first`, ...(options.includes('aes,') ? [] : [`${prefix}iter-time=10`])].filter(Boolean).join(',');
    const [first, patch] = [content(1, size), content(2, 100_000)];
    writeFileSync(folder.file('raw'), first);
    writeFileSync(folder.file('patch'), patch);
    const expected = first.slice();
    expected.set(patch, 77_777);
    for (const [maker, other] of [[folder.tool('qemu-img'), oracle.io!], [oracle.img!, folder.tool('qemu-io')]] as const) {
      folder.succeed(maker, ['convert', ...secrets, '-f', 'raw', '-O', format, '-o', all, 'raw', 'image']);
      folder.succeed(other, [...secrets, ...keyed(format, 'image'), '-c', `write -s patch 77777 ${patch.length}`]);
      for (const reader of [folder.tool('qemu-img'), oracle.img!]) {
        folder.succeed(reader, ['convert', ...secrets, ...keyed(format, 'image'), '-O', 'raw', 'back']);
        expect(Buffer.compare(readFileSync(folder.file('back')), expected)).toBe(0);
      }
      settle(folder.file('image'));
      expect(folder.succeed(folder.tool('qemu-img'), ['info', 'image'])).toBe(folder.succeed(oracle.img!, ['info', 'image']));
      if (format === 'qcow2') folder.succeed(oracle.img!, ['check', ...secrets, ...keyed(format, 'image')]);
    }
  });

  it.each(['luks', 'aes'])('compressed clusters of a qcow2 with %s are stored in the clear as by the peer, and not at all by vdisk', (format) => {
    const create = ['create', '-f', 'qcow2', ...secrets, '-o', `encrypt.format=${format},encrypt.key-secret=first${format === 'luks' ? ',encrypt.iter-time=10' : ''}`, 'empty', '1M'];
    const write = [...secrets, ...keyed('qcow2', 'image'), '-c', 'write -P 5 0 64k', '-c', 'write -c -P 6 64k 64k'];
    folder.succeed(oracle.img!, create);
    for (const [maker, other] of [[folder.tool('qemu-io'), oracle.io!], [oracle.io!, folder.tool('qemu-io')]] as const) {
      copyFileSync(folder.file('empty'), folder.file('image'));
      folder.succeed(maker, write);
      expect(folder.succeed(other, [...secrets, ...keyed('qcow2', 'image'), '-c', 'read -P 5 0 64k', '-c', 'read -P 6 64k 64k'])).not.toContain('verification failed');
      expect(folder.succeed(oracle.img!, ['map', '--output=json', ...secrets, ...keyed('qcow2', 'image')])).toContain('"compressed": true');
    }
    writeFileSync(folder.file('raw'), content(1, size));
    expect(folder.run(folder.tool('vdisk'), ['convert', '-n', '-c', ...secrets, '--target-image-opts', 'raw', keyed('qcow2', 'image')[1]!]))
      .toMatchObject({ status: 1, stderr: 'vdisk: Compression not supported for this file format\n' });
  });

  it('a volume with its header elsewhere is read and changed', () => {
    folder.succeed(oracle.img!, ['create', ...secrets, '-f', 'luks', '-o', 'key-secret=first,iter-time=10', 'whole', '1M']);
    folder.succeed(oracle.io!, [...secrets, ...keyed('luks', 'whole'), '-c', 'write -P 7 0 1M']);
    const whole = readFileSync(folder.file('whole'));
    const header = whole.subarray(0, 2_068_480);
    header.writeUInt32BE(0, 104);
    writeFileSync(folder.file('header'), header);
    writeFileSync(folder.file('payload'), whole.subarray(2_068_480));
    const apart = (secret: string): string[] => ['--image-opts', `driver=luks,key-secret=${secret},file.filename=payload,header.filename=header`];
    folder.succeed(folder.tool('qemu-io'), [...secrets, ...apart('first'), '-c', 'read -P 7 0 1M', '-c', 'write -P 8 4k 4k']);
    folder.succeed(folder.tool('qemu-img'), ['amend', ...secrets, ...apart('first'), '-o', 'state=active,new-secret=second,iter-time=10']);
    expect(folder.succeed(oracle.io!, [...secrets, ...apart('second'), '-c', 'read -P 8 4k 4k', '-c', 'read -P 7 8k 1016k'])).not.toContain('failed');
    settle(folder.file('payload'));
    const infoOf = (tool: string): string => folder.succeed(tool, ['info', ...apart('second')]);
    expect(infoOf(folder.tool('qemu-img'))).toBe(infoOf(oracle.img!));
  });
});

describe.skipIf(!havePeers('cryptsetup'))('with cryptsetup', () => {
  it.each(['', ',version=2,kdf=pbkdf2', ',version=2,sector-size=4096,kdf=argon2id'])('keyslots come and go: %s', (version) => {
    folder.succeed(folder.tool('vdisk'), ['create', '-q', ...secrets, '-f', 'luks', '-o', `key-secret=first,iter-time=10${version}`, 'volume', '4M']);
    const amend = (opened: string, options: string): string => folder.succeed(folder.tool('qemu-img'), ['amend', ...secrets, ...keyed('luks', 'volume', opened), '-o', options]);
    amend('first', 'state=active,new-secret=second,iter-time=10,keyslot=3');
    expect(['first', 'second', 'third'].map((each) => cryptsetupOpens('volume', each))).toEqual([true, true, false]);
    amend('second', 'state=inactive,old-secret=first');
    writeFileSync(folder.file('key'), 'second');
    writeFileSync(folder.file('new'), 'third');
    folder.succeed('cryptsetup', ['luksAddKey', '--key-file', 'key', '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', 'volume', 'new']);
    expect(['first', 'second', 'third'].map((each) => cryptsetupOpens('volume', each))).toEqual([false, true, true]);
    folder.succeed(folder.tool('qemu-io'), [...secrets, ...keyed('luks', 'volume', 'third'), '-c', 'write -P 5 0 1M']);
    folder.succeed('cryptsetup', ['luksRemoveKey', 'volume', 'new']);
    folder.succeed(folder.tool('qemu-io'), [...secrets, ...keyed('luks', 'volume', 'second'), '-c', 'read -P 5 0 1M']);
  });

  it.each([['aes-xts-plain64', 512], ['aes-xts-plain64', 4096], ['aes-cbc-essiv:sha256', 512]])('data that it encrypted as LUKS2 with %s, sectors of %i, is read', (cipher, sectorSize) => {
    const disk = new Uint8Array(48 << 20);
    disk.set(content(3, size));
    writeFileSync(folder.file('volume2'), disk);
    const { status, stderr } = folder.run('cryptsetup', ['-q', 'reencrypt', '--encrypt', '--type', 'luks2', '--reduce-device-size', '32M', '--sector-size', String(sectorSize),
      '-c', cipher, '-s', '256', '--pbkdf', 'argon2id', '--pbkdf-memory', '32768', '--pbkdf-force-iterations', '4', '--key-file', '-', 'volume2'], { input: 'first' });
    expect(status, stderr).toBe(0);
    folder.succeed(folder.tool('qemu-img'), ['convert', ...secrets, ...keyed('luks', 'volume2'), '-O', 'raw', 'plain']);
    expect(Buffer.compare(readFileSync(folder.file('plain')).subarray(0, size), disk.subarray(0, size))).toBe(0);
  });

  it.each([
    ['re-encryption', ['--resilience', 'checksum']], ['re-encryption with a journal', ['--resilience', 'journal']],
    ['encryption in place', ['--encrypt', '--type', 'luks2', '--reduce-device-size', '32M']],
    ['decryption', ['--decrypt', '--header', 'moving.header', '--force-offline-reencrypt']],
  ])('a volume in the middle of its %s is refused by name, and left alone', (_, parameters) => {
    const kdf = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '--key-file', '-'];
    writeFileSync(folder.file('moving'), new Uint8Array(48 << 20));
    rmSync(folder.file('moving.header'), { force: true });
    const steps = [...(parameters.includes('--encrypt') ? [] : [['luksFormat', '--type', 'luks2', ...kdf, 'moving']]), ['reencrypt', '--init-only', ...parameters, ...kdf, 'moving']];
    for (const step of steps) {
      const { status, stderr } = folder.run('cryptsetup', ['-q', ...step], { input: 'first' });
      expect(status, stderr).toBe(0);
    }
    const header = parameters.includes('--header') ? 'moving.header' : 'moving';
    const before = [readFileSync(folder.file('moving')), readFileSync(folder.file(header))];
    const opened = ['--image-opts', `${keyed('luks', 'moving')[1]!}${header === 'moving' ? '' : `,header.filename=${header}`}`];
    for (const request of [['-r', '-c', 'read 0 4k'], ['-c', 'write 0 4k']]) {
      expect(folder.run(folder.tool('qemu-io'), [...secrets, ...opened, ...request]))
        .toMatchObject({ status: 1, stderr: expect.stringMatching(/LUKS2 requirement 'online-reencrypt(-v\d)?' is not supported/) as string });
    }
    expect([readFileSync(folder.file('moving')), readFileSync(folder.file(header))].every((bytes, index) => bytes.equals(before[index]!))).toBe(true);
  });

  it('LUKS2 disks end with a whole encryption sector, never before what was asked for', () => {
    const vdisk = (...parameters: readonly string[]): string => folder.succeed(folder.tool('vdisk'), parameters);
    const disk = ['--image-opts', 'driver=luks,key-secret=first,file.filename=odd'];
    const sizeOf = (): number => (JSON.parse(vdisk('info', '--output=json', ...secrets, ...disk)) as { 'virtual-size': number })['virtual-size'];
    writeFileSync(folder.file('odd.raw'), content(5, 100_864));
    vdisk('convert', ...secrets, '-f', 'raw', '-O', 'luks', '-o', 'key-secret=first,iter-time=10,version=2,sector-size=4096,kdf=pbkdf2', 'odd.raw', 'odd');
    expect(sizeOf()).toBe(102_400);
    vdisk('resize', ...secrets, ...disk, '120320');
    expect(sizeOf()).toBe(122_880);
    vdisk('resize', '--shrink', ...secrets, ...disk, '100864');
    expect(sizeOf()).toBe(102_400);
    vdisk('convert', ...secrets, ...disk, '-O', 'raw', 'odd.back');
    expect(Buffer.compare(readFileSync(folder.file('odd.back')).subarray(0, 100_864), content(5, 100_864))).toBe(0);
  });

  it('data that we wrote as LUKS2 is decrypted by it', () => {
    writeFileSync(folder.file('raw'), content(4, size));
    folder.succeed(folder.tool('vdisk'), ['convert', ...secrets, '-f', 'raw', '-O', 'luks', '-o', 'key-secret=first,iter-time=10,version=2,sector-size=4096,kdf=pbkdf2', 'raw', 'ours']);
    const { status, stderr } = folder.run('cryptsetup', ['-q', 'reencrypt', '--decrypt', '--header', 'ours.header', '--force-offline-reencrypt', '--key-file', '-', 'ours'], { input: 'first' });
    expect(status, stderr).toBe(0);
    expect(Buffer.compare(readFileSync(folder.file('ours')).subarray(0, size), content(4, size))).toBe(0);
  });
});
