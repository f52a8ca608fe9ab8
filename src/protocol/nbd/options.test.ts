import { describe, expect, test } from 'vitest';
import { nbdFilename, parseNbdFilename, serverAddress } from './options.js';

describe('file names', () => {
  const inet = (host: string, port: string): object => ({ type: 'inet', host, port });
  test.each<[string, object]>([
    ['nbd://host', { server: inet('host', '10809') }],
    ['nbd+tcp://host:10/', { server: inet('host', '10') }],
    ['nbd://host:10/a%20b/c', { server: inet('host', '10'), export: 'a b/c' }],
    ['nbd://[::1]:11/x', { server: inet('::1', '11'), export: 'x' }],
    ['nbd+unix:///?socket=/a/b', { server: { type: 'unix', path: '/a/b' } }],
    ['nbd+unix:///name?socket=/a/b', { server: { type: 'unix', path: '/a/b' }, export: 'name' }],
    ['nbd:host:10', { server: inet('host', '10') }],
    ['nbd:host:10:exportname=x:y', { server: inet('host', '10'), export: 'x:y' }],
    ['nbd:unix:/a/b:exportname=x', { server: { type: 'unix', path: '/a/b' }, export: 'x' }],
    ['nbds://host/x?tls-creds=tls0&tls-hostname=other', { server: inet('host', '10809'), export: 'x', 'tls-creds': 'tls0', 'tls-hostname': 'other' }],
  ])('%s', (name, options) => expect(parseNbdFilename(name)).toEqual(options));

  test.each([
    ['nbd+unix:///x', 'No valid URL specified'],
    ['nbd://host?socket=/a', 'No valid URL specified'],
    ['nbd://host/x?y=1', 'No valid URL specified'],
    ['nbd+unix:///x?socket=/a&tls-hostname=h', 'No valid URL specified'],
    ['nbds://host/x?tls-psk-file=keys', "'nbds' has no parameter 'tls-psk-file', but tls-creds=ID and tls-hostname=NAME"],
    ['nbd:', 'NBD server address missing'],
    ['nbd:host', "error parsing address 'host'"],
    ['nbds://host/', "'nbds' needs TLS credentials: name them with tls-creds=ID"],
  ])('%s is refused', (name, message) => expect(() => parseNbdFilename(name)).toThrow(message));
});

describe('the server', () => {
  test('newer and older forms', () => {
    expect(serverAddress({ server: { type: 'inet', host: 'h', port: 5 } })).toEqual({ type: 'inet', host: 'h', port: '5' });
    expect(serverAddress({ host: 'h' })).toEqual({ type: 'inet', host: 'h', port: '10809' });
    expect(serverAddress({ path: '/p' })).toEqual({ type: 'unix', path: '/p' });
  });

  test.each<[object, string]>([
    [{}, 'NBD server address missing'],
    [{ port: '1' }, 'NBD server address missing'],
    [{ host: 'h', path: '/p' }, 'path and host may not be used at the same time'],
    [{ server: { type: 'inet', host: 'h' } }, "Parameter 'port' is missing"],
    [{ server: { host: 'h' } }, "Parameter 'type' is missing"],
    [{ server: { type: 'foo' } }, "Parameter 'type' does not accept value 'foo'"],
    [{ server: { type: 'inet', host: 'h', port: '1', bogus: 1 } }, "Parameter 'bogus' is unexpected"],
  ])('%j: %s', (options, message) => expect(() => serverAddress(options)).toThrow(message));
});

test('the name a node shows is the one qemu-img shows', () => {
  expect(nbdFilename({ type: 'inet', host: '127.0.0.1', port: '10809' }, '')).toBe('nbd://127.0.0.1:10809');
  expect(nbdFilename({ type: 'inet', host: '::1', port: '1' }, 'a b')).toBe('nbd://::1:1/a b');
  expect(nbdFilename({ type: 'unix', path: '/s' }, 'ex/a b?c')).toBe('nbd+unix:///ex/a b?c?socket=/s');
});
