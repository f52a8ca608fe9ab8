import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatNbdUri, parseNbdAddress } from './address.js';
import { getU64, putU64 } from './bytes.js';
import { Chunk, Command, OptionReply } from './constants.js';
import { errnoOfNbd, nbdErrnoOf } from './errors.js';
import * as handshake from './handshake.js';
import * as transmission from './transmission.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

describe('bytes', () => {
  it('keeps every u64 up to 2^53 and puts greater ones out of range', () => {
    const bytes = new Uint8Array(8);
    fc.assert(fc.property(fc.maxSafeNat(), (value) => {
      putU64(bytes, 0, value);
      return getU64(bytes, 0) === value && Number(Buffer.from(bytes).readBigUInt64BE()) === value;
    }));
    expect(getU64(new Uint8Array(8).fill(0xff), 0)).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
  });
});

describe('handshake', () => {
  it('lays out the greeting as the protocol document does', () => {
    expect(hex(handshake.encodeGreeting(3))).toBe('4e42444d41474943' + '49484156454f5054' + '0003');
    expect(handshake.decodeGreeting(handshake.encodeGreeting(3))).toBe(3);
    expect(() => handshake.decodeGreeting(new Uint8Array(18))).toThrow(handshake.NbdFormatError);
  });

  it('round-trips options and replies', () => {
    const option = handshake.encodeOption(7, handshake.encodeInfoRequest({ name: 'ä/b', infos: [1, 3] }));
    expect(handshake.decodeOptionHeader(option)).toEqual({ option: 7, length: option.length - 16 });
    expect(handshake.decodeInfoRequest(option.subarray(16))).toEqual({ name: 'ä/b', infos: [1, 3] });
    const reply = handshake.encodeOptionReply(7, OptionReply.UNKNOWN, new Uint8Array(3));
    expect(handshake.decodeOptionReplyHeader(reply)).toEqual({ option: 7, type: OptionReply.UNKNOWN, length: 3 });
    expect(handshake.isOptionError(OptionReply.UNKNOWN)).toBe(true);
    expect(handshake.isOptionError(OptionReply.META_CONTEXT)).toBe(false);
    const items: handshake.InfoItem[] = [
      { type: 'export', size: 2 ** 50 + 1, flags: 0x1ff }, { type: 'description', text: 'd' },
      { type: 'block-size', minimum: 1, preferred: 4096, maximum: 33554432 },
    ];
    for (const item of items) expect(handshake.decodeInfo(handshake.encodeInfo(item))).toEqual(item);
    const contexts = { name: '', queries: ['base:', 'qemu:dirty-bitmap:b'] };
    expect(handshake.decodeMetaContextRequest(handshake.encodeMetaContextRequest(contexts))).toEqual(contexts);
    expect(handshake.decodeServer(handshake.encodeServer('n', 'text'))).toEqual({ name: 'n', details: 'text' });
  });

  it('refuses lengths that do not add up, whatever the bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (data) => {
      for (const decode of [handshake.decodeInfoRequest, handshake.decodeMetaContextRequest, handshake.decodeServer, handshake.decodeInfo]) {
        try {
          decode(data);
        } catch (error) {
          if (!(error instanceof handshake.NbdFormatError)) return false;
        }
      }
      return true;
    }));
    const oneTooMany = handshake.encodeInfoRequest({ name: 'x', infos: [] });
    oneTooMany[oneTooMany.length - 1] = 1;
    expect(() => handshake.decodeInfoRequest(oneTooMany)).toThrow(handshake.NbdFormatError);
  });
});

