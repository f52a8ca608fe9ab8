/** Ctrl-C in the middle of vmware-vdiskmanager's work: the process ends by it, disks are as they were, nothing else is there. */
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ToolFolder, until } from '../support/our-tools.js';
import { havePeers } from '../support/peers.js';

const MiB = 1024 * 1024;
let folder: ToolFolder;
let manager: string;

beforeAll(() => {
  folder = new ToolFolder();
  manager = folder.tool('vmware-vdiskmanager');
});
afterAll(() => folder.remove());
beforeEach(() => mkdirSync(folder.file('work')));
afterEach(() => rmSync(folder.file('work'), { recursive: true }));

/** The files of the working folder, by name, and what they hold. */
function state(): Record<string, string> {
  return Object.fromEntries(readdirSync(folder.file('work')).sort()
    .map((name) => [name, createHash('sha256').update(readFileSync(folder.file(`work/${name}`))).digest('hex')]));
}

/** Runs the program, and interrupts it when it has come so far. Returns what it printed. */
async function interrupt(parameters: readonly string[], farEnough: (stdout: string) => boolean): Promise<string> {
  const { child, output, ended } = folder.start(manager, parameters);
  await until(() => child.exitCode !== null || farEnough(output.stdout), 'the middle of the work');
  child.kill('SIGINT');
  const { signal, status, stdout, stderr } = await ended;
  expect([signal, status, stderr]).toEqual(['SIGINT', null, '']);
  return stdout;
}

/** What takes room beside disk.vmdk. */
const newBytes = (): number => readdirSync(folder.file('work')).filter((name) => name !== 'disk.vmdk')
  .reduce((sum, name) => sum + 512 * (statSync(folder.file(`work/${name}`), { throwIfNoEntry: false })?.blocks ?? 0), 0);

/** Resolves when a value is the same for longer than a program takes to hear a signal, or the program has ended. */
async function standsStill(child: ChildProcess, value: () => number): Promise<void> {
  let [last, since] = [value(), performance.now()];
  await until(() => {
    if (value() !== last) [last, since] = [value(), performance.now()];
    return child.exitCode !== null || child.signalCode !== null || performance.now() - since > 500;
  }, 'the program to be held');
}

const extents = (): number => readdirSync(folder.file('work')).filter((name) => /-s\d+\.vmdk$/.test(name)).length;

describe.skipIf(!havePeers('qemu-img', 'qemu-io'))('Ctrl-C', () => {
  test('-c: no disk is there', async () => {
    expect(await interrupt(['-c', '-s', '8000GB', '-t', '1', 'work/new.vmdk'], () => extents() > 20)).toBe("Creating disk 'work/new.vmdk'\n\n");
    expect(state()).toEqual({});
  });

  test('-x: the disk is as large as before', async () => {
    folder.succeed(manager, ['-q', '-c', '-s', '20MB', '-t', '1', 'work/disk.vmdk']);
    folder.succeed('qemu-io', ['-f', 'vmdk', '-c', 'write -P 7 5M 1M', 'work/disk.vmdk']);
    const before = state();
    expect(await interrupt(['-x', '8000GB', 'work/disk.vmdk'], () => extents() > 20)).toBe('\n');
    expect(state()).toEqual(before);
    expect(folder.succeed('qemu-io', ['-f', 'vmdk', '-r', '-c', 'read -P 7 5M 1M', 'work/disk.vmdk'])).not.toContain('failed');
  });

  test.each([['-d', 'Defragment'], ['-k', 'Shrink']])('%s: the disk is as it was', async (option, title) => {
    folder.succeed(manager, ['-q', '-c', '-s', '512MB', '-t', '0', 'work/disk.vmdk']);
    folder.succeed(folder.tool('qemu-io'), ['-f', 'vmdk', '-c', 'write -P 9 256M 1M', '-c', 'write -P 8 0 200M', '-c', 'write -P 0 100M 20M', 'work/disk.vmdk']);
    const before = state();
    const line = `\r  ${title}: 10% done.`;
    const { child, release } = folder.startHeld(manager, [option, 'work/disk.vmdk'], 30 * line.length);
    await until(() => child.exitCode !== null || newBytes() > 20 * MiB, 'the new file');
    child.kill('SIGINT');
    await standsStill(child, newBytes);
    const { signal, status, stdout, stderr } = await release();
    expect([signal, status, stderr]).toEqual(['SIGINT', null, '']);
    expect(stdout).toMatch(new RegExp(`^(\\r {2}${title}: \\d?\\d% done\\.)+\\n$`));
    expect(state()).toEqual(before);
    expect(folder.succeed('qemu-img', ['check', 'work/disk.vmdk'])).toMatch(/No errors were found/);
    folder.succeed(manager, ['-q', option, 'work/disk.vmdk']);
    expect(folder.succeed('qemu-io', ['-f', 'vmdk', '-r', '-c', 'read -P 9 256M 1M', '-c', 'read -P 8 0 100M', '-c', 'read -P 0 100M 20M', 'work/disk.vmdk'])).not.toContain('failed');
  });
});
