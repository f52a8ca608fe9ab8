import { createCipheriv } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { UserObject } from '../block/objects.js';
import { findPassphrase } from './secrets.js';
import { randomBytes } from '../../test/support/seed.js';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-secrets-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'secret');
writeFileSync(file, 'YWJj');
const key = randomBytes(32);
const iv = randomBytes(16);
const encryptor = createCipheriv('aes-256-cbc', key, iv);
const encrypted = Buffer.concat([encryptor.update('abc'), encryptor.final()]).toString('base64');

function passphrase(properties: Record<string, unknown>): string {
  const objects = new Map<string, UserObject>([
    ['s', { type: 'secret', id: 's', properties }],
    ['master', { type: 'secret', id: 'master', properties: { data: key.toString('base64'), format: 'base64' } }],
    ['short', { type: 'secret', id: 'short', properties: { data: 'abc' } }],
    ['tls', { type: 'tls-creds-psk', id: 'tls', properties: {} }],
  ]);
  return Buffer.from(findPassphrase('s', (id) => objects.get(id))).toString();
}

describe('a secret', () => {
  it.each<[Record<string, unknown>, string]>([
    [{ data: 'abc' }, 'abc'],
    [{ data: 'abc', iv: 'unused' }, 'abc'],
    [{ data: 'YWJj', format: 'base64' }, 'abc'],
    [{ file }, 'YWJj'],
    [{ file, format: 'base64' }, 'abc'],
    [{ data: encrypted, format: 'base64', keyid: 'master', iv: iv.toString('base64') }, 'abc'],
  ])('%j', (properties, expected) => {
    expect(passphrase(properties)).toBe(expected);
  });

  // The peer's words.
  it.each<[Record<string, unknown>, string]>([
    [{}, "Either 'file' or 'data' must be provided"],
    [{ data: 'abc', file }, "'file' and 'data' are mutually exclusive"],
    [{ file: '/nonexistent' }, 'Unable to read /nonexistent: Failed to open file “/nonexistent”: No such file or directory'],
    [{ data: 'abc', format: 'foo' }, "Parameter 'format' does not accept value 'foo'"],
    [{ data: 'YW!j', format: 'base64' }, 'Base64 data contains invalid characters'],
    [{ data: '//79', format: 'base64' }, 'Data from secret s is not valid UTF-8'],
    [{ data: encrypted, format: 'base64', keyid: 'master' }, 'IV is required to decrypt secret'],
    [{ data: encrypted, format: 'base64', keyid: 'master', iv: 'AAAA' }, 'IV should be 16 bytes in length not 3'],
    [{ data: encrypted, format: 'base64', keyid: 'short', iv: 'AAAA' }, 'Key should be 32 bytes in length'],
    [{ data: encrypted, keyid: 'master', iv: iv.toString('base64') }, 'Length 24 must be a multiple of block size 16'],
    [{ data: encrypted, keyid: 'nobody', iv: 'AAAA' }, "No secret with id 'nobody'"],
    [{ data: encrypted, keyid: 'tls', iv: 'AAAA' }, "Object with id 'tls' is not a secret"],
  ])('%j is refused', (properties, message) => {
    expect(() => passphrase(properties)).toThrow(message);
  });
});
