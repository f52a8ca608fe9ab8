/**
 * Damaged images under the name qemu-img: what is found, said and mended, and the exit code, are those of qemu-img 10. `vdisk check`
 * finds and mends more.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { oracleTool } from '../support/peers.js';

const MiB = 1 << 20;
const oracle = oracleTool('qemu-img');

interface Format {
  readonly options: string;
  readonly size: string;
  readonly writes: readonly string[];
  readonly damage: Readonly<Record<string, (image: Buffer) => Buffer | undefined>>;
  /** What QEMU does not see, and vdisk mends. */
  readonly unseen: readonly string[];
}

/** Entries of a table of 8 bytes each; the table of a VHDX by QEMU lies at 2 MiB, its metadata behind it. */
const vhdxEntry = (index: number): number => 2 * MiB + 8 * index;
function setVhdx(index: number, entry: bigint): (image: Buffer) => undefined {
  return (image) => { image.writeBigUInt64LE(entry, vhdxEntry(index)); return undefined; };
}
const parallelsEntry = (index: number): number => 64 + 4 * index;
function setParallels(...entries: readonly (readonly [index: number, entry: number])[]): (image: Buffer) => undefined {
  return (image) => {
    for (const [index, entry] of entries) image.writeUInt32LE(entry, parallelsEntry(index));
    return undefined;
  };
}
function setVdi(index: number, entry: number): (image: Buffer) => undefined {
  return (image) => { image.writeUInt32LE(entry, image.readUInt32LE(340) + 4 * index); return undefined; };
}

const formats: Readonly<Record<string, Format>> = {
  vhdx: {
    options: 'block_size=1M,log_size=1M', size: '16M', writes: ['write -P 1 0 1M', 'write -P 2 1M 1M', 'write -P 3 5M 1M'],
    damage: {
      'a block behind the end': setVhdx(3, BigInt(100 * MiB) | 6n),
      'a block far behind the end': setVhdx(3, 0x7fff_ffff_0000_0006n),
      'a block where nobody counts': setVhdx(3, 0xffff_ffff_fff0_0006n),
      'a file cut short': (image) => image.subarray(0, image.length - MiB / 2),
      'a block on the log': setVhdx(3, BigInt(MiB) | 6n),
      'a block on the metadata': setVhdx(3, BigInt(3 * MiB) | 6n),
      'a shared block': (image) => { image.copy(image, vhdxEntry(3), vhdxEntry(0), vhdxEntry(1)); return undefined; },
      'a block on the identifier': setVhdx(3, 6n),
      'a state without meaning': setVhdx(3, BigInt(8 * MiB) | 4n),
      'a partly present block': setVhdx(3, BigInt(8 * MiB) | 7n),
    },
    unseen: ['a shared block', 'a state without meaning'],
  },
  parallels: {
    options: 'cluster_size=64k', size: '2M', writes: ['write -P 1 0 64k', 'write -P 2 64k 64k', 'write -P 3 320k 128k'],
    damage: {
      'a shared cluster': setParallels([3, 1]),
      'an image in use': (image) => { image.writeUInt32LE(0x746f_6e59, 44); return undefined; },
      'an image in use with a shared cluster': (image) => { image.writeUInt32LE(0x746f_6e59, 44); return setParallels([3, 1])(image); },
      'clusters too many': (image) => Buffer.concat([image, Buffer.alloc(200_000)]),
      'some bytes too many': (image) => Buffer.concat([image, Buffer.alloc(100)]),
      'a wrong start': (image) => { image.writeUInt32LE(5, 48); return undefined; },
    },
    unseen: [],
  },
  vdi: {
    options: '', size: '8M', writes: ['write -P 1 0 1M', 'write -P 2 3M 1M'],
    damage: {
      'a shared block': setVdi(4, 0),
      'a block that cannot be': setVdi(5, 77),
      'a block that is not in the file': setVdi(5, 7),
    },
    unseen: [],
  },
};

describe.skipIf(oracle === undefined)('damage', () => {
  let folder: ToolFolder;
  beforeAll(() => { folder = new ToolFolder(existsSync('/dev/shm') ? '/dev/shm' : undefined); });
  afterAll(() => folder.remove());

  const checks = [[], ['-r', 'all']] as const;

  it.each(Object.entries(formats))('is told and mended as by qemu-img 10: %s', (format, { options, size, writes, damage, unseen }) => {
    const image = folder.file(`image.${format}`);
    folder.succeed(oracle!, ['create', '-q', '-f', format, ...(options === '' ? [] : ['-o', options]), image, size]);
    folder.succeed(oracle!.replace(/img$/, 'io'), ['-f', format, ...writes.flatMap((write) => ['-c', write]), image]);
    const sound = readFileSync(image);
    for (const [name, harm] of Object.entries(damage)) {
      const copy = Buffer.from(sound);
      const damaged = harm(copy) ?? copy;
      const afterEach = (tool: string, parameters: readonly string[]): unknown => {
        writeFileSync(image, damaged);
        const { status, stdout, stderr } = folder.run(tool, ['check', '-f', format, ...parameters, image]);
        return { name, parameters, status, stdout, stderr };
      };
      for (const parameters of checks) expect(afterEach(folder.tool('qemu-img'), parameters)).toEqual(afterEach(oracle!, parameters));
      if (!unseen.includes(name)) continue;
      expect(afterEach(folder.tool('vdisk'), [])).toMatchObject({ status: 2 });
      expect(afterEach(folder.tool('vdisk'), ['-r', 'all'])).toMatchObject({ status: 0 });
      expect(folder.run(folder.tool('vdisk'), ['check', '-f', format, image])).toMatchObject({ status: 0 });
    }
  });

  it('is refused as by qemu-img 10 where that cannot mend, check or open', () => {
    const same = (parameters: readonly string[]): void => {
      const { status, stdout, stderr } = folder.run(oracle!, parameters);
      expect(folder.run(folder.tool('qemu-img'), parameters), parameters.join(' ')).toMatchObject({ status, stdout, stderr });
    };
    for (const format of ['vmdk', 'vpc', 'parallels']) folder.succeed(oracle!, ['create', '-q', '-f', format, `sound.${format}`, '4M']);
    same(['check', '-r', 'all', 'sound.vmdk']);
    same(['check', '-f', 'vpc', 'sound.vpc']);
    same(['measure', '-O', 'qcow2', '-f', 'parallels', 'sound.parallels']);
    const footer = readFileSync(folder.file('sound.vpc'));
    footer.writeUInt32BE(0, 64);
    writeFileSync(folder.file('harmed.vpc'), footer);
    same(['check', '-f', 'vpc', 'harmed.vpc']);
    expect(folder.run(folder.tool('vdisk'), ['check', '-f', 'vpc', 'harmed.vpc'])).toMatchObject({ status: 2 });
  });
});
