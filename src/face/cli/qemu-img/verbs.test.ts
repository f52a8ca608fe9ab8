/** Transcripts: what the verbs print, taken from qemu-img 10.0.2 (usage errors from 7.2's, which upstream 10 shares). */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { closeGraph } from '../open.js';
import { captureOut, describeFailure, setProgram, setQuiet } from '../output.js';
import { main } from './index.js';

const home = process.cwd();
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-img-'));
  process.chdir(folder);
  setProgram('qemu-img');
});
afterAll(() => {
  process.chdir(home);
  rmSync(folder, { recursive: true });
});

/** Standard output (host storage in use left out), then the error as the tool would show it, then the exit code where it is not 0. */
async function qemuImg(command: string): Promise<string> {
  const output = captureOut();
  setQuiet(false);
  let failure = '';
  let exitCode: number;
  try {
    exitCode = await main(command.split(' ').map((word) => (word === "''" ? '' : word)));
  } catch (error) {
    const shown = describeFailure(error);
    if (shown.message !== undefined) failure += `qemu-img: ${shown.message}\n`;
    if (shown.hint !== undefined) failure += `${shown.hint.trimEnd()}\n`;
    if (shown.continuation !== undefined) failure += `qemu-img: ${shown.continuation}\n`;
    exitCode = shown.exitCode;
  } finally {
    await closeGraph();
  }
  return `${output().replace(/"actual-size": \d+/g, '"actual-size": N')}${failure}${exitCode === 0 ? '' : `[${exitCode}]\n`}`;
}

const tryLine = "Try 'qemu-img --help' for more information\n[1]\n";

describe('usage errors', () => {
  it.each([
    ['info -z', `qemu-img: unrecognized option '-z'\n${tryLine}`],
    ['info -zf', `qemu-img: unrecognized option 'info'\n${tryLine}`],
    ['info -Uz x', `qemu-img: unrecognized option '-Uz'\n${tryLine}`],
    ['info --zork', `qemu-img: unrecognized option '--zork'\n${tryLine}`],
    ['info -f', `qemu-img: missing argument for option '-f'\n${tryLine}`],
    ['info --out', `qemu-img: missing argument for option '--out'\n${tryLine}`],
    ['info --image-opt --f=raw', `qemu-img: unrecognized option '--f=raw'\n${tryLine}`],
    ['info --output=xml x', 'qemu-img: --output must be used with human or json as argument.\n[1]\n'],
    ['info', `qemu-img: Expecting one image file name\n${tryLine}`],
    ['info --image-opts -f raw x', 'qemu-img: --image-opts and --format are mutually exclusive\n[1]\n'],
    ['-z', `qemu-img: unrecognized option '-z'\n${tryLine}`],
    ['foo', `qemu-img: Command not found: foo\n${tryLine}`],
    ['resize img', `qemu-img: Not enough arguments\n${tryLine}`],
    ['create', `qemu-img: Expecting image file name\n${tryLine}`],
    ['create x 1M 2M', `qemu-img: Unexpected argument: 2M\n${tryLine}`],
    ['create x abc', 'qemu-img: Invalid image size specified. You may use k, M, G, T, P or E suffixes for \nqemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.\n[1]\n'],
    ['create x -- -1024', 'qemu-img: Invalid image size specified. Must be between 0 and 9223372036854775807.\n[1]\n'],
    ['check -r foo x', `qemu-img: Unknown option value for -r (expecting 'leaks' or 'all'): foo\n${tryLine}`],
    ['snapshot -a x -c y z', `qemu-img: Cannot mix '-l', '-a', '-c', '-d'\n${tryLine}`],
    ['commit -t foo x', 'qemu-img: Invalid cache option: foo\n[1]\n'],
    ['rebase x', `qemu-img: Must specify backing file (-b) or use unsafe mode (-u)\n${tryLine}`],
    ['amend x', `qemu-img: Must specify options (-o)\n${tryLine}`],
    ['amend -o ,x y', 'qemu-img: Invalid option list: ,x\n[1]\n'],
    ['bitmap x', 'qemu-img: Need at least one of --add, --remove, --clear, --enable, --disable, or --merge\n[1]\n'],
    ['bitmap --add x', 'qemu-img: Expecting filename and bitmap name\n[1]\n'],
    ['info --object zork,id=a x', "qemu-img: Parameter 'qom-type' does not accept value 'zork'\n[1]\n"],
    ['info --object secret,id=1a,data=x x', "qemu-img: Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n[1]\n"],
    ['info --object iothread,id=a x', 'qemu-img: invalid object type: iothread\n[1]\n'],
    ["create -f qcow2 -o '' x 1M", 'qemu-img: Invalid option list: \n[1]\n'],
    ['create -q -f qcow2 -o backing_fmt=zork x 1M', "qemu-img: x: Parameter 'backing-fmt' does not accept value 'zork'\n[1]\n"],
    ['create -q -f qcow -u -b y -F zork x 1M', "qemu-img: x: unrecognized backing format 'zork'\n[1]\n"],
    ['measure -O qcow2 --size 1M -o cluster_size=zork', "qemu-img: Parameter 'cluster_size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.\nqemu-img: Invalid options for file format 'qcow2'\n[1]\n"],
    ['info --image-opts driver=null-co,detect-zeroes=zork', "qemu-img: Could not open 'driver=null-co,detect-zeroes=zork': invalid parameter value: zork\n[1]\n"],
    ['info nope', "qemu-img: Could not open 'nope': Could not open 'nope': No such file or directory\n[1]\n"],
    ['create -f zork x 1M', "qemu-img: x: Unknown file format 'zork'\n[1]\n"],
    ['create -o size=-1k x', "qemu-img: x: Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.\n[1]\n"],
    ['create -o size=1M x 2M', 'qemu-img: x: The image size must be specified only once\n[1]\n'],
    ['create -b nope -F raw -f qcow2 /x 1M', "qemu-img: /x: Could not open '/nope': No such file or directory\nCould not open backing image.\n[1]\n"],
  ])('%s', async (command, transcript) => expect(await qemuImg(command)).toBe(transcript));
});

