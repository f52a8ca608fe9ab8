/**
 * Damaged images under the name qemu-img: what is found, said and mended, and the exit code, are those of qemu-img 10. `vdisk check`
 * finds and mends more.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { oracleTool } from '../support/peers.js';
import { scratchFolder } from '../support/scratch.js';

const MiB = 1 << 20;
const oracle = oracleTool('qemu-img');

interface Format {
  readonly options: string;
  readonly size: string;
  readonly writes: readonly string[];
  /** Made before the last write. */
  readonly snapshot?: string;
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

/** Of a new qcow2 image with clusters of 64 KiB: refcount table, its first block, L1 table, the first L2 table, and then data. */
const qcow2 = { refcountTable: 0x10000, refcounts: 0x20000, l1: 0x30000, l2: 0x40000, cluster: 0x10000 };
function setQcow2(...entries: readonly (readonly [place: number, entry: bigint])[]): (image: Buffer) => undefined {
  return (image) => {
    for (const [place, entry] of entries) image.writeBigUInt64BE(entry, place);
    return undefined;
  };
}
const copied = 1n << 63n;
const zero = 1n;
/** Version 3 wants 16 bytes of extra data in a snapshot's entry, of which QEMU writes 24. */
function shortenSnapshot(image: Buffer): void {
  const entry = Number(image.readBigUInt64BE(64));
  const names = entry + 40 + image.readUInt32BE(entry + 36);
  image.copy(image, entry + 48, names, names + image.readUInt16BE(entry + 12) + image.readUInt16BE(entry + 14));
  image.writeUInt32BE(8, entry + 36);
}
const setDirty = (image: Buffer): void => { image.writeBigUInt64BE(1n, 72); };

const formats: Readonly<Record<string, Format>> = {
  qcow2: {
    options: '', size: '64M', writes: ['write -P 1 0 64k', 'write -P 2 64k 128k', 'write -P 3 40M 64k'],
    damage: {
      'a refcount block askew': setQcow2([qcow2.refcountTable, 0x2a00n]),
      'a refcount block askew and far away': setQcow2([qcow2.refcountTable, 0xffff2a00n]),
      'a refcount block askew, dirty': (image) => { setDirty(image); return setQcow2([qcow2.refcountTable, 0xffff2a00n])(image); },
      'a refcount block behind the end': setQcow2([qcow2.refcountTable + 8, 0x40000000n]),
      'no refcount block': setQcow2([qcow2.refcountTable, 0n]),
      'a refcount block with reserved bits': setQcow2([qcow2.refcountTable, 0x20008n]),
      'refcounts on the L1 table': setQcow2([qcow2.refcountTable, 0x30000n]),
      'no refcounts': (image) => { image.fill(0, qcow2.refcounts, qcow2.refcounts + 64); return undefined; },
      'refcounts too high': (image) => { image.fill(2, qcow2.refcounts, qcow2.refcounts + 40); return undefined; },
      'an L2 table askew': setQcow2([qcow2.l1, copied | 0x40200n]),
      'an L2 table behind the end': setQcow2([qcow2.l1, copied | 0x4000_0000n]),
      'data askew': setQcow2([qcow2.l2, copied | 0x50200n]),
      'data behind the end': setQcow2([qcow2.l2, copied | 0x5000_0000n]),
      'zeroes askew': setQcow2([qcow2.l2, copied | 0x50200n | zero]),
      'several zeroes askew': setQcow2([qcow2.l2, copied | 0x50200n | zero], [qcow2.l2 + 8, copied | 0x60400n | zero], [qcow2.l2 + 16, copied | 0x70200n]),
      'a shared cluster': setQcow2([qcow2.l2 + 80, copied | 0x50000n]),
      'marks of the only reference missing': setQcow2([qcow2.l2, 0x50000n], [qcow2.l1, 0x40000n]),
      'reserved bits': setQcow2([qcow2.l2, copied | 0x50000n | 0x20n], [qcow2.l1, copied | 0x40000n | 0x10n]),
      'an unused cluster': (image) => Buffer.concat([image, Buffer.alloc(qcow2.cluster)]),
      'a cut file': (image) => image.subarray(0, image.length - qcow2.cluster - 5000),
    },
    unseen: [],
  },
  'qcow2 with a snapshot': {
    options: 'lazy_refcounts=on', size: '64M', writes: ['write -P 1 0 64k', 'write -P 2 64k 128k'], snapshot: 'one',
    damage: {
      'an incomplete entry': (image) => { shortenSnapshot(image); return undefined; },
      'an incomplete entry, dirty': (image) => { shortenSnapshot(image); setDirty(image); return undefined; },
      'lost refcounts, dirty': (image) => { setDirty(image); image.fill(0, qcow2.refcounts, qcow2.refcounts + 64); return undefined; },
      'an L1 table askew': (image) => { image.writeBigUInt64BE(0x50200n, Number(image.readBigUInt64BE(64))); return undefined; },
      'an L1 table behind the end': (image) => { image.writeBigUInt64BE(0x4000_0000n, Number(image.readBigUInt64BE(64))); return undefined; },
    },
    unseen: [],
  },
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
  beforeAll(() => { folder = new ToolFolder(scratchFolder); });
  afterAll(() => folder.remove());

  const checks = [[], ['-r', 'leaks'], ['-r', 'all']] as const;

  it.each(Object.entries(formats))('is told and mended as by qemu-img 10: %s', (kind, { options, size, writes, snapshot, damage, unseen }) => {
    const format = kind.split(' ')[0]!;
    const image = folder.file(`image.${format}`);
    folder.succeed(oracle!, ['create', '-q', '-f', format, ...(options === '' ? [] : ['-o', options]), image, size]);
    for (const [index, write] of writes.entries()) {
      if (snapshot !== undefined && index === writes.length - 1) folder.succeed(oracle!, ['snapshot', '-c', snapshot, image]);
      folder.succeed(oracle!.replace(/img$/, 'io'), ['-f', format, '-c', write, image]);
    }
    const sound = readFileSync(image);
    for (const [name, harm] of Object.entries(damage)) {
      const copy = Buffer.from(sound);
      const damaged = harm(copy) ?? copy;
      const afterEach = (tool: string, parameters: readonly string[]): unknown => {
        writeFileSync(image, damaged);
        const run = (): unknown => {
          const { status, stdout, stderr } = folder.run(tool, ['check', '-f', format, ...parameters, image]);
          return { status, stdout, stderr };
        };
        return { name, parameters, first: run(), ...(parameters.length > 0 && { second: run() }) };
      };
      for (const parameters of checks) expect(afterEach(folder.tool('qemu-img'), parameters)).toEqual(afterEach(oracle!, parameters));
      if (!unseen.includes(name)) continue;
      expect(afterEach(folder.tool('vdisk'), [])).toMatchObject({ first: { status: 2 } });
      expect(afterEach(folder.tool('vdisk'), ['-r', 'all'])).toMatchObject({ first: { status: 0 } });
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
