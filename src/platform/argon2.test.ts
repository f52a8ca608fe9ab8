import { afterEach, describe, expect, it, vi } from 'vitest';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe.each([['with whatever is there', '1'], ['without native libraries', '0']])('argon2 %s', (_what, native) => {
  afterEach(() => { delete process.env['VDISK_NATIVE']; });

  // Vectors of the reference implementation (version 19, 2 passes, 64 MiB, 1 lane).
  it.each([
    ['argon2id', '09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7'],
    ['argon2i', 'c1628832147d9720c5bd1cfd61367078729f6dfb6f8fea9ff98158e0d7816ed0'],
  ] as const)('%s gives the known key', async (type, expected) => {
    process.env['VDISK_NATIVE'] = native;
    vi.resetModules();
    const { argon2 } = await import('./argon2.js');
    const key = await argon2(bytes('password'), bytes('somesalt'), { type, time: 2, memory: 65_536, lanes: 1 }, 32);
    expect(Buffer.from(key).toString('hex')).toBe(expected);
  });

  it('refuses a cost that nobody means', async () => {
    const { argon2 } = await import('./argon2.js');
    expect(() => argon2(bytes('x'), bytes('somesalt'), { type: 'argon2id', time: 4, memory: 2 ** 32, lanes: 1 }, 32)).toThrow('Key derivation cost is out of range');
  });
});