describe('a raw image', () => {
  it.each([
    ['create disk.raw 1M', "Formatting 'disk.raw', fmt=raw size=1048576\n"],
    ['info --output=json -f raw disk.raw', `{
    "children": [
        {
            "name": "file",
            "info": {
                "children": [
                ],
                "virtual-size": 1048576,
                "filename": "disk.raw",
                "format": "file",
                "actual-size": N,
                "format-specific": {
                    "type": "file",
                    "data": {
                    }
                },
                "dirty-flag": false
            }
        }
    ],
    "virtual-size": 1048576,
    "filename": "disk.raw",
    "format": "raw",
    "actual-size": N,
    "dirty-flag": false
}
`],
    ['resize -f raw disk.raw +1M', 'Image resized.\n'],
    ['resize -f raw disk.raw -1M', '[1]\n'],
    ['resize --shrink -f raw disk.raw -512K', 'Image resized.\n'],
    ['resize -f raw disk.raw 0', 'qemu-img: New image size must be positive\n[1]\n'],
    ['snapshot -c s -f raw disk.raw', "qemu-img: Could not create snapshot 's': Operation not supported\n[1]\n"],
    ['create -f file plain 1000', "Formatting 'plain', fmt=file size=1000\n"],
    ['convert -O file disk.raw plain', ''],
    ['compare -f raw -F raw disk.raw plain', 'Images are identical.\n'],
    ['info --image-opts filename=disk.raw', "qemu-img: Could not open 'filename=disk.raw': Must specify either driver or file\n[1]\n"],
    ['commit -f raw disk.raw', 'qemu-img: Image does not have a backing file\n[1]\n'],
    ['amend -f raw -o help', "qemu-img: Format driver 'raw' does not support option amendment\n[1]\n"],
  ])('%s', async (command, transcript) => expect(await qemuImg(command)).toBe(transcript));
});

