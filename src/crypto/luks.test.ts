import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { BlockError } from '../block/errors.js';
import { openLuks } from './luks.js';
import { createLuks1, openLuks1 } from './luks1.js';
import { createLuks2, Luks2Volume, openLuks2 } from './luks2.js';
import { parseLuks2, serialiseLuks2, type JsonObject, type Luks2Header } from './luks2-header.js';
import { chooseCipher } from './cipher-names.js';
import type { AmendKeys, HeaderStore } from './luks-volume.js';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const cipher = { keySize: 32, mode: 'xts', ivGenerator: 'plain64' } as const;

function storeOf(image: Uint8Array): HeaderStore {
  return {
    size: image.length,
    read: (offset, target) => target.set(image.subarray(offset, offset + target.length)),
    write: (offset, source) => image.set(source, offset),
    flush: () => undefined,
  };
}
const newLuks1 = (passphrase: string): Promise<Uint8Array> => createLuks1({ cipher, hash: 'sha256', passphrase: bytes(passphrase), iterTime: 1, detached: false });
const newLuks2 = (passphrase: string): Promise<Uint8Array> =>
  createLuks2({ cipher, hash: 'sha256', passphrase: bytes(passphrase), iterTime: 1, detached: false, sectorSize: 512, kdf: 'pbkdf2' });

describe('a LUKS1 header', async () => {
  const image = await newLuks1('open');
  // What qemu-img 10 says of the same damage.
  it.each<[string, number, number[], string]>([
    ['no magic', 0, [0], 'Volume is not in LUKS format'],
    ['another version', 6, [0, 3], 'LUKS version 3 is not supported'],
    ['another cipher', 8, [0x58, 0x59, 0x5a], "Algorithm 'XYZ' with key size 32 bytes not supported"],
    ['another mode', 40, [0x58, 0x59, 0x5a], "Cipher mode 'XYZ' not supported"],
    ['another IV generator', 40, [...bytes('xts-foo\0')], "IV generator 'foo' not supported"],
    ['another IV hash', 40, [...bytes('cbc-essiv:foo\0')], "Hash algorithm 'foo' not supported"],
    ['another hash', 72, [0x58, 0x59, 0x5a], "Hash algorithm 'XYZ256' not supported"],
    ['a payload within the header', 104, [0, 0, 0, 1], 'LUKS payload is overlapping with the header'],
    ['a payload within its 4 KiB', 104, [0, 0, 0, 7], 'LUKS payload is overlapping with the header'],
    ['a payload within the last 4 KiB of key material', 104, [0, 0, 0x0f, 0xc7], 'Keyslot 7 is overlapping with the encrypted payload'],
    ['an odd key size', 108, [0, 0, 0, 0x11], "Algorithm 'aes' with key size 8 bytes not supported"],
    ['no iterations', 164, [0, 0, 0, 0], 'LUKS key iteration count is zero'],
    ['an unknown state', 208, [0x12, 0x34, 0x56, 0x78], 'Keyslot 0 state (active/disable) is corrupted'],
    ['no iterations in a keyslot', 212, [0, 0, 0, 0], 'Keyslot 0 iteration count is zero'],
    ['key material in the header', 248, [0, 0, 0, 0], 'Keyslot 0 is overlapping with the LUKS header'],
    ['key material in its 4 KiB', 248, [0, 0, 0, 7], 'Keyslot 0 is overlapping with the LUKS header'],
    ['key material in the payload', 248, [0x7f, 0xff, 0xff, 0xff], 'Keyslot 0 is overlapping with the encrypted payload'],
    ['key material twice', 248, [0, 0, 2, 0], 'Keyslots 0 and 1 are overlapping in the header'],
    ['key material in one 4 KiB with the next', 248, [0, 0, 0, 9], 'Keyslots 0 and 1 are overlapping in the header'],
    ['other stripes', 252, [0xff, 0xff, 0xff, 0xff], 'Keyslot 0 is corrupted (stripes -1 != 4000)'],
    ['an endless name', 8, Array.from({ length: 32 }, () => 0x61), 'LUKS header cipher name is not NUL terminated'],
  ])('with %s is refused', async (_what, offset, patch, message) => {
    const copy = image.slice();
    copy.set(patch, offset);
    await expect(openLuks(storeOf(copy))).rejects.toThrow(message);
  });

  it('shorter than its key material opens for nobody', async () => {
    expect(await (await openLuks1(storeOf(image.slice(0, 100_000)), false)).unlock(bytes('open'))).toBeUndefined();
  });
});

