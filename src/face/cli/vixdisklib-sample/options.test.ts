/** What vixdisklib-sample takes for a command line, and what it says of others. */
import { expect, test } from 'vitest';
import { CliError } from '../output.js';
import { parseOptions } from './options.js';

test.each([
    [['s.vmdk'], 'A command is needed'],
    [['-info', '-dump', 's.vmdk'], '-info and -dump exclude each other'],
    [['-info'], 'One disk is needed'],
    [['-fill', '-val', '256', 's.vmdk'], "-val takes a number from 0 to 255, not '256'"],
    [['-wmeta', 'key'], '-wmeta takes 2 words'],
    [['-frob', 's.vmdk'], "'-frob' is no option"],
    [['-info', '-thumb', 'aa', 's.vmdk'], 'Which server? -host NAME'],
    [['-info', '-ssmoref', 'snapshot-1', 's.vmdk'], 'Which server? -host NAME'],
])('%j is not understood', (words, message) => {
  expect(() => parseOptions(words)).toThrow(expect.objectContaining({ constructor: CliError, exitCode: 2, message }) as Error);
});

test('a disk of a server', () => {
  expect(parseOptions(['-fill', '-host', 'h', '-mode', 'nbdssl:nbd', '-vm', 'moref=vm-1', '-user', 'u', '-password', 'p', '-count', '0x10', '[ds] a/b.vmdk'])).toMatchObject({
    command: 'fill', disk: '[ds] a/b.vmdk', modes: 'nbdssl:nbd', readOnly: false, flags: 0, count: 16,
    params: { serverName: 'h', vmxSpec: 'moref=vm-1', creds: { userName: 'u', password: 'p' } },
  });
});

test('commands that only look open for reading', () => {
  for (const command of ['info', 'dump', 'meta', 'getallocatedblocks']) expect(parseOptions([`-${command}`, 'd.vmdk'])).toMatchObject({ readOnly: true, flags: 4, params: null });
  expect(parseOptions(['-wmeta', '-k', '-v', '-single', 'd.vmdk'])).toMatchObject({ words: ['-k', '-v'], readOnly: false, flags: 2 });
});
