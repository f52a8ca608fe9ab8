/** The kinds of images that the matrix has rows for, and how ours are made and read. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { makeDmg, type ChunkKind } from '../support/dmg-maker.js';
import type { ToolFolder } from '../support/our-tools.js';
import { describeBundle } from '../support/parallels-maker.js';
import { cowdDisk, seSparseDisk } from '../support/vmdk-maker.js';

export interface ImageKind {
  readonly format: string;
  /** What sets this kind of image apart, for people. */
  readonly variant: string;
  /** Text of -o; IMAGE is the name of the image. */
  readonly options?: string;
  readonly compressed?: boolean;
  readonly encrypted?: boolean;
  /** It stands on a base: `base.image`, beside it. */
  readonly child?: boolean;
  /** QEMU does not know it; `vdisk` makes and reads it. */
  readonly notInQemu?: boolean;
  /** We only read it; what others do not make our tests do. */
  readonly readOnly?: 'made by others' | 'made by our tests';
  /** Where it takes more than a conversion. */
  readonly make?: (ours: ToolFolder, raw: string, image: string) => void;
  /** Nobody else knows it. */
  readonly unjudged?: boolean;
  /** Makes what others write the disk into. */
  readonly prepare?: (ours: ToolFolder, image: string) => void;
  readonly show?: (ours: ToolFolder, image: string, raw: string) => void;
}

export const passphrase = 'correct horse';
export const secret: readonly string[] = ['--object', `secret,id=key,data=${passphrase}`];

export const keyOption = ({ format }: ImageKind): string => (format === 'luks' ? 'key-secret=key' : 'encrypt.key-secret=key');

/** Words for qemu-img, ours or theirs, that make an image of the disk in `raw`. */
export function makingWords(kind: ImageKind, raw: string, image: string): string[] {
  const options = [kind.options?.replace('IMAGE', image), kind.encrypted && keyOption(kind)].filter(Boolean).join(',');
  return ['convert', ...(kind.encrypted ? secret : []), ...(kind.compressed ? ['-c'] : []), '-f', 'raw', '-O', kind.format, ...(options ? ['-o', options] : []), raw, image];
}

/** Words for qemu-img, ours or theirs, that show an image as a raw disk. */
export function showingWords(kind: ImageKind, image: string, raw: string): string[] {
  if (kind.encrypted) return ['convert', ...secret, '--image-opts', `driver=${kind.format},${keyOption(kind)},file.filename=${image}`, '-O', 'raw', raw];
  return ['convert', '-f', kind.format, '-O', 'raw', image, raw];
}

/** The part of a disk in which a child differs from its base. */
const differing = 128 << 10;

/** Makes a base and an image that stands on it, with the programs given. */
export function makeChild(run: (program: 'qemu-img' | 'qemu-io', words: readonly string[]) => void, kind: ImageKind, raw: string, image: string): void {
  const [base, baseDisk, head] = ['base.image', 'base.raw', 'head.raw'].map((name) => join(dirname(image), name)) as [string, string, string];
  const disk = readFileSync(raw);
  writeFileSync(head, disk.subarray(0, differing));
  writeFileSync(baseDisk, disk.fill(0x55, 0, differing));
  const options = kind.options === undefined ? [] : ['-o', kind.options];
  run('qemu-img', ['convert', '-f', 'raw', '-O', kind.format, ...options, baseDisk, base]);
  run('qemu-img', ['create', '-q', '-f', kind.format, ...options, '-b', 'base.image', '-F', kind.format, image]);
  run('qemu-io', ['-f', kind.format, '-c', `write -s ${head} 0 ${differing}`, image]);
}

/** Makes one of our images. */
export function makeOurs(ours: ToolFolder, kind: ImageKind, raw: string, image: string): void {
  if (kind.make) return kind.make(ours, raw, image);
  const tool = { 'qemu-img': ours.tool(kind.notInQemu ? 'vdisk' : 'qemu-img'), 'qemu-io': ours.tool('qemu-io') };
  if (kind.child) makeChild((program, words) => ours.succeed(tool[program], words), kind, raw, image);
  else ours.succeed(tool['qemu-img'], makingWords(kind, raw, image));
}