describe.each([['LUKS1', newLuks1, (store: HeaderStore) => openLuks1(store, false)], ['LUKS2', newLuks2, (store: HeaderStore) => openLuks2(store, false)]] as const)('keyslots of %s', (name, make, open) => {
  it('come and go by the rules of the peer', async () => {
    const store = storeOf(await make('first'));
    const volume = (await (await open(store)).unlock(bytes('first')))!;
    const amend = (change: Partial<AmendKeys>): Promise<void> => volume.amend({ state: 'active', force: false, ...change });
    const opens = async (passphrase: string): Promise<boolean> => (await (await open(store)).unlock(bytes(passphrase))) !== undefined;
    expect(await opens('second')).toBe(false);
    await amend({ newPassphrase: () => bytes('second'), iterTime: 1 });
    expect([await opens('first'), await opens('second')]).toEqual([true, true]);
    await expect(amend({})).rejects.toThrow("'new-secret' is required to activate a keyslot");
    await expect(amend({ newPassphrase: () => bytes('x'), keyslot: 1 })).rejects.toThrow('Refusing to overwrite active keyslot 1 - please erase it first');
    await expect(amend({ newPassphrase: () => bytes('x'), keyslot: -1 })).rejects.toThrow('Invalid keyslot 4294967295 specified');
    await expect(amend({ state: 'inactive' })).rejects.toThrow('To erase keyslot(s), either explicit keyslot index or the password');
    await expect(amend({ state: 'inactive', keyslot: 5 })).rejects.toThrow('Given keyslot 5 is already erased (inactive) ');
    await expect(amend({ state: 'inactive', keyslot: 0, oldPassphrase: () => bytes('second') })).rejects.toThrow("Given keyslot 0 doesn't contain the given old password");
    await expect(amend({ state: 'inactive', oldPassphrase: () => bytes('x') })).rejects.toThrow('No keyslots match given (old) password for erase operation');
    await amend({ state: 'inactive', oldPassphrase: () => bytes('first') });
    expect([await opens('first'), await opens('second')]).toEqual([false, true]);
    await expect(amend({ state: 'inactive', keyslot: 1 })).rejects.toThrow('Attempt to erase the only active keyslot 1');
    await expect(amend({ state: 'inactive', oldPassphrase: () => bytes('second') })).rejects.toThrow('All the active keyslots match the (old) password');
    await amend({ newPassphrase: () => bytes('third'), keyslot: 1, iterTime: 1, force: true });
    expect([await opens('second'), await opens('third')]).toEqual([false, true]);
    await amend({ state: 'inactive', keyslot: 1, force: true });
    expect(await opens('third')).toBe(false);
  });

  it('leave nothing of the key behind', async () => {
    const image = await make('first');
    const before = image.slice();
    const volume = (await (await open(storeOf(image))).unlock(bytes('first')))!;
    await volume.amend({ state: 'active', newPassphrase: () => bytes('second'), iterTime: 1, force: false });
    await volume.amend({ state: 'inactive', keyslot: 0, force: false });
    // the header as it was, over what the key material is now
    image.set(before.subarray(0, name === 'LUKS2' ? 32_768 : 4096));
    expect(await (await open(storeOf(image))).unlock(bytes('first'))).toBeUndefined();
  });
});

