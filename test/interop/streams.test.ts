/** Images written to a pipe and read from one, judged by qemu-img. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder } from '../support/our-tools.js';
import { havePeers } from '../support/peers.js';

describe.skipIf(!havePeers('qemu-img', 'qemu-io'))('streams', () => {
  let folder: ToolFolder;
  beforeAll(() => {
    folder = new ToolFolder();
    folder.succeed('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', '5000000']);
    folder.succeed('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 70k', 'base.raw']);
    folder.succeed('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'source.qcow2', '300000256']);
    folder.succeed('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 1000000 123456', '-c', 'write -z 8192 4096', '-c', 'write -P 2 150M 9M', '-c', 'write -P 3 299999744 512', 'source.qcow2']);
  });
  afterAll(() => folder.remove());

  /** Runs a shell line with `$V` as our vdisk. */
  const shell = (line: string): { status: number | null; stdout: Buffer; stderr: string } => {
    const { status, stdout, stderr } = spawnSync('bash', ['-o', 'pipefail', '-c', line], { cwd: folder.path, env: { ...process.env, V: folder.tool('vdisk') }, maxBuffer: 1 << 29 });
    return { status, stdout, stderr: stderr.toString() };
  };

  it.each(['', '-o cluster_size=512', '-o cluster_size=2M', '-o cluster_size=4k,refcount_bits=1', '-o cluster_size=4k,refcount_bits=64', '-o compat=0.10'])('write qcow2 %s', (options) => {
    expect(shell(`"$V" convert -O qcow2 ${options} source.qcow2 - | cat > streamed.qcow2`)).toMatchObject({ status: 0, stderr: '' });
    expect(folder.succeed('qemu-img', ['check', '-f', 'qcow2', 'streamed.qcow2'])).toContain('No errors were found');
    expect(folder.succeed('qemu-img', ['compare', '-f', 'qcow2', '-F', 'qcow2', 'source.qcow2', 'streamed.qcow2'])).toBe('Images are identical.\n');
    expect(readFileSync(folder.file('streamed.qcow2')).length).toBeLessThan(26_000_000);
  });

  it('write raw', () => {
    folder.succeed('qemu-img', ['convert', '-O', 'raw', 'source.qcow2', 'whole.raw']);
    const { stdout, stderr } = shell('"$V" convert -p -O raw source.qcow2 - | sha256sum');
    expect(stdout.toString().slice(0, 64)).toBe(createHash('sha256').update(readFileSync(folder.file('whole.raw'))).digest('hex'));
    expect(stderr).toContain('(100.00/100%)');
  });

  it('are read, and leave no file behind', () => {
    expect(shell('mkdir tmp; cat streamed.qcow2 | TMPDIR=$PWD/tmp "$V" convert -f qcow2 -O qcow2 - copy.qcow2 && ls tmp')).toMatchObject({ status: 0, stdout: Buffer.from(''), stderr: '' });
    expect(folder.succeed('qemu-img', ['compare', 'source.qcow2', 'copy.qcow2'])).toBe('Images are identical.\n');
  });

  it.each(['-O qcow2', '-O vpc', '-O vmdk', '-O qcow2 -o cluster_size=4k'])('cut short are refused: %s', (options) => {
    const format = options.split(' ')[1]!;
    expect(shell(`"$V" convert ${options} source.qcow2 - > sent`).status).toBe(0);
    const { length } = readFileSync(folder.file('sent'));
    for (const sent of [length >> 4, length >> 1, length - 70_000]) {
      const { status, stderr } = shell(`head -c ${sent} sent | "$V" convert -f ${format} -O raw - received.raw`);
      expect(status, `${sent} of ${length} bytes`).toBe(1);
      expect(stderr).toMatch(/standard input/);
    }
    expect(shell(`cat sent | "$V" convert -f ${format} -O raw - received.raw`)).toMatchObject({ status: 0, stderr: '' });
  });

  it.each([
    ['-O qcow2 -c', '--compress cannot be used'], ['-O qcow2 -o preallocation=full', 'cannot have preallocation'], ['-O qcow2 -o extended_l2=on', 'cannot have extended L2'],
    ['-O qcow2 -B base.raw -F raw', 'cannot have a backing file'],
  ])('refuse %s', (options, message) => {
    const { status, stdout, stderr } = shell(`"$V" convert ${options} source.qcow2 - | cat`);
    expect(status).toBe(1);
    expect(stderr).toContain(message);
    expect(stdout.length).toBe(0);
  });

  it('say that nobody reads them', () => {
    const { stderr } = shell('"$V" convert -O raw source.qcow2 - | head -c 10 > /dev/null');
    expect(stderr).toBe('vdisk: error while writing to standard output: Broken pipe\n');
  });

  it('are called what the user knows them as', () => {
    expect(shell('head -c 512 /dev/zero | "$V" convert -f qcow2 -O raw - never.raw').stderr).toBe('vdisk: Could not open standard input: Image is not in qcow2 format\n');
  });

  it('are not alone in saying that standard output is full', () => {
    const full = { status: 1, stderr: 'vdisk: error while writing to standard output: No space left on device\n' };
    expect(shell('"$V" convert -O raw source.qcow2 - > /dev/full')).toMatchObject(full);
    expect(shell('"$V" info --json source.qcow2 > /dev/full')).toMatchObject(full);
    expect(shell('"$V" info --json source.qcow2 >&-')).toMatchObject({ status: 0, stderr: '' });
  });

  it('are files of that name to the peers', () => {
    writeFileSync(folder.file('tiny.raw'), 'x'.repeat(512));
    folder.succeed(folder.tool('qemu-img'), ['convert', '-f', 'raw', '-O', 'raw', 'tiny.raw', '-']);
    expect(readFileSync(folder.file('-')).length).toBe(512);
  });
});
