/** Foreign tools that read, write and check images: what each can do, and how it is asked. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { oracleTool, runProgram } from '../support/peers.js';
import { keyOption, makeChild, makingWords, passphrase, secret, showingWords, type ImageKind } from './image-kinds.js';

export interface Judge {
  readonly name: string;
  /** Text of its version; undefined where it is not installed. */
  readonly version: string | undefined;
  /** Writes the disk that `image` holds to `raw`. */
  read?(kind: ImageKind, image: string, raw: string): void;
  /** Makes an image of the disk in `raw`. */
  write?(kind: ImageKind, raw: string, image: string): void;
  /** Throws where it finds fault with the image. */
  check?(kind: ImageKind, image: string): void;
  /** Kinds it can do that with. */
  can(action: 'read' | 'write' | 'check', kind: ImageKind): boolean;
}

function succeed(program: string, parameters: readonly string[], options: { readonly input?: string } = {}): string {
  const { status, signal, stdout, stderr, error } = runProgram(program, parameters, { ...options, env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  if (status !== 0) throw new Error(`${program} ${parameters.join(' ')} ended with ${status ?? signal ?? String(error)}: ${stdout}${stderr}`);
  return stdout + stderr;
}

function versionOf(program: string, parameters: readonly string[], pattern: RegExp): string | undefined {
  const { stdout, stderr, error } = spawnSync(program, parameters, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  return error ? undefined : pattern.exec(stdout + stderr)?.[1];
}

/** Of a Debian package whose programs do not tell. */
function packageVersion(name: string): string | undefined {
  return versionOf('dpkg-query', ['-W', '-f', '${Version}\n', name], /^(\d[\w.]*)/);
}

const checked = new Set(['qcow2', 'qed', 'vdi', 'vhdx', 'vmdk', 'parallels']);
/** Of dmg files, others need libraries, or know nothing. */
const dmgOfQemu = /raw|zlib/;

function qemuImg(name: string, program: string): Judge {
  return {
    name, version: versionOf(program, ['--version'], /version (\S+)/),
    can: (action, { format, variant, compressed, readOnly, notInQemu, unjudged }) => {
      if (notInQemu || unjudged || format === 'vvfat') return false;
      if (action === 'check') return checked.has(format) && !variant.startsWith('vmfs');
      // Its conversion to compressed qcow ends with status 1 and no word, whatever the disk.
      if (action === 'write') return !readOnly && !variant.startsWith('vmfs') && !(format === 'qcow' && compressed);
      return format !== 'dmg' || dmgOfQemu.test(variant);
    },
    read: (kind, image, raw) => void succeed(program, showingWords(kind, image, raw)),
    write(kind, raw, image) {
      if (kind.child) makeChild((tool, words) => succeed(program.replace(/qemu-img$/, tool), words), kind, raw, image);
      else succeed(program, makingWords(kind, raw, image));
    },
    check: (kind, image) => void succeed(program, kind.encrypted
      ? ['check', ...secret, '--image-opts', `driver=${kind.format},${keyOption(kind)},file.filename=${image}`]
      : ['check', '-f', kind.format, image]),
  };
}

/** A library of libyal that shows an image as a file through FUSE. */
function mounter(name: string, program: string, can: Judge['can']): Judge {
  return {
    name, version: existsSync('/dev/fuse') ? versionOf(program, ['-V'], /(\d{8})/) : undefined, can,
    read(_kind, image, raw) {
      const folder = `${raw}.mounted`;
      whileMounted(folder, [program, image, folder], () => succeed('cp', ['--sparse=always', join(folder, readdirSync(folder).sort().at(-1)!), raw]));
    },
  };
}

/** Where the image of a disk is that a program shows as a file while it is mounted. */
function whileMounted(folder: string, mount: readonly [string, ...string[]], use: () => void): void {
  mkdirSync(folder);
  succeed(mount[0], mount.slice(1));
  try {
    use();
  } finally {
    succeed('fusermount', ['-u', folder]);
    rmSync(folder, { recursive: true });
  }
}

const sevenZipTypes: Readonly<Record<string, string>> = { qcow: 'qcow', qcow2: 'qcow', vdi: 'vdi', vpc: 'vhd', vhdx: 'vhdx', vmdk: 'vmdk', dmg: 'dmg' };
const sevenZip = ['7zz', '7z'].find((program) => versionOf(program, [], /7-Zip.*?(\d+\.\d+)/) !== undefined) ?? '7zz';
/** Variants that only some can read. */
const newQcow2 = (kind: ImageKind): boolean => kind.format === 'qcow2' && /zstd|extended|data_file/.test(kind.options ?? '');
/** Lengths of the headers that cryptsetup makes. To encrypt a disk in place, it needs the second one twice. */
const luksHeader = { luks1: 2 << 20, luks2: 16 << 20 };
const cheapKeys = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '--key-file', '-'];
/** In front of the file system, where vvfat shows a disk with one partition. */
const fatStart = 63 * 512;
const xmountTypes: Readonly<Record<string, string>> = { 'vdi fixed': 'vdi', 'vpc fixed': 'vhd', 'vmdk monolithicFlat': 'vmdk' };
const bximageModes: Readonly<Record<string, string>> = { 'bochs growing': 'growing', 'vmdk monolithicSparse': 'vmware4', 'vpc dynamic, size by CHS': 'vpc' };
const called = ({ format, variant }: ImageKind): string => `${format} ${variant}`;

/** Everybody who may have a say. */
export function judges(): Judge[] {
  const oracle = oracleTool('qemu-img');
  return [
    qemuImg('qemu-img', 'qemu-img'),
    ...(oracle === undefined ? [] : [qemuImg('QEMU 10’s qemu-img', oracle)]),
    {
      name: '7-Zip', version: versionOf(sevenZip, [], /7-Zip.*?(\d+\.\d+)/),
      // What it refuses of qemu-img's own images, too, is not asked of it.
      can: (action, kind) => action === 'read' && kind.format in sevenZipTypes && !kind.encrypted && !newQcow2(kind)
        && !/Flat|vmfs|seSparse/.test(kind.variant) && !(kind.format === 'qcow' && kind.compressed) && !(kind.child && !kind.notInQemu),
      // LZFSE that ends with a stored block is a fault to it, though it reads all of it.
      read: ({ format, variant }, image, raw) => void succeed('bash', ['-c', '"$0" e -so -t"$1" "$2" > "$3" || [ "$4" = LZFSE ]', sevenZip, sevenZipTypes[format]!, image, raw, variant]),
    },
    mounter('libvhdi', 'vhdimount', (action, { format }) => action === 'read' && (format === 'vpc' || format === 'vhdx')),
    mounter('libvmdk', 'vmdkmount', (action, { format, variant }) => action === 'read' && format === 'vmdk' && !/vmfsSparse|seSparse|monolithicFlat/.test(variant)),
    // It does not know clusters of zeroes, and goes wrong in children with them.
    mounter('libqcow', 'qcowmount', (action, kind) => action === 'read' && (kind.format === 'qcow' || kind.format === 'qcow2') && !kind.encrypted && !kind.child && !newQcow2(kind)),
    {
      name: 'nbdkit’s luks filter', version: versionOf('nbdkit', ['--version'], /nbdkit (\S+)/),
      can: (action, { format, variant }) => (action === 'read' || action === 'write') && format === 'luks' && variant === 'aes-256-xts',
      read: (_kind, image, raw) => void succeed('nbdkit', ['-U', '-', '--filter=luks', 'file', image, `passphrase=${passphrase}`, '--run', `nbdcopy "$uri" ${raw}`]),
      write(_kind, raw, image) {
        writeFileSync(image, '');
        truncateSync(image, statSync(raw).size + luksHeader.luks1);
        succeed('cryptsetup', ['-q', 'luksFormat', '--type', 'luks1', '-c', 'aes-xts-plain64', '-s', '512', ...cheapKeys, image], { input: passphrase });
        succeed('nbdkit', ['-U', '-', '--filter=luks', 'file', image, `passphrase=${passphrase}`, '--run', `nbdcopy ${raw} "$uri"`]);
      },
    },
    {
      name: 'cryptsetup', version: versionOf('cryptsetup', ['--version'], /(\d+\.\d+\.\d+)/),
      can: (action, { format, variant }) => format === 'luks' && (action === 'check' || variant.startsWith('LUKS2')),
      check: (_kind, image) => void succeed('cryptsetup', ['open', '--test-passphrase', '--key-file', '-', image], { input: passphrase }),
      // It decrypts and encrypts files in place, and leaves them as long as they were.
      read(_kind, image, raw) {
        copyFileSync(image, raw);
        succeed('cryptsetup', ['-q', 'reencrypt', '--decrypt', '--header', `${raw}.header`, '--force-offline-reencrypt', '--key-file', '-', raw], { input: passphrase });
        truncateSync(raw, statSync(image).size - luksHeader.luks2);
      },
      write(kind, raw, image) {
        copyFileSync(raw, image);
        truncateSync(image, statSync(raw).size + 2 * luksHeader.luks2);
        const kdf = kind.variant.includes('argon2id') ? ['--pbkdf', 'argon2id', '--pbkdf-memory', '32768', '--pbkdf-force-iterations', '4', '--key-file', '-'] : cheapKeys;
        succeed('cryptsetup', ['-q', 'reencrypt', '--encrypt', '--type', 'luks2', '--reduce-device-size', String(2 * luksHeader.luks2), '--sector-size', '4096', ...kdf, image], { input: passphrase });
        truncateSync(image, luksHeader.luks2 + statSync(raw).size);
      },
    },
    {
      name: 'bximage', version: packageVersion('bximage'),
      can: (action, kind) => action === 'write' && called(kind) in bximageModes,
      write(kind, raw, image) {
        // It fails where the size is not that of a geometry.
        if (kind.format === 'vpc') truncateSync(raw, 10 << 20);
        succeed('bximage', ['-q', '-func=convert', `-imgmode=${bximageModes[called(kind)]!}`, raw, image]);
      },
    },
    {
      name: 'xmount', version: existsSync('/dev/fuse') ? packageVersion('xmount') : undefined,
      can: (action, kind) => action === 'write' && called(kind) in xmountTypes,
      write(kind, raw, image) {
        const folder = `${image}.mounted`;
        whileMounted(folder, ['xmount', '--in', 'raw', raw, '--out', xmountTypes[called(kind)]!, folder], () => {
          for (const name of readdirSync(folder)) {
            const stem = basename(raw, '.raw');
            if (name === `${stem}.info`) continue;
            writeFileSync(name === `${stem}.dd` ? join(dirname(image), name) : image, readFileSync(join(folder, name)));
          }
        });
      },
    },
    {
      name: 'VMDKstream', version: packageVersion('python3-vmdkstream'),
      can: (action, kind) => action === 'write' && called(kind) === 'vmdk streamOptimized',
      write: (_kind, raw, image) => void succeed('/usr/bin/python3', ['-m', 'VMDKstream', raw, image]),
    },
    {
      name: 'cloop-utils', version: packageVersion('cloop-utils'),
      can: (action, { format }) => action === 'write' && format === 'cloop',
      write: (_kind, raw, image) => void succeed('create_compressed_fs', ['-q', '-L', '6', '-B', '65536', raw, image]),
    },
    {
      name: 'dmg2img', version: packageVersion('dmg2img'),
      can: (action, { format, variant }) => action === 'read' && format === 'dmg' && /raw|zlib|bzip2/.test(variant),
      read: (_kind, image, raw) => void succeed('dmg2img', ['-s', image, raw]),
    },
    {
      name: 'mtools', version: versionOf('mtools', ['--version'], /mtools\) (\S+)/),
      can: (action, { format }) => (action === 'read' || action === 'write') && format === 'vvfat',
      read: (_kind, image, raw) => void succeed('mcopy', ['-i', `${image}@@${fatStart}`, '::/disk.raw', raw]),
      write: (_kind, raw, image) => void succeed('mcopy', ['-i', `${image}@@${fatStart}`, raw, '::/disk.raw']),
    },
    {
      name: 'fsck.fat', version: packageVersion('dosfstools'),
      can: (action, { format }) => action === 'check' && format === 'vvfat',
      check(_kind, image) {
        succeed('bash', ['-c', 'tail -c "+$(($2 + 1))" "$0" | cp --sparse=always /dev/stdin "$1"', image, `${image}.volume`, String(fatStart)]);
        succeed('fsck.fat', ['-n', `${image}.volume`]);
      },
    },
  ];
}