describe('a LUKS2 header', () => {
  const read = (image: Uint8Array): Luks2Header => parseLuks2(image.subarray(0, 16_384))!;

  it('is found in its second copy where the first is damaged, and the newer one counts', async () => {
    const image = await newLuks2('open');
    const damaged = image.slice();
    damaged[5000]! ^= 1;
    expect(await (await openLuks2(storeOf(damaged), false)).unlock(bytes('open'))).toBeDefined();
    damaged[16_384 + 5000]! ^= 1;
    await expect(openLuks2(storeOf(damaged), false)).rejects.toThrow('Both copies of the LUKS2 header are damaged');
    const volume = (await (await openLuks2(storeOf(image), false)).unlock(bytes('open')))!;
    const old = image.slice(0, 16_384);
    await volume.amend({ state: 'active', newPassphrase: () => bytes('more'), iterTime: 1, force: false });
    image.set(old);
    expect(await (await openLuks2(storeOf(image), false)).unlock(bytes('more'))).toBeDefined();
  });

  it.each<[string, (metadata: JsonObject) => JsonObject]>([
    ["LUKS2 requirement 'online-reencrypt-v2' is not supported",
      (metadata) => ({ ...metadata, config: { ...(metadata['config'] as JsonObject), requirements: { mandatory: ['online-reencrypt-v2'] } } })],
    ['LUKS2 with data integrity protection is not supported', (metadata) => {
      const { 0: segment } = metadata['segments'] as { 0: JsonObject };
      return { ...metadata, segments: { 0: { ...segment, integrity: { type: 'hmac(sha256)', journal_encryption: 'none', journal_integrity: 'none' } } } };
    }],
  ])('that asks for what there is not is refused by name: %s', async (text, edit) => {
    const header = read(await newLuks2('open'));
    const image = serialiseLuks2({ ...header, metadata: edit(header.metadata) }, false, new Uint8Array(64));
    const { checksumField, checksumOf } = await import('./luks2-header.js');
    const { digest } = await import('../platform/cryptography.js');
    checksumField(image).set(checksumOf(image, (content) => digest('sha256', content)));
    await expect(openLuks2(storeOf(image), false)).rejects.toThrow(text);
  });

  it('with any value in its metadata replaced is read or refused, never misread', async () => {
    const image = await newLuks2('open');
    const header = read(image);
    const paths = leaves(header.metadata);
    const values = fc.constantFrom<unknown>(0, -1, 1, 511, 2 ** 40, 1e300, '', '0', '-1', '18446744073709551615', 'dynamic', 'aes-xts-plain64', 'serpent-xts-plain64', null, true, [], {}, ['0', 7]);
    fc.assert(fc.property(fc.integer({ min: 0, max: paths.length - 1 }), values, (index, value) => {
      try {
        const volume = new Luks2Volume(storeOf(image), { ...header, metadata: replaced(header.metadata, paths[index]!, value) }, false);
        volume.info();
        expect(Number.isSafeInteger(volume.payloadOffset)).toBe(true);
        expect([512, 1024, 2048, 4096]).toContain(volume.sectorSize);
      } catch (error) {
        if (!(error instanceof BlockError)) throw error;
      }
    }), { numRuns: 400 });
  });
});

/** Paths to all members, inner ones too. */
function leaves(value: unknown, path: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, member]) => [[...path, key], ...leaves(member, [...path, key])]);
}

function replaced(value: unknown, [key, ...rest]: readonly string[], by: unknown): JsonObject {
  const object = value as JsonObject;
  return { ...object, [key!]: rest.length === 0 ? by : replaced(object[key!], rest, by) };
}

describe('cipher options', () => {
  it.each([
    [{ algorithm: 'foo' }, "Parameter 'cipher-alg' does not accept value 'foo'"],
    [{ algorithm: 'serpent-256' }, "Algorithm 'serpent-256' not supported"],
    [{ mode: 'foo' }, "Parameter 'cipher-mode' does not accept value 'foo'"],
    [{ ivGenerator: 'foo' }, "Parameter 'ivgen-alg' does not accept value 'foo'"],
    [{ hash: 'foo' }, "Parameter 'hash-alg' does not accept value 'foo'"],
  ])('%j: %s', (names, message) => {
    expect(() => chooseCipher(names)).toThrow(message);
  });
});
