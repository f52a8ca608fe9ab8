import { afterEach, expect, it } from 'vitest';
import { allDrivers } from '../../drivers.js';
import { captureOut, describeFailure, setProgram } from './output.js';
import { main } from './vdisk.js';

afterEach(() => setProgram('vdisk'));

async function said(...argv: string[]): Promise<string> {
  const output = captureOut();
  try {
    await main(argv);
    return output();
  } catch (error) {
    return output() + (describeFailure(error).message ?? '');
  }
}

it('tells all formats in its help', async () => {
  const help = await said('--help');
  const listed = /^Formats.*\n(.*)$/m.exec(help)![1]!.split(/[^\w-]+/);
  for (const { name, kind } of allDrivers) if (kind === 'format') expect(listed).toContain(name);
  expect(await said('help')).toBe(help);
});

it('explains a verb, asked in either way', async () => {
  expect(await said('help', 'check')).toMatch(/^usage: vdisk check /);
  expect(await said('help', 'check')).toBe(await said('check', '--help'));
});

it('says once what the peers say twice', async () => {
  expect(await said('info', 'nope')).toBe("Could not open 'nope': No such file or directory");
  expect(await said('qemu-img', 'info', 'nope')).toBe("Could not open 'nope': Could not open 'nope': No such file or directory");
});
