/** Foreign tools that read, write and check images: what each can do, and how it is asked. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { oracleTool } from '../support/peers.js';

export interface ImageKind {
  readonly format: string;
  /** What sets this kind of image apart, for people. */
  readonly variant: string;
  /** Text of -o. */
  readonly options?: string;
  readonly compressed?: boolean;
  readonly encrypted?: boolean;
}

export const passphrase = 'correct horse';
const secret = ['--object', `secret,id=key,data=${passphrase}`];

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

function succeed(program: string, parameters: readonly string[], tries = 5): string {
  const { status, signal, stdout, stderr, error } = spawnSync(program, parameters, {
    encoding: 'utf8', maxBuffer: 1 << 26, timeout: 60_000, env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
  // qemu-img 7.2 measures its key derivation against a clock of 4 ms, and gives up where that does not move.
  if (status !== 0 && tries > 1 && stderr.includes('Unable to get accurate CPU usage')) return succeed(program, parameters, tries - 1);
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

/** Options that convert an image of a kind with qemu-img, ours or theirs. */
export function convertArguments(kind: ImageKind, direction: 'read' | 'write', from: string, to: string): string[] {
  const objects = kind.encrypted ? secret : [];
  if (direction === 'write') {
    const options = [kind.options, kind.encrypted && keyOption(kind)].filter(Boolean).join(',');
    return ['convert', ...objects, ...(kind.compressed ? ['-c'] : []), '-f', 'raw', '-O', kind.format, ...(options ? ['-o', options] : []), from, to];
  }
  if (kind.encrypted) return ['convert', ...objects, '--image-opts', `driver=${kind.format},${keyOption(kind)},file.filename=${from}`, '-O', 'raw', to];
  return ['convert', '-f', kind.format, '-O', 'raw', from, to];
}

function keyOption({ format }: ImageKind): string {
  return format === 'luks' ? 'key-secret=key' : 'encrypt.key-secret=key';
}

const checked = new Set(['qcow2', 'qed', 'vdi', 'vhdx', 'vmdk', 'parallels']);
const notWritten = new Set(['bochs', 'cloop', 'dmg']);

function qemuImg(name: string, program: string | undefined): Judge {
  return {
    name, version: program && versionOf(program, ['--version'], /version (\S+)/),
    // Its conversion to compressed qcow ends with status 1 and no word, whatever the disk.
    can: (action, { format, compressed }) => (action === 'check' ? checked.has(format) : action === 'write' ? !notWritten.has(format) && !(format === 'qcow' && compressed) : true),
    read: (kind, image, raw) => void succeed(program!, convertArguments(kind, 'read', image, raw)),
    write: (kind, raw, image) => void succeed(program!, convertArguments(kind, 'write', raw, image)),
    check: (kind, image) => void succeed(program!, kind.encrypted
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
      mkdirSync(folder);
      succeed(program, [image, folder]);
      try {
        succeed('cp', ['--sparse=always', join(folder, readdirSync(folder).sort().at(-1)!), raw]);
      } finally {
        succeed('fusermount', ['-u', folder]);
        rmSync(folder, { recursive: true });
      }
    },
  };
}

const sevenZipTypes: Readonly<Record<string, string>> = { qcow: 'qcow', qcow2: 'qcow', vdi: 'vdi', vpc: 'vhd', vhdx: 'vhdx', vmdk: 'vmdk', dmg: 'dmg' };
const sevenZip = ['7zz', '7z'].find((program) => versionOf(program, [], /7-Zip.*?(\d+\.\d+)/) !== undefined) ?? '7zz';
/** Variants that only some can read. */
const newQcow2 = (kind: ImageKind): boolean => kind.format === 'qcow2' && /zstd|extended|data_file/.test(kind.options ?? '');

/** Everybody who may have a say. */
export function judges(): Judge[] {
  return [
    qemuImg('qemu-img', 'qemu-img'),
    qemuImg('QEMU 10’s qemu-img', oracleTool('qemu-img')),
    {
      name: '7-Zip', version: versionOf(sevenZip, [], /7-Zip.*?(\d+\.\d+)/),
      // What it refuses of qemu-img's own images, too, is not asked of it.
      can: (action, kind) => action === 'read' && kind.format in sevenZipTypes && !kind.encrypted && !newQcow2(kind)
        && !/Flat|vmfs/i.test(kind.options ?? '') && !(kind.format === 'qcow' && kind.compressed),
      read: (kind, image, raw) => void succeed('bash', ['-c', '"$0" e -so -t"$1" "$2" > "$3"', sevenZip, sevenZipTypes[kind.format]!, image, raw]),
    },
    mounter('libvhdi', 'vhdimount', (action, { format }) => action === 'read' && (format === 'vpc' || format === 'vhdx')),
    mounter('libvmdk', 'vmdkmount', (action, { format, options }) => action === 'read' && format === 'vmdk' && !/vmfs|monolithicFlat/.test(options ?? '')),
    mounter('libqcow', 'qcowmount', (action, kind) => action === 'read' && (kind.format === 'qcow' || kind.format === 'qcow2') && !kind.encrypted && !newQcow2(kind)),
    {
      name: 'nbdkit’s luks filter', version: versionOf('nbdkit', ['--version'], /nbdkit (\S+)/),
      can: (action, { format, options }) => action === 'read' && format === 'luks' && !/cbc/.test(options ?? ''),
      read: (_kind, image, raw) => void succeed('nbdkit', ['--filter=luks', 'file', image, `passphrase=${passphrase}`, '--run', `nbdcopy "$uri" ${raw}`]),
    },
    {
      name: 'cryptsetup', version: versionOf('cryptsetup', ['--version'], /(\d+\.\d+\.\d+)/),
      can: (action, { format }) => action === 'check' && format === 'luks',
      check: (_kind, image) => void succeed('bash', ['-c', 'printf %s "$0" | cryptsetup open --test-passphrase --key-file - "$1"', passphrase, image]),
    },
    {
      name: 'bximage', version: packageVersion('bximage'),
      can: (action, { format }) => action === 'write' && format === 'bochs',
      write: (_kind, raw, image) => void succeed('bximage', ['-q', '-func=convert', '-imgmode=growing', raw, image]),
    },
    {
      name: 'cloop-utils', version: packageVersion('cloop-utils'),
      can: (action, { format }) => action === 'write' && format === 'cloop',
      write: (_kind, raw, image) => void succeed('create_compressed_fs', ['-q', '-L', '6', '-B', '65536', raw, image]),
    },
  ];
}