it('leaves what a longer target holds beyond the source', async () => {
  await qemuImg('create -q -f raw short 1M');
  await qemuImg('create -q -f qcow2 longer 2M');
  await qemuImg('bench -w -f qcow2 -c 1 -s 2M --pattern=1 longer');
  expect(await qemuImg('convert -n -O qcow2 short longer')).toBe('');
  expect(await qemuImg('compare -f raw -F qcow2 short longer')).toBe('Warning: Image size mismatch!\nContent mismatch at offset 1048576!\n[1]\n');
});

describe('a qcow2 image', () => {
  it.each([
    ['create -f qcow2 base.qcow2 64M', "Formatting 'base.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=67108864 lazy_refcounts=off refcount_bits=16\n"],
    ['check base.qcow2', 'No errors were found on the image.\nImage end offset: 262144\n'],
    ['bitmap --add base.qcow2 b', ''],
    ['bitmap --add base.qcow2 b', 'qemu-img: Operation add on bitmap b failed: Bitmap already exists: b\n[1]\n'],
    ['bitmap --add -g 100 base.qcow2 c', 'qemu-img: Operation add on bitmap c failed: Granularity must be power of 2 and at least 512\n[1]\n'],
    ['bitmap --merge nope base.qcow2 b', "qemu-img: Operation merge on bitmap b failed: Dirty bitmap 'nope' not found\n[1]\n"],
    ['bitmap --remove base.qcow2 b', ''],
    ['snapshot -d nope base.qcow2', "qemu-img: Could not delete snapshot 'nope': snapshot not found\n[1]\n"],
    ['snapshot -a nope base.qcow2', "qemu-img: Could not apply snapshot 'nope': Failed to load snapshot: No such file or directory\n[1]\n"],
    ['create -f qcow2 -b base.qcow2 top.qcow2', 'qemu-img: top.qcow2: Backing file specified without backing format\nDetected format of qcow2.\n[1]\n'],
    ['create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2',
      "Formatting 'top.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=67108864 backing_file=base.qcow2 backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16\n"],
    ['create -f qcow2 -o cluster_size=100 x 1M',
      "Formatting 'x', fmt=qcow2 cluster_size=100 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16\nqemu-img: x: Cluster size must be a power of two between 512 and 2048k\n[1]\n"],
    ['rebase -b nope -F qcow2 top.qcow2', "qemu-img: Could not open new backing file 'nope': Could not open 'nope': No such file or directory\n[1]\n"],
    ['commit -b nope top.qcow2', "qemu-img: Did not find 'nope' in the backing chain of 'top.qcow2'\n[1]\n"],
    ['check -r all -U top.qcow2', "qemu-img: Could not open 'top.qcow2': force-share=on can only be used with read-only images\n[1]\n"],
  ])('%s', async (command, transcript) => expect(await qemuImg(command)).toBe(transcript));

  it('lists what -o takes', async () => {
    const table = await qemuImg('create -f qcow2 -o help x');
    expect(table.split('\n').slice(0, 4)).toEqual([
      'Supported options:', '  backing_file=<str>     - File name of a base image', '  backing_fmt=<str>      - Image format of the base image',
      '  cluster_size=<size>    - qcow2 cluster size']);
    expect(table).toContain('\n  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image\n');
  });

  it('does not follow a chain that bites its tail', async () => {
    await qemuImg('create -q -f qcow2 -u -b b.qcow2 -F qcow2 a.qcow2 1M');
    await qemuImg('create -q -f qcow2 -u -b a.qcow2 -F qcow2 b.qcow2 1M');
    expect(await qemuImg('check a.qcow2')).toContain('creates an infinite loop.');
  });
});
