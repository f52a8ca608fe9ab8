/** Work on images in place that is cut short by a signal: the disk a user sees stays what it was, and its images sound. */
import { copyFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ToolFolder, until } from '../support/our-tools.js';
import { randomBytes } from '../support/seed.js';

const MiB = 1 << 20;
let folder: ToolFolder;
const qemuImg = (...parameters: readonly string[]): string => folder.succeed(folder.tool('qemu-img'), parameters);

beforeAll(() => {
  folder = new ToolFolder();
  const size = 64 * MiB;
  writeFileSync(folder.file('old.raw'), randomBytes(size));
  writeFileSync(folder.file('new.raw'), randomBytes(size));
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', folder.file('old.raw'), folder.file('base.qcow2'));
  qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', folder.file('overlay.qcow2'));
  folder.succeed(folder.tool('qemu-io'), ['-f', 'qcow2', '-c', 'write -P 7 10M 20M', folder.file('overlay.qcow2')]);
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', folder.file('overlay.qcow2'), folder.file('seen.raw'));
});
afterAll(() => folder.remove());

describe.each([
  ['commit', [], 'base.qcow2'],
  ['rebase', ['-b', 'new.raw', '-F', 'raw'], 'overlay.qcow2'],
] as const)('%s', (verb, options, changing) => {
  it.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('%s', async (signal) => {
    const images = ['base.qcow2', 'overlay.qcow2'];
    for (const name of images) copyFileSync(folder.file(name), folder.file(`kept-${name}`));
    utimesSync(folder.file(changing), 0, 0);
    const { child, release } = folder.startHeld(folder.tool('qemu-img'), [verb, '-p', ...options, '-f', 'qcow2', folder.file('overlay.qcow2')], 5 * '    (12.34/100%)\r'.length);
    await until(() => statSync(folder.file(changing)).mtimeMs > 0 || child.exitCode !== null, `${verb} to write`);
    child.kill(signal);
    expect((await release()).signal).toBe(signal);
    for (const name of images) expect([0, 3]).toContain(folder.run(folder.tool('qemu-img'), ['check', '-f', 'qcow2', folder.file(name)]).status);
    qemuImg('compare', '-f', 'qcow2', '-F', 'raw', folder.file('overlay.qcow2'), folder.file('seen.raw'));
    qemuImg(verb, ...options, '-f', 'qcow2', folder.file('overlay.qcow2'));
    qemuImg('compare', '-f', 'qcow2', '-F', 'raw', folder.file('overlay.qcow2'), folder.file('seen.raw'));
    for (const name of images) copyFileSync(folder.file(`kept-${name}`), folder.file(name));
  });
});
