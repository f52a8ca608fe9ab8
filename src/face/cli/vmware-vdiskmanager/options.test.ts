/** What vmware-vdiskmanager takes for a command line, and what it says of others. */
import { expect, test } from 'vitest';
import { CliError } from '../output.js';
import { parseOptions } from './options.js';

test.each([
    [['-c', 'x.vmdk'], '-c needs a size: -s 40GB'],
    [['-c', '-s', '1000', 'x.vmdk'], '-s 1000 is out of range: 1MB to 8192GB'],
    [['-c', '-s', '9000GB', 'x.vmdk'], '-s 9000GB is out of range: 1MB to 8192GB'],
    [['-c', '-s', '2041GB', '-a', 'buslogic', 'x.vmdk'], '-s 2041GB is out of range: 1MB to 2040GB'],
    [['-c', '-s', '1.5GB', 'x.vmdk'], "-s takes a number of sectors, or of KB, MB, GB or TB: not '1.5GB'"],
    [['-c', '-s', '10MB', '-a', 'nvme', 'x.vmdk'], "'nvme' is no adapter: ide, buslogic or lsilogic"],
    [['-c', '-s', '10MB', '-t', '7', 'x.vmdk'], "'7' is no type of disk: 0 to 6, see --help"],
    [['-c', '-s', '10MB', '-t', '5', 'x.vmdk'], 'A compressed stream is made with -r, from a disk that has content'],
    [['-r', 'a.vmdk', 'x.vmdk'], '-r needs the type of the new disk: -t 0'],
    [['-d', '-k', 'x.vmdk'], '-d and -k exclude each other'],
    [['-d', '-s', '1GB', 'x.vmdk'], '-s does not go with -d'],
    [['-n', 'a.vmdk'], '-n takes the old name and the new one'],
    [['-s', '1GB', 'x.vmdk'], 'What is to be done? One of -c -r -x -n -d -k -p -e -R -D -U is needed'],
    [['-e'], 'One disk is needed'],
    [['-y'], "invalid option -- 'y'"],
])('%j is not understood', (words, message) => {
  expect(() => parseOptions(words)).toThrow(expect.objectContaining({ constructor: CliError, exitCode: 2, message }) as Error);
});

test.each([
  ['850MB', 1_740_800], ['2kb', undefined], ['4096KB', 8192], ['1Tb', 2_147_483_648], ['204800', 204_800], ['8192GB', 17_179_869_184],
])('a size of %s', (text, sectors) => {
  const parse = (): unknown => parseOptions(['-c', '-s', text, 'disk.vmdk']);
  if (sectors === undefined) expect(parse).toThrow('is out of range: 1MB to 8192GB');
  else expect(parse()).toMatchObject({ operation: 'create', capacity: sectors, disk: 'disk.vmdk', diskType: 1, adapterType: 3 });
});

test('options stand before and behind the disk', () => {
  expect(parseOptions(['disk.vmdk', '-q', '-r', 'old.vmdk', '-t5'])).toEqual({
    operation: 'convert', source: 'old.vmdk', disk: 'disk.vmdk', diskType: 6, quiet: true, json: false, host: undefined, port: undefined,
  });
  expect(parseOptions([])).toEqual({ operation: 'help' });
});
