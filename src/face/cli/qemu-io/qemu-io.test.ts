import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { BlockGraph } from '../../../block/graph.js';
import { createRegistry } from '../../../drivers.js';
import type { CommandIo } from './command.js';
import { runCommand } from './run.js';
import { formatQuantity, parsePattern, parseQuantity } from './values.js';

const folder = mkdtempSync(join(tmpdir(), 'qemu-io-'));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'source'), 'abc\n');
writeFileSync(join(folder, 'empty'), '');

/** Runs command lines on a 1 MiB disk; times and rates are replaced. */
async function run(lines: readonly string[], options: Record<string, unknown> = { driver: 'raw', file: { driver: 'memory', size: 1 << 20 } }, readOnly = false):
Promise<{ out: string; err: string; succeeded: boolean[] }> {
  const graph = new BlockGraph({ drivers: createRegistry(), gate: () => true });
  const texts = { out: '', err: '' };
  const io: CommandIo = { out: (text) => { texts.out += text; }, err: (text) => { texts.err += text; }, program: 'qemu-io' };
  const backend = await graph.openBackend(options, { discard: 'unmap', readOnly, take: readOnly ? 1 : 3, share: 15 });
  const succeeded: boolean[] = [];
  for (const line of lines) succeeded.push(await runCommand(graph, backend, line, io));
  await backend.close().catch(() => undefined);
  return { ...texts, out: texts.out.replaceAll(/ops; .*/g, 'ops; T').replaceAll(/^(\d+,1,0:00:00)\..*$/gm, '$1'), succeeded };
}

