/** Help and version of qemu-img: one table of usage lines. */
import { programName } from '../output.js';

/** Kept equal to package.json's. */
const ownVersion = '0.1.0';
/** QEMU release whose behaviour the tools follow. */
const peerVersion = '10.0.2';

const usage: Readonly<Record<string, string>> = {
  amend: '[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename',
  bench: '[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename',
  bitmap: '(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap',
  check: '[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename',
  commit: '[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename',
  compare: '[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2',
  convert: '[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename',
  create: '[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]',
  dd: '[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output',
  info: '[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename',
  map: '[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename',
  measure: '[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [-f fmt] [-l snapshot_param] filename]',
  rebase: '[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] [-c] -b backing_file [-F backing_fmt] filename',
  resize: '[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size',
  snapshot: '[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename',
};

const parameters = `
Arguments:
  filename       a disk image: a file name, a URL (nbd://…), json:{…}, or an option list with --image-opts
  fmt            image format; guessed from the content where it is left out
  cache          none, directsync, writeback (default), writethrough, or unsafe (default of convert's target)
  size           bytes, or a number with k, M, G, T, P or E behind it (powers of 1024)
  options        name=value,…; "-o help" lists what the format takes
  objectdef      an object such as secret,id=NAME,file=PATH
  ofmt           human or json

Common options:
  -f fmt         format of the (first) image       -O fmt   format of the output
  -o options     options of a new image            -b file  backing file, with its format in -F
  -p             show progress                     -q       print errors only
  -U             share the image with a writer     -t, -T   cache mode of target and source
  -u             create, rebase: take the backing file's name as it is, without opening it
  -c             convert, rebase: compress         -n       convert: write into an existing target
  -r             check: repair 'leaks' or 'all';   convert, commit: bytes per second at most
  -S size        convert: runs of zeroes of this length become holes (0: never)
  -m, -W         convert: requests in parallel; write out of order
  --bitmaps      convert: copy persistent bitmaps  --shrink resize: allow losing data behind the new end
`;

/** Help for a verb, or for all of them. */
export function helpText(verb?: string, formats = supportedFormats): string {
  const name = programName();
  if (verb !== undefined) return `usage: ${name} ${verb} ${usage[verb] ?? ''}\n${parameters}`;
  const lines = Object.entries(usage).map(([command, text]) => `  ${command} ${text}\n`).join('');
  return `${versionText()}usage: ${name} [standard options] command [command options]
Create, inspect, convert and repair virtual disk images

    '-h', '--help'       display this help and exit
    '-V', '--version'    output version information and exit
    '-T', '--trace'      accepted and ignored

Command syntax:
${lines}${parameters}
Supported formats: ${formats.join(' ')}
`;
}

/** First line in the shape that scripts take the version from. */
export function versionText(): string {
  return `${programName()} version ${peerVersion} (vdisk)\n`;
}

/** What vdisk says of itself. */
export function ownVersionText(): string {
  return `vdisk ${ownVersion} (qemu-img, qemu-io and qemu-nbd as of QEMU ${peerVersion})\n`;
}

/** Drivers, in the order of their names. */
const supportedFormats = [
  'blkdebug', 'blkverify', 'bochs', 'cloop', 'compress', 'copy-on-read', 'dmg', 'file', 'host_cdrom', 'host_device', 'luks', 'nbd',
  'null-aio', 'null-co', 'parallels', 'qcow', 'qcow2', 'qed', 'quorum', 'raw', 'vdi', 'vhdx', 'vmdk', 'vpc', 'vvfat',
];
