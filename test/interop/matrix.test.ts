/**
 * Every format in every variant, both ways against everybody who knows it. What was judged, and by whom, is written to
 * docs/formats/interop.md.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers } from '../support/peers.js';
import { randomBytes } from '../support/seed.js';
import { convertArguments, judges, passphrase, type ImageKind, type Judge } from './judges.js';

const kinds: readonly ImageKind[] = [
  { format: 'raw', variant: '' },
  { format: 'qcow2', variant: 'version 3' },
  { format: 'qcow2', variant: 'version 2', options: 'compat=0.10' },
  { format: 'qcow2', variant: '512-byte clusters', options: 'cluster_size=512' },
  { format: 'qcow2', variant: '2 MiB clusters', options: 'cluster_size=2M' },
  { format: 'qcow2', variant: 'extended L2', options: 'extended_l2=on' },
  { format: 'qcow2', variant: 'compressed, deflate', compressed: true },
  { format: 'qcow2', variant: 'compressed, zstd', options: 'compression_type=zstd', compressed: true },
  { format: 'qcow2', variant: 'LUKS', options: 'encrypt.format=luks,encrypt.iter-time=10', encrypted: true },
  { format: 'qcow2', variant: 'AES', options: 'encrypt.format=aes', encrypted: true },
  { format: 'qcow', variant: '' },
  { format: 'qcow', variant: 'compressed', compressed: true },
  { format: 'qcow', variant: 'AES', options: 'encrypt.format=aes', encrypted: true },
  { format: 'qed', variant: '' },
  { format: 'vdi', variant: 'dynamic' },
  { format: 'vdi', variant: 'fixed', options: 'static=on' },
  { format: 'vpc', variant: 'dynamic', options: 'subformat=dynamic,force_size=on' },
  { format: 'vpc', variant: 'dynamic, size by CHS', options: 'subformat=dynamic' },
  { format: 'vpc', variant: 'fixed', options: 'subformat=fixed,force_size=on' },
  { format: 'vhdx', variant: 'dynamic', options: 'subformat=dynamic' },
  { format: 'vhdx', variant: 'fixed', options: 'subformat=fixed' },
  { format: 'vmdk', variant: 'monolithicSparse', options: 'subformat=monolithicSparse' },
  { format: 'vmdk', variant: 'monolithicFlat', options: 'subformat=monolithicFlat' },
  { format: 'vmdk', variant: 'twoGbMaxExtentSparse', options: 'subformat=twoGbMaxExtentSparse' },
  { format: 'vmdk', variant: 'twoGbMaxExtentFlat', options: 'subformat=twoGbMaxExtentFlat' },
  { format: 'vmdk', variant: 'streamOptimized', options: 'subformat=streamOptimized' },
  { format: 'parallels', variant: '' },
  { format: 'luks', variant: 'aes-256-xts', options: 'iter-time=10', encrypted: true },
  { format: 'luks', variant: 'aes-128-cbc, essiv', options: 'cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,iter-time=10', encrypted: true },
  { format: 'bochs', variant: 'growing' },
  { format: 'cloop', variant: 'version 2' },
];
const writtenByUs = (kind: ImageKind): boolean => kind.format !== 'bochs' && kind.format !== 'cloop';

interface Row { readonly kind: ImageKind; readonly read: string[]; readonly written: string[]; readonly checked: string[] }
const rows: Row[] = [];

const needed = ['qemu-img', 'vhdimount', 'vmdkmount', 'qcowmount', 'nbdkit', 'nbdcopy', 'cryptsetup', 'bximage', 'create_compressed_fs', 'fusermount'];
describe.skipIf(!havePeers(...needed))('interop', () => {
  const everybody = judges().filter(({ version }) => version !== undefined);
  const called = ({ name, version }: Judge): string => `${name} ${version}`;
  let folder: ToolFolder;
  let content: Buffer;
  beforeAll(() => {
    folder = new ToolFolder();
    const text = Buffer.from('all work and no play makes a dull disk '.repeat(7000));
    content = Buffer.concat([randomBytes(200_000), text, Buffer.alloc(3 << 20), text, randomBytes(512 * 7)]);
    content = Buffer.concat([content, Buffer.alloc((8 << 20) - 512 - content.length), randomBytes(512)]);
    writeFileSync(folder.file('disk.raw'), content);
  });
  afterAll(async () => {
    await folder.remove();
    if (rows.length === kinds.length) writeMatrix(rows);
  });

  /** The disk, up to the zeroes that some formats add at its end. */
  const expectContent = (path: string): void => {
    const found = readFileSync(path);
    expect(found.length).toBeGreaterThanOrEqual(content.length);
    expect(found.subarray(0, content.length).equals(content), 'content').toBe(true);
    expect(found.subarray(content.length).some((byte) => byte !== 0), 'bytes behind the disk').toBe(false);
  };
  const inFolder = (name: string): string => {
    const path = folder.file(name);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path);
    return path;
  };
  const ours = (parameters: readonly string[]): void => void folder.succeed(folder.tool('qemu-img'), parameters);

  for (const kind of kinds) {
    it(`${kind.format} ${kind.variant}`, () => {
      const row: Row = { kind, read: [], written: [], checked: [] };
      if (writtenByUs(kind)) {
        const image = join(inFolder('ours'), 'disk.image');
        ours(convertArguments(kind, 'write', folder.file('disk.raw'), image));
        for (const judge of everybody.filter(({ can, read }) => read && can('read', kind))) {
          const raw = join(inFolder('theirs'), 'disk.raw');
          judge.read!(kind, image, raw);
          expectContent(raw);
          row.read.push(called(judge));
        }
        for (const judge of everybody.filter(({ can, check }) => check && can('check', kind))) {
          judge.check!(kind, image);
          row.checked.push(called(judge));
        }
      }
      for (const judge of everybody.filter(({ can, write }) => write && can('write', kind))) {
        const place = inFolder('theirs');
        const image = join(place, 'disk.image');
        copyFileSync(folder.file('disk.raw'), join(place, 'disk.raw'));
        judge.write!(kind, join(place, 'disk.raw'), image);
        ours(convertArguments(kind, 'read', image, join(place, 'back.raw')));
        expect(statSync(join(place, 'back.raw')).size).toBeGreaterThan(0);
        expectContent(join(place, 'back.raw'));
        row.written.push(called(judge));
      }
      expect(row.written.length + row.read.length).toBeGreaterThan(0);
      rows.push(row);
    }, 120_000);
  }

  it('is not fooled by a wrong passphrase', () => {
    const kind = kinds.find(({ format }) => format === 'luks')!;
    const image = folder.file('locked.luks');
    ours(convertArguments(kind, 'write', folder.file('disk.raw'), image));
    const wrong = convertArguments(kind, 'read', image, folder.file('no.raw')).map((word) => word.replace(passphrase, 'battery staple'));
    expect(folder.run(folder.tool('qemu-img'), wrong).stderr).toContain('Invalid password, cannot unlock any keyslot');
  });
});

function writeMatrix(found: readonly Row[]): void {
  const cell = (names: readonly string[], absent: string): string => names.join(', ') || absent;
  const lines = found.map(({ kind, read, written, checked }) => `| ${kind.format} | ${kind.variant} | `
    + `${writtenByUs(kind) ? cell(read, 'no independent judge') : 'read-only format'} | ${cell(written, 'no independent maker')} | ${writtenByUs(kind) ? cell(checked, 'no checker') : ''} |`);
  mkdirSync(join(import.meta.dirname, '../../docs/formats'), { recursive: true });
  writeFileSync(join(import.meta.dirname, '../../docs/formats/interop.md'), `# Who agrees with us

Written by \`test/interop/matrix.test.ts\` from what it saw: a disk of 8 MiB with random, repeating and empty parts, in every format. The
program named has read from our image exactly that disk, has written an image from which we read exactly that disk, or has found no fault
with ours. Finer variants are judged by the tests of each format.

| format | variant | we write, read by | written by, we read | ours checked by |
| --- | --- | --- | --- | --- |
${lines.join('\n')}

vvfat is judged by fsck.fat and mtools in \`src/protocol/vvfat/vvfat.test.ts\`.
`);
}