describe('requests', () => {
  it.each([
    ['write 0 64k', 'wrote 65536/65536 bytes at offset 0\n64 KiB, 1 ops; T\n'],
    ['w 512 1k', 'wrote 1024/1024 bytes at offset 512\n1 KiB, 1 ops; T\n'],
    ['write -q 0 512', ''], ['write -C 0 512', '512,1,0:00:00\n'], ['write 0 0', 'wrote 0/0 bytes at offset 0\n0 bytes, 1 ops; T\n'],
    ['writev 0 512 1k', 'wrote 1536/1536 bytes at offset 0\n1.500 KiB, 1 ops; T\n'],
    ['write -zu 0 4k', 'wrote 4096/4096 bytes at offset 0\n4 KiB, 1 ops; T\n'],
    ['discard 0 4k', 'discard 4096/4096 bytes at offset 0\n4 KiB, 1 ops; T\n'],
    ['aio_write 0 512', 'wrote 512/512 bytes at offset 0\n512 bytes, 1 ops; T\n'],
    ['aio_write -z 0 512', 'wrote 512/512 bytes at offset 0\n512 bytes, 1 ops; T\n'],
    ['aio_read -v 0 2', '00000000:  00 00  ..\nread 2/2 bytes at offset 0\n2 bytes, 1 ops; T\n'],
    ['aio_read -i 0 512', 'injecting invalid read request\n'],
    ['length', '1 MiB\n'], ['map', '1 MiB (0x100000) bytes     allocated at offset 0 bytes (0x0)\n'], ['flush', ''],
    ['alloc 0', '512/512 bytes allocated at offset 0 bytes\n'], ['alloc 1023k 4k', '1024/1024 bytes allocated at offset 1023 KiB\n'],
    ['', ''], ['   ', ''], ['truncate -m off 2M', ''], ['sleep 1', ''], ['aio_flush', ''], ['read -qv 0 4', ''],
  ])('%s', async (line, expected) => {
    const { out, err, succeeded } = await run([line]);
    expect({ out, err, succeeded }).toEqual({ out: expected, err: '', succeeded: [true] });
  });

  it.each([
    ['write 1M 512', 'write failed: Input/output error\n'], ['readv 1M 512', 'readv failed: Input/output error\n'],
    ['write 0 xyz', 'Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- xyz\n'],
    ['write -- -1 512', 'Parsing error: argument too large -- -1\n'], ['read 9223372036854775808 1', 'Parsing error: argument too large -- 9223372036854775808\n'],
    ['write -P 256 0 512', '256 is not a valid pattern byte\n'], ['write -P 08 0 512', '08 is not a valid pattern byte\n'], ['write -u 0 4k', '-u requires -z to be specified\n'],
    ['write -z -P 5 0 512', 'Only one of -z, -P, and -s can be specified at the same time\n'],
    ['write -c 0 512', 'write failed: Operation not supported\n'], ['write -b 1 512', "1 is not a sector-aligned value for 'offset'\n"],
    ['read -b 0 512', 'read failed: Operation not supported\n'], ['write 0 3G', 'length cannot exceed 2147483136 without -n, given 3G\n'],
    ['discard 0 3G', 'length cannot exceed 2147483136, given 3G\n'], ['readv 0 2G', "Argument '2G' exceeds maximum size 2147483136\n"],
    ['read -P 0 -s 600 0 512', 'pattern verification range exceeds end of read data\n'],
    ['read -s 1 0 512', 'read [-abCqrv] [-P pattern [-s off] [-l len]] off len -- reads a number of bytes at a specified offset\n'],
    ['break pwritev A', 'Could not set breakpoint: Operation not supported\n'], ['sleep x', 'x is not a valid number\n'],
    ['info', 'format name: raw\n'], ['zone_report 0 1', 'zone report failed: Operation not supported\n'], ['help foo', 'command foo not found\n'],
  ])('%s fails', async (line, expected) => {
    const { out, err, succeeded } = await run([line]);
    expect({ out, err, succeeded }).toEqual({ out: expected, err: '', succeeded: [false] });
  });

  it.each([
    ['write', 'bad argument count 0 to write, expected at least 2 arguments\n'], ['flush x', 'bad argument count 1 to flush, expected 0 arguments\n'],
    ['alloc 1 2 3', 'bad argument count 3 to alloc, expected between 1 and 2 arguments\n'], ['foo bar', 'command "foo" not found\n'],
    ['truncate -m foo 3M', "qemu-io: Invalid preallocation mode 'foo'\n"], ['reopen -o foo=bar', "qemu-io: Cannot change the option 'foo'\n"],
    ['reopen -rw', 'qemu-io: Only one -r/-w option may be given\n'], ['reopen -c foo', 'qemu-io: Invalid cache option: foo\n'],
    [`write -s ${folder}/none 0 512`, `${folder}/none: No such file or directory\n`], [`write -s ${folder}/empty 0 512`, `${folder}/empty: file is empty\n`],
  ])('%s is refused on standard error', async (line, expected) => {
    const { out, err, succeeded } = await run([line]);
    expect({ out, err, succeeded }).toEqual({ out: '', err: expected, succeeded: [false] });
  });

  it('names wrong options and shows the usage', async () => {
    const { out, err } = await run(['discard -x 0 512']);
    expect(err).toBe("discard: invalid option -- 'x'\n");
    expect(out).toBe('discard [-Cq] off len -- discards a number of bytes at a specified offset\n');
  });

  it('verifies patterns: all, or the part asked for', async () => {
    const { out, succeeded } = await run(['write -q -P 7 100 50', 'read -q -P 7 100 50', 'read -q -P 7 0 512', 'read -q -P 0x7 -s 100 -l 50 0 512', 'read -q -P 0 150 362']);
    expect(out).toBe('Pattern verification failed at offset 0, 512 bytes\n');
    expect(succeeded).toEqual([true, true, false, true, true]);
  });

  it('repeats a source file and dumps letters and digits', async () => {
    const { out } = await run([`write -q -s ${folder}/source 0 18`, 'read -v 0 18']);
    expect(out).toContain('00000000:  61 62 63 0a 61 62 63 0a 61 62 63 0a 61 62 63 0a  abc.abc.abc.abc.\n00000010:  61 62  ab\n');
  });

  it('refuses changes of a read-only image', async () => {
    const lines = ['write 0 512', 'discard 0 512', 'aio_write 0 512', 'truncate 2M', 'read -q 0 512', 'reopen -w', 'write -q 0 512'];
    const { err, succeeded } = await run(lines, undefined, true);
    expect(err).toBe('qemu-io: Block node is read-only\n'.repeat(4));
    expect(succeeded).toEqual([false, false, false, false, true, true, true]);
  });

  it('says how a request in the background ended, which is no failure of the command', async () => {
    const { out, succeeded } = await run(['aio_write 1M 512', 'aio_read 1M 512', 'aio_read -q -P 9 0 512']);
    expect(out).toBe('aio_write failed: Input/output error\nreadv failed: Input/output error\nPattern verification failed at offset 0, 512 bytes\n');
    expect(succeeded).toEqual([true, true, true]);
  });

  it('finds a blkdebug layer below', async () => {
    const { out } = await run(['break foo A', 'break pwritev A', 'remove_break A', 'remove_break A', 'resume A'], {
      driver: 'raw', file: { driver: 'blkdebug', image: { driver: 'memory', size: 1 << 20 } },
    });
    expect(out).toBe('Could not set breakpoint: No such file or directory\nCould not remove breakpoint A: No such file or directory\nCould not resume request: No such file or directory\n');
  });

  it('lists its commands in order, with their usage', async () => {
    const { out } = await run(['help']);
    const names = out.split('\n').slice(0, -3).map((line) => line.split(' ')[0]);
    expect(names).toEqual([...names].sort());
    expect(names).toContain('zone_append');
    expect(out).toMatch(/\n\nUse 'help commandname' for extended help\.\n$/);
  });
});

describe('values', () => {
  it.each([
    [0, '0 bytes'], [513, '513 bytes'], [1024, '1 KiB'], [1536, '1.500 KiB'], [1047552, '1023 KiB'], [67648, '66.062 KiB'], [0.329888, '0.329888 bytes'],
    [2 ** 60, '1 EiB'], [101207244.8, '96.519 MiB'],
  ])('%d reads %s', (value, text) => expect(formatQuantity(value)).toBe(text));
  it('reads patterns as C does', () => expect(['10', '010', '0x10', '0'].map(parsePattern)).toEqual([10, 8, 16, 0]));
  it('reads sizes up to 2^63 - 1', () => expect(parseQuantity('9223372036854775807')).toBe(2 ** 63));
});
