/** What both programs say of layers named by options, and refuse: names among options, targets that cannot be made, references that cannot be changed. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder, type Ended, type ToolName } from '../support/our-tools.js';
import { oracleTool } from '../support/peers.js';

const folder = new ToolFolder();
afterAll(() => rmSync(folder.path, { recursive: true }));
const theirs = oracleTool('qemu-img');

beforeAll(() => {
  for (const [format, name, ...backing] of [['qcow2', 'a.qcow2'], ['parallels', 'a.hds'], ['qcow2', 'o.qcow2', '-b', 'a.qcow2', '-F', 'qcow2']] as const) {
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', format, ...backing, name, ...(backing.length > 0 ? [] : ['4M'])]);
  }
  writeFileSync(folder.file('base.raw'), Buffer.alloc(4 << 20, 1));
  mkdirSync(folder.file('folder'));
});

const image = (...options: readonly string[]): readonly [ToolName, string[]] => ['qemu-img', ['info', '--image-opts', options.join()]];
const length = (...options: readonly string[]): readonly [ToolName, string[]] => ['qemu-io', ['-c', 'length', '--image-opts', options.join()]];
const opened = (options: string): readonly [ToolName, string[]] => ['qemu-io', ['-c', `open -o ${options} a.qcow2`, '-c', 'read -q 0 512']];

const commands: readonly (readonly [ToolName, readonly string[]])[] = [
  image('filename=a.qcow2'), image('driver=qcow2', 'filename=a.qcow2'), image('driver=raw', 'filename=a.qcow2'), image('driver=blkdebug', 'filename=a.qcow2'),
  image('driver=qcow2', 'file.filename=a.qcow2', 'filename=b'),
  image('driver=raw', 'file.driver=qcow2', 'file.file.filename=o.qcow2'), image('driver=blkdebug', 'image.driver=qcow2', 'image.file.filename=o.qcow2'),
  ['qemu-img', ['info', '--output=json', '--image-opts', 'driver=raw,size=64k,file.driver=qcow2,file.file.filename=o.qcow2']],
  image('driver=quorum', 'vote-threshold=1', 'children.0.driver=raw', 'children.0.file.filename=base.raw', 'children.1.driver=qcow2', 'children.1.file.filename=o.qcow2'),
  ...['info', 'map'].map((verb) => ['qemu-img', [verb, '--output=json', 'blkverify:base.raw:base.raw']] as const),
  image('driver=blkverify', 'raw.filename=base.raw', 'test.driver=qcow2', 'test.file.filename=a.qcow2'),
  ['qemu-img', ['info', 'json:{"driver": "qcow2", "filename": "a.qcow2"}']],
  ['qemu-img', ['info', 'json:{"filename": "a.qcow2"}']],
  length('driver=qcow2', 'file.filename=a.qcow2'), length('file.driver=qcow2', 'file.filename=a.qcow2'), length('driver=qcow2', 'file.driver=blkdebug', 'file.filename=a.qcow2'),
  length('driver=qcow2', 'file.filename=o.qcow2', 'backing.filename=base.raw'),
  length('driver=qcow2', 'file.filename=o.qcow2', 'backing.driver=raw', 'backing.filename=base.raw'),
  opened('driver=qcow2'), opened('driver=qcow2,file.driver=file'), opened('driver=qcow2,file.driver=raw'), opened('file.driver=blkdebug'), opened('driver=blkdebug'),
  opened('driver=raw,offset=512'), opened('driver=qcow2,file.filename=b'),
  ...['driver=null-co,size=64k', 'driver=parallels,file.filename=a.hds', 'driver=raw,file.driver=parallels,file.file.filename=a.hds', 'driver=blkdebug,image.driver=raw,image.file.filename=base.raw']
    .map((options) => ['qemu-io', ['-c', 'info', '--image-opts', options]] as const),
  ...['nbd', 'vvfat', 'null-co', 'host_device', 'blkdebug', 'file'].map((driver) => ['qemu-io', ['-f', driver, '-c', 'read -q 0 512', 'a.qcow2']] as const),
  ...['null-co://', 'blkdebug::x', 'fat:folder'].flatMap((target) => [
    ['qemu-img', ['create', '-f', 'qcow2', target, '1M']], ['qemu-img', ['convert', 'a.qcow2', target]],
  ] as const),
  ...[['nbd', 'x'], ['host_device', 'x'], ['host_device', 'base.raw'], ['host_device', '/dev/null'], ['raw', '/dev/null']].map(([format, target]) =>
    ['qemu-img', ['create', '-f', format!, target!, '1M']] as const),
  ['qemu-img', ['convert', '-O', 'nbd', 'a.qcow2', 'x']],
  ...[['-b', 'base.raw', '-F', 'raw'], ['-u', '-b', ''], ['-c', '-b', 'base.raw', '-F', 'none'], ['-F', 'none', '-b', 'base.raw']].map((options) =>
    ['qemu-img', ['rebase', '-f', 'parallels', ...options, 'a.hds']] as const),
  ['qemu-img', ['create', '-f', 'raw', '-o', 'extent_size_hint=4G', 'x', '1M']],
  ['qemu-nbd', ['-k', folder.file('folder'), 'a.qcow2']],
  ...['-e', '--handshake-limit'].map((option) => ['qemu-nbd', [option, '2147483648', 'a.qcow2']] as const),
  ...['-a', '-c', '-d'].map((action) => ['qemu-img', ['snapshot', action, 'x', 'base.raw']] as const),
  ...['-c', '-d', '--pattern', '--flush-interval'].flatMap((option) =>
    ['-1', '1k'].map((number) => ['qemu-img', ['bench', option, number, 'a.qcow2']] as const)),
  ...['0', '17', '-1', 'x'].map((number) => ['qemu-img', ['convert', '-m', number, 'a.qcow2', 'x']] as const),
  ['qemu-img', ['bench', '--pattern', '256', 'a.qcow2']],
  ['qemu-img', ['bitmap', '--add', '-g', '-1', 'a.qcow2', 'b']],
  ...['1M', '9223372036854775807', '9223372036854775808', '-1'].map((offset) => ['qemu-img', ['map', '-s', offset, '-l', offset, 'a.qcow2']] as const),
  ...['', 'compat6=on,hwversion=4', 'adapter_type=none', 'subformat=monolithicFlat', 'subformat=none'].map((options) =>
    ['qemu-img', ['create', '-u', '-f', 'vmdk', ...(options === '' ? [] : ['-o', options]), '-b', 'base.raw', '-F', options === '' ? 'none' : 'raw', 'x.vmdk', '1M']] as const),
];

describe.skipIf(theirs === undefined)('as QEMU 10', () => {
  it.each(commands)('%s %j', (tool, parameters) => {
    const facts = ({ status, stdout, stderr }: Ended): unknown => ({ status, stdout, stderr });
    expect(facts(folder.run(folder.tool(tool), parameters))).toEqual(facts(folder.run(oracleTool(tool as 'qemu-img')!, parameters)));
  });

  it('opens a VHDX disk of no bytes', () => {
    folder.succeed(folder.tool('qemu-img'), ['create', '-q', '-f', 'vhdx', 'empty.vhdx', '0']);
    expect(folder.succeed(theirs!, ['info', 'empty.vhdx'])).toContain('virtual size: 0 B');
    folder.succeed(theirs!, ['check', 'empty.vhdx']);
  });

  it('lists the bitmap first that was named last', () => {
    for (const name of ['z', 'a', 'm']) folder.succeed(folder.tool('qemu-img'), ['bitmap', '--add', 'a.qcow2', name]);
    const listed = [folder.tool('qemu-nbd'), oracleTool('qemu-nbd')!].map((server, index) => {
      // each its own: a server that ends takes its files away
      const [socket, pid] = ['socket', 'pid'].map((name) => folder.file(`${name}${index}`)) as [string, string];
      folder.succeed(server, ['-r', '-k', socket, '-f', 'qcow2', '-B', 'z', '-B', 'a', '-B', 'm', '--fork', '--pid-file', pid, 'a.qcow2']);
      const list = folder.succeed(oracleTool('qemu-nbd')!, ['-L', '-k', socket]);
      process.kill(Number(readFileSync(pid, 'utf8')));
      return list.match(/dirty-bitmap:\w/g);
    });
    expect(listed[0]).toEqual(listed[1]);
  });
});
