/** Images that lack their end, and where tables lie: what both programs say, and what they leave in the file. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { oracleTool } from '../support/peers.js';

const theirs = { 'qemu-img': oracleTool('qemu-img'), 'qemu-io': oracleTool('qemu-io') };
const KiB = 1024;

describe.skipIf(theirs['qemu-img'] === undefined)('an image', () => {
  const folder = new ToolFolder();
  afterAll(() => rmSync(folder.path, { recursive: true }));
  const name = 'image';
  const image = folder.file(name);

  function made(format: string, options: readonly string[], size: string, writes: readonly string[]): Buffer {
    folder.succeed(theirs['qemu-img']!, ['create', '-q', '-f', format, ...options, name, size]);
    folder.succeed(theirs['qemu-io']!, ['-f', format, ...writes.flatMap((write) => ['-c', write]), name]);
    return readFileSync(image);
  }

  /** What a program says of an image with that content, and makes of it. */
  function outcome(program: string, parameters: readonly string[], content: Buffer): unknown {
    writeFileSync(image, content, { flush: true });
    const { status, stdout, stderr } = folder.run(program, parameters);
    return { status, stdout, stderr, left: readFileSync(image).toString('latin1') };
  }

  const threeRuns = ['write -P 1 0 64k', 'write -P 2 64k 64k', 'write -P 3 320k 128k'];
  const formats: Readonly<Record<string, { sound: () => Buffer; equal: readonly (readonly [length: number, ...command: string[]])[] }>> = {
    qed: {
      sound: () => made('qed', ['-o', 'cluster_size=64k,table_size=2'], '2M', threeRuns),
      equal: [
        [512 * KiB + 512, 'check'], [512 * KiB + 512, 'check', '-r', 'all'], [512 * KiB - 512, 'map'], [512 * KiB - 512, 'map', '--output=json'],
        [288 * KiB, 'check'], [48, 'info'],
      ],
    },
    qcow2: {
      sound: () => made('qcow2', [], '4M', [...threeRuns, 'write -P 4 3M 64k']),
      equal: [[448 * KiB, 'map'], [128 * KiB, 'check', '-r', 'all'], [64 * KiB, 'check', '-r', 'all'], [192 * KiB, 'check', '-r', 'all']],
    },
    vdi: { sound: () => made('vdi', [], '8M', ['write -P 1 0 1M', 'write -P 2 3M 1M']), equal: [[1025 * KiB, 'check'], [1025 * KiB, 'check', '-r', 'all']] },
    vmdk: { sound: () => made('vmdk', [], '4M', threeRuns), equal: [[256 * KiB, 'check'], [256 * KiB, 'check', '--output=json'], [256 * KiB, 'check', '-r', 'all']] },
    parallels: { sound: () => made('parallels', ['-o', 'cluster_size=64k'], '2M', threeRuns), equal: [[255 * KiB, 'check', '-r', 'all']] },
  };

  it.each(Object.entries(formats))('cut short is found and left as by qemu-img 10: %s', (format, { sound, equal }) => {
    const whole = sound();
    for (const [length, ...command] of equal) {
      const parameters = [...command, ...(command[0] === 'info' ? [] : ['-f', format]), name];
      const content = whole.subarray(0, length);
      expect(outcome(folder.tool('qemu-img'), parameters, content), `${length} ${command.join(' ')}`).toEqual(outcome(theirs['qemu-img']!, parameters, content));
    }
  });

  it('cut short is not written to where a cluster would take the place of a lost one', () => {
    const cut = formats['qed']!.sound().subarray(0, 512 * KiB + 512);
    const write = ['-f', 'qed', '-c', 'write -P 9 1M 64k', name];
    expect(outcome(folder.tool('qemu-io'), write, cut)).toMatchObject({ status: 1, stderr: expect.stringContaining('behind the end of the file') as string, left: cut.toString('latin1') });
    folder.succeed(folder.tool('qemu-img'), ['check', '-q', '-r', 'all', '-f', 'qed', name]);
    folder.succeed(folder.tool('qemu-io'), write);
    expect(folder.succeed(folder.tool('qemu-io'), ['-r', '-f', 'qed', '-c', 'read -P 0 384k 64k', name])).not.toContain('failed');
  });

  it('with damaged refcounts is warned of where qemu-img 10 does so', () => {
    const sound = formats['qcow2']!.sound();
    const table = Number(sound.readBigUInt64BE(48));
    for (const [index, place] of [[0, 0x20200n], [1, 0x12200n]] as const) {
      const content = Buffer.from(sound);
      content.writeBigUInt64BE(place, table + 8 * index);
      for (const command of ['info', 'map']) {
        expect(outcome(folder.tool('qemu-img'), [command, name], content), `${command} ${index}`).toEqual(outcome(theirs['qemu-img']!, [command, name], content));
      }
    }
  });

  it.each([['1M', ['write -P 1 0 4k', 'write -P 2 700k 4k']], ['4M', ['write -P 1 2047k 4k', 'write -c -P 3 0 4k']], ['1M', threeRuns]] as const)(
    'of version 1 has its tables where qemu-io 10 puts them: %s %j', (size, writes) => {
      const parameters = ['-f', 'qcow', ...writes.flatMap((write) => ['-c', write]), name];
      folder.succeed(theirs['qemu-img']!, ['create', '-q', '-f', 'qcow', name, size]);
      const empty = readFileSync(image);
      const [mine, peers] = [folder.tool('qemu-io'), theirs['qemu-io']!].map((program) => {
        writeFileSync(image, empty);
        folder.succeed(program, parameters);
        return readFileSync(image);
      });
      expect(mine!.equals(peers!)).toBe(true);
    });
});
