import { createCipheriv, createHash } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { sectorCipher, type CipherMode, type IvGenerator } from './sector-cipher.js';
import { randomBytes } from '../../test/support/seed.js';

/** One OpenSSL cipher for each sector: slow, and beyond doubt. */
function reference(mode: CipherMode, generator: IvGenerator, key: Buffer, first: number, sectorSize: number, source: Uint8Array): Buffer {
  const bits = (mode === 'xts' ? key.length / 2 : key.length) * 8;
  const pieces: Buffer[] = [];
  for (let at = 0; at < source.length; at += sectorSize) {
    let iv: Buffer = Buffer.alloc(16);
    const number = BigInt(first + at / 512);
    iv.writeBigUInt64LE(generator === 'plain' ? number & 0xffff_ffffn : number);
    if (generator === 'essiv') {
      iv = createCipheriv('aes-256-ecb', createHash('sha256').update(key).digest(), null).setAutoPadding(false).update(iv);
    }
    const cipher = createCipheriv(`aes-${bits}-${mode}`, key, mode === 'ecb' ? null : iv).setAutoPadding(false);
    pieces.push(cipher.update(source.subarray(at, at + sectorSize)));
  }
  return Buffer.concat(pieces);
}

const cases: [CipherMode, number][] = [['xts', 32], ['xts', 64], ['cbc', 16], ['cbc', 24], ['cbc', 32], ['ctr', 32], ['ecb', 16]];

describe.each(cases)('%s with a key of %i bytes', (mode, keyLength) => {
  const generators: readonly IvGenerator[] = ['plain', 'plain64', 'essiv'];
  for (const ivGenerator of generators) {
    for (const sectorSize of [512, 4096]) {
      it(`${ivGenerator}, sectors of ${sectorSize}: what OpenSSL makes of each sector`, () => {
        const key = randomBytes(keyLength);
        const cipher = sectorCipher({ keySize: mode === 'xts' ? keyLength / 2 : keyLength, mode, ivGenerator, ivHash: 'sha256' }, key, sectorSize);
        // beyond 32 bits, across a batch, at an odd address
        const first = 2 ** 32 - 24;
        const memory = new Uint8Array(randomBytes(65536 + 5 * 4096 + 1));
        for (const source of [memory.subarray(0, 65536 + 5 * 4096), memory.subarray(1, 4097)]) {
          const plain = Uint8Array.from(source);
          const expected = reference(mode, ivGenerator, key, first, sectorSize, plain);
          const apart = new Uint8Array(source.length);
          cipher.encrypt(first, source, apart);
          expect(Buffer.compare(apart, expected)).toBe(0);
          cipher.encrypt(first, source, source);
          expect(Buffer.compare(source, expected)).toBe(0);
          cipher.decrypt(first, source, source);
          expect(Buffer.compare(source, plain)).toBe(0);
          cipher.decrypt(first, expected, apart);
          expect(Buffer.compare(apart, plain)).toBe(0);
        }
      });
    }
  }
});

it('refuses hashes that give no AES key', () => {
  expect(() => sectorCipher({ keySize: 32, mode: 'cbc', ivGenerator: 'essiv', ivHash: 'sha1' }, new Uint8Array(32)))
    .toThrow('No AES cipher with key size 20 available');
});

describe('without the native library', () => {
  afterEach(() => { delete process.env['VDISK_NATIVE']; });
  it('comes to the same', async () => {
    const key = randomBytes(64);
    const source = randomBytes(8192);
    const spec = { keySize: 32, mode: 'xts', ivGenerator: 'plain64' } as const;
    const expected = new Uint8Array(8192);
    sectorCipher(spec, key).encrypt(5, source, expected);
    process.env['VDISK_NATIVE'] = '0';
    const { vi } = await import('vitest');
    vi.resetModules();
    const fresh = await import('./sector-cipher.js');
    const found = new Uint8Array(8192);
    fresh.sectorCipher(spec, key).encrypt(5, source, found);
    expect(Buffer.compare(found, expected)).toBe(0);
  });
});

it('takes whole sectors only', () => {
  const cipher = sectorCipher({ keySize: 16, mode: 'cbc', ivGenerator: 'plain64' }, new Uint8Array(16), 512);
  expect(() => cipher.encrypt(0, new Uint8Array(500), new Uint8Array(500))).toThrow('Only whole sectors can be encrypted');
  expect(() => cipher.decrypt(0.5, new Uint8Array(512), new Uint8Array(512))).toThrow('Only whole sectors can be encrypted');
});