/** Shows an image, of whomever, as a raw disk. */
export function showByUs(ours: ToolFolder, kind: ImageKind, image: string, raw: string): void {
  if (kind.show) kind.show(ours, image, raw);
  else ours.succeed(ours.tool(kind.notInQemu ? 'vdisk' : 'qemu-img'), showingWords(kind, image, raw));
}

const pieces = (disk: Buffer, length: number): Buffer[] => Array.from({ length: Math.ceil(disk.length / length) }, (_, index) => disk.subarray(index * length, (index + 1) * length));

const dmg = (chunk: ChunkKind, variant: string): ImageKind => ({
  format: 'dmg', variant, readOnly: 'made by our tests',
  make: (_ours, raw, image) => writeFileSync(image, makeDmg(pieces(readFileSync(raw), 1 << 20).map((data) => ({ kind: chunk, data })))),
});

/** A folder with one file, the disk. */
function fat(type: 12 | 16 | 32): ImageKind {
  const newFolder = (image: string): string => mkdtempSync(join(dirname(image), 'folder-'));
  const show = (ours: ToolFolder, folder: string, image: string): void => void ours.succeed(ours.tool('qemu-img'), ['convert', '-f', 'raw', '-O', 'raw', `fat:${type}:${folder}`, image]);
  return {
    format: 'vvfat', variant: `FAT${type}`,
    make: (ours, raw, image) => {
      const folder = newFolder(image);
      copyFileSync(raw, join(folder, 'disk.raw'));
      show(ours, folder, image);
    },
    prepare: (ours, image) => show(ours, newFolder(image), image),
    show: (ours, image, raw) => {
      const folder = newFolder(image);
      ours.succeed(ours.tool('qemu-img'), ['convert', '-n', '-f', 'raw', '-O', 'raw', image, `fat:${type}:rw:${folder}`]);
      copyFileSync(join(folder, 'disk.raw'), raw);
    },
  };
}

const luks2 = (kdf: string): ImageKind => ({
  format: 'luks', variant: `LUKS2, ${kdf}`, options: `version=2,kdf=${kdf},sector-size=4096,iter-time=10`, encrypted: true, notInQemu: true,
});

