/** What vmware-mount takes for a command line, and what it says of others. */
import { expect, test } from 'vitest';
import { CliError } from '../output.js';
import { parseOptions } from './options.js';

test.each([
    [['-p'], '-p takes the name of a disk'],
    [['-p', 'a', '-L'], '-p and -L exclude each other'],
    [['parts.vmdk'], 'A disk, the number of a partition, and a directory are needed'],
    [['parts.vmdk', 'one', 'mnt'], "'one' is no number of a partition"],
    [['-v', '[ds] vm.vmx', '-h', 'x'], 'Disks on a server cannot be mounted (-v); name an NBD address of the disk instead'],
])('%j is not understood', (words, message) => {
  expect(() => parseOptions(words)).toThrow(expect.objectContaining({ constructor: CliError, exitCode: 2, message }) as Error);
});

test('a partition, the first one, the whole disk', () => {
  const common = { action: 'mount', disk: 'd.vmdk', folder: 'm', readOnly: false };
  expect(parseOptions(['d.vmdk', '2', 'm'])).toEqual({ ...common, partition: 2 });
  expect(parseOptions(['d.vmdk', 'm', '-r', '-o', 'uid=5'])).toEqual({ ...common, partition: 1, readOnly: true, mountOptions: 'uid=5' });
  expect(parseOptions(['-f', 'd.vmdk', 'm'])).toEqual({ ...common, partition: 'flat' });
  expect(parseOptions(['-K', 'd.vmdk'])).toEqual({ action: 'close', disk: 'd.vmdk', force: true });
});
