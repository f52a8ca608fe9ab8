import { describe, expect, it } from 'vitest';
import { parseOptions } from './options.js';

describe('qemu-nbd options', () => {
  it('reads what scripts say', () => {
    expect(parseOptions(['-t', '-e', '0', '-k', '/s', '-f', 'qcow2', '-rAx', 'name', '--bitmap=b', '-B', 'c', '--cache', 'none', 'disk'])).toMatchObject({
      persistent: true, shared: 0, socket: '/s', format: 'qcow2', readOnly: true, allocationDepth: true, exportName: 'name', bitmaps: ['c', 'b'],
      cache: { direct: true }, files: ['disk'],
    });
    expect(parseOptions(['-l', 'snap', 'disk'])).toMatchObject({ loadSnapshot: 'snap', readOnly: true });
  });

  // Texts of qemu-nbd 10.0.2.
  it.each([
    [[], 'Invalid number of arguments'],
    [['a', 'b'], 'Invalid number of arguments'],
    [['-k', 'rel', 'a'], 'socket path must be absolute'],
    [['-e', '-1', 'a'], "Invalid shared device number '-1'"],
    [['-o', '20M', 'a'], "Invalid offset '20M'"],
    [['-p', 'x', 'a'], 'address resolution failed for 0.0.0.0:x: Servname not supported for ai_socktype'],
    [['-p', '70000', 'a'], "Invalid port '70000'"],
    [['-l', 'snapshot.foo=1', 'a'], "Invalid parameter 'snapshot.foo'"],
    [['--cache=foo', 'a'], "Invalid cache mode `foo'"],
    [['-n', '--cache', 'none', 'a'], '-n and --cache can only be specified once'],
    [['--aio=foo', 'a'], "Invalid aio mode 'foo'"],
    [['--aio=native', 'a'], "Failed to blk_new_open 'a': aio=native was specified, but it requires cache.direct=on, which was not specified."],
    [['--discard=x', 'a'], "Invalid discard mode `x'"],
    [['--detect-zeroes=x', 'a'], 'Failed to parse detect_zeroes mode: invalid parameter value: x'],
    [['--detect-zeroes=unmap', 'a'], 'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap'],
    [['-L', 'a'], 'List mode is incompatible with a file name'],
    [['-L', '-x', 'a'], 'List mode is incompatible with per-device settings'],
    [['-L', '--fork'], 'List mode is incompatible with forking'],
    [['-o', '-1', 'a'], "Value '-1' is out of range for parameter 'offset'"],
    [['--tls-authz', 'x', 'a'], '--tls-authz is not permitted without --tls-creds'],
    [['-L', '--tls-creds', 't', '--tls-authz', 'x'], 'TLS authorization is incompatible with export list'],
    [['--tls-hostname', 'x', 'a'], '--tls-hostname is not permitted without --tls-creds'],
    [['--image-opts', '-f', 'raw', 'a'], '--image-opts and -f are mutually exclusive'],
    [['--foo'], "unrecognized option '--foo'"],
    [['-c', '/dev/nbd0', 'a'], 'Kernel NBD devices (-c, -d) are not supported; serve on a socket and attach it with nbd-client'],
  ])('complains about %j', (argv, message) => {
    expect(() => parseOptions(argv)).toThrow(expect.objectContaining({ name: 'CliError', message }));
  });
});