export const kinds: readonly ImageKind[] = [
  { format: 'raw', variant: '' },
  { format: 'qcow2', variant: 'version 3' },
  { format: 'qcow2', variant: 'version 2', options: 'compat=0.10' },
  { format: 'qcow2', variant: '512-byte clusters', options: 'cluster_size=512' },
  { format: 'qcow2', variant: '2 MiB clusters', options: 'cluster_size=2M' },
  { format: 'qcow2', variant: 'extended L2', options: 'extended_l2=on' },
  { format: 'qcow2', variant: '1-bit refcounts', options: 'refcount_bits=1' },
  { format: 'qcow2', variant: '64-bit refcounts', options: 'refcount_bits=64' },
  { format: 'qcow2', variant: 'compressed, deflate', compressed: true },
  { format: 'qcow2', variant: 'compressed, zstd', options: 'compression_type=zstd', compressed: true },
  { format: 'qcow2', variant: 'backing file', child: true },
  { format: 'qcow2', variant: 'data file', options: 'data_file=IMAGE.data' },
  { format: 'qcow2', variant: 'raw data file', options: 'data_file=IMAGE.data,data_file_raw=on' },
  { format: 'qcow2', variant: 'LUKS', options: 'encrypt.format=luks,encrypt.iter-time=10', encrypted: true },
  { format: 'qcow2', variant: 'AES', options: 'encrypt.format=aes', encrypted: true },
  { format: 'qcow', variant: '' },
  { format: 'qcow', variant: 'compressed', compressed: true },
  { format: 'qcow', variant: 'backing file', child: true },
  { format: 'qcow', variant: 'AES', options: 'encrypt.format=aes', encrypted: true },
  { format: 'qed', variant: '' },
  { format: 'qed', variant: 'backing file', child: true },
  { format: 'vdi', variant: 'dynamic' },
  { format: 'vdi', variant: 'fixed', options: 'static=on' },
  { format: 'vpc', variant: 'dynamic', options: 'subformat=dynamic,force_size=on' },
  { format: 'vpc', variant: 'dynamic, size by CHS', options: 'subformat=dynamic' },
  { format: 'vpc', variant: 'fixed', options: 'subformat=fixed,force_size=on' },
  { format: 'vpc', variant: 'differencing', options: 'force_size=on', child: true, notInQemu: true },
  { format: 'vhdx', variant: 'dynamic', options: 'subformat=dynamic' },
  { format: 'vhdx', variant: 'fixed', options: 'subformat=fixed' },
  { format: 'vhdx', variant: '4096-byte sectors', options: 'logical_sector_size=4096', notInQemu: true },
  { format: 'vhdx', variant: 'differencing', child: true, notInQemu: true },
  { format: 'vmdk', variant: 'monolithicSparse', options: 'subformat=monolithicSparse' },
  { format: 'vmdk', variant: 'monolithicFlat', options: 'subformat=monolithicFlat' },
  { format: 'vmdk', variant: 'twoGbMaxExtentSparse', options: 'subformat=twoGbMaxExtentSparse' },
  { format: 'vmdk', variant: 'twoGbMaxExtentFlat', options: 'subformat=twoGbMaxExtentFlat' },
  { format: 'vmdk', variant: 'streamOptimized', options: 'subformat=streamOptimized' },
  { format: 'vmdk', variant: 'child', child: true },
  { format: 'vmdk', variant: 'vmfs', make: (ours, raw, image) => void ours.succeed(ours.tool('vmware-vdiskmanager'), ['-q', '-r', raw, '-t', '4', image]) },
  {
    format: 'vmdk', variant: 'vmfsSparse (COWD)',
    make: (ours, raw, image) => void ours.succeed(ours.tool('qemu-img'), ['convert', '-n', '-f', 'raw', '-O', 'vmdk', raw, cowdDisk(image, readFileSync(raw).length, 8)]),
  },
  {
    format: 'vmdk', variant: 'seSparse', readOnly: 'made by our tests',
    make: (_ours, raw, image) => void seSparseDisk(image, readFileSync(raw).length, pieces(readFileSync(raw), 4096).map((content, grain) => ({ grain, content }))),
  },
  { format: 'parallels', variant: '' },
  {
    format: 'parallels', variant: '.hdd bundle', unjudged: true,
    make: (ours, raw, image) => {
      const sectors = readFileSync(raw).length / 512;
      mkdirSync(image);
      ours.succeed(ours.tool('qemu-img'), ['convert', '-f', 'raw', '-O', 'parallels', raw, join(image, 'disk.hds')]);
      writeFileSync(join(image, 'DiskDescriptor.xml'), describeBundle([{ end: sectors, images: [[1, 'disk.hds']] }]));
    },
    show: (ours, image, raw) => void ours.succeed(ours.tool('qemu-img'), ['convert', '-f', 'parallels', '-O', 'raw', join(image, 'DiskDescriptor.xml'), raw]),
  },
  { format: 'luks', variant: 'aes-256-xts', options: 'iter-time=10', encrypted: true },
  { format: 'luks', variant: 'aes-128-cbc, essiv', options: 'cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,iter-time=10', encrypted: true },
  luks2('pbkdf2'), luks2('argon2id'),
  { format: 'bochs', variant: 'growing', readOnly: 'made by others' },
  { format: 'cloop', variant: 'version 2', readOnly: 'made by others' },
  dmg('raw', 'raw chunks'), dmg('adc', 'ADC'), dmg('zlib', 'zlib'), dmg('bzip2', 'bzip2'), dmg('lzfse', 'LZFSE'), dmg('xz', 'LZMA'),
  fat(12), fat(16), fat(32),
];