describe('transmission', () => {
  it('round-trips requests of both sizes', () => {
    fc.assert(fc.property(fc.boolean(), fc.nat(0xffff), fc.nat(0xffff), fc.nat(), fc.nat(), fc.maxSafeNat(), fc.nat(), (extended, flags, type, high, low, offset, length) => {
      const request = { flags, type, cookieHigh: high, cookieLow: low, offset, length };
      const bytes = new Uint8Array(40);
      const end = transmission.encodeRequest(bytes, 3, extended, request);
      const decoded = transmission.emptyRequest();
      expect(transmission.decodeRequest(bytes, 3, extended, decoded)).toBe(true);
      expect(decoded).toEqual(request);
      expect(end).toBe(extended ? 35 : 31);
      expect(transmission.decodeRequest(bytes, 3, !extended, decoded)).toBe(false);
    }));
    const bytes = new Uint8Array(28);
    transmission.encodeRequest(bytes, 0, false, { flags: 1, type: Command.WRITE, cookieHigh: 0x01020304, cookieLow: 0x05060708, offset: 4096, length: 512 });
    expect(hex(bytes)).toBe('25609513' + '0001' + '0001' + '0102030405060708' + '0000000000001000' + '00000200');
  });

  it('round-trips reply headers', () => {
    const bytes = new Uint8Array(40);
    const reply = transmission.emptyReplyHeader();
    expect(transmission.putSimpleReply(bytes, 0, 5, 1, 2)).toBe(16);
    expect(transmission.decodeReplyHeader(bytes, 0, reply)).toBe(true);
    expect(reply).toEqual({ kind: 'simple', error: 5, flags: 0, type: 0, cookieHigh: 1, cookieLow: 2, offset: 0, length: 0 });
    expect(transmission.putStructuredReply(bytes, 0, 1, Chunk.OFFSET_DATA, 1, 2, 99)).toBe(20);
    expect(transmission.decodeReplyHeader(bytes, 0, reply)).toBe(true);
    expect(reply).toEqual({ kind: 'structured', error: 0, flags: 1, type: 1, cookieHigh: 1, cookieLow: 2, offset: 0, length: 99 });
    expect(transmission.putExtendedReply(bytes, 0, 1, Chunk.OFFSET_HOLE, 1, 2, 2 ** 40, 12)).toBe(32);
    expect(transmission.decodeReplyHeader(bytes, 0, reply)).toBe(true);
    expect(reply).toEqual({ kind: 'extended', error: 0, flags: 1, type: 2, cookieHigh: 1, cookieLow: 2, offset: 2 ** 40, length: 12 });
    expect(transmission.decodeReplyHeader(new Uint8Array(32), 0, reply)).toBe(false);
  });

  it('round-trips chunk payloads', () => {
    for (const extended of [false, true]) {
      const extents = [65536, 3, 4096, 0];
      const bytes = new Uint8Array(transmission.statusPayloadSize(extended, 2));
      expect(transmission.putStatus(bytes, 0, extended, 7, extents)).toBe(bytes.length);
      expect(transmission.decodeStatus(bytes, extended)).toEqual({ contextId: 7, extents });
      expect(() => transmission.decodeStatus(bytes.subarray(1), extended)).toThrow(handshake.NbdFormatError);
    }
    expect(transmission.decodeErrorPayload(Chunk.ERROR, transmission.encodeErrorPayload(28, 'full'))).toEqual({ error: 28, message: 'full' });
    expect(transmission.decodeErrorPayload(Chunk.ERROR_OFFSET, transmission.encodeErrorPayload(5, '', 512))).toEqual({ error: 5, message: '', offset: 512 });
    expect(transmission.decodeStatusFilter(transmission.encodeStatusFilter(2 ** 33, [1, 2]))).toEqual({ length: 2 ** 33, contextIds: [1, 2] });
    const hole = new Uint8Array(transmission.HOLE_PAYLOAD);
    transmission.putHole(hole, 0, 2 ** 33, 4096);
    expect(transmission.decodeHole(hole)).toEqual({ offset: 2 ** 33, length: 4096 });
  });
});

describe('addresses', () => {
  it.each([
    ['nbd://h', { type: 'inet', host: 'h', port: '10809' }, '', false],
    ['nbd://[::1]:1/a%20b', { type: 'inet', host: '::1', port: '1' }, 'a b', false],
    ['nbds://h:5//x/y', { type: 'inet', host: 'h', port: '5' }, '/x/y', true],
    ['nbd+unix:///x?socket=/tmp/s', { type: 'unix', path: '/tmp/s' }, 'x', false],
    ['nbd+unix://?socket=/tmp/s', { type: 'unix', path: '/tmp/s' }, '', false],
    ['nbd:h:5', { type: 'inet', host: 'h', port: '5' }, '', false],
    ['nbd:[::1]:1:exportname=a:b', { type: 'inet', host: '::1', port: '1' }, 'a:b', false],
    ['nbd:unix:/tmp/s:exportname=x', { type: 'unix', path: '/tmp/s' }, 'x', false],
  ])('reads %s', (text, server, exportName, tls) => {
    expect(parseNbdAddress(text)).toEqual({ server, exportName, tls, parameters: {} });
  });

  it.each([
    ['nbd:', 'NBD server address missing'], ['nbd:unix:/tmp/s:exportname=', 'NBD server address missing'], ['nbd:foo', "error parsing address 'foo'"], ['nbd+unix:///x', 'No valid URL specified'],
    ['nbd+unix://h/x?socket=/y', 'No valid URL specified'], ['nbd://h:70000/', 'No valid URL specified'], ['nbd://h/%zz', 'No valid URL specified'],
  ])('refuses %s in QEMU\'s words', (text, message) => {
    expect(() => parseNbdAddress(text)).toThrow(message);
  });

  it('writes what it reads', () => {
    for (const [server, name] of [
      [{ type: 'inet', host: '::1', port: '7' }, 'a b?c#d'], [{ type: 'unix', path: '/tmp/s p' }, 'x'], [{ type: 'inet', host: 'h', port: '10809' }, ''],
    ] as const) expect(parseNbdAddress(formatNbdUri(server, name, true))).toEqual({ server, exportName: name, tls: true, parameters: {} });
  });
});

it('maps errno numbers to those NBD knows', () => {
  expect([1, 30, 5, 28, 95, 2].map(nbdErrnoOf)).toEqual([1, 1, 5, 28, 95, 22]);
  expect([5, 108, 4711].map(errnoOfNbd)).toEqual([5, 108, 22]);
});
