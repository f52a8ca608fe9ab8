/** How images encrypt their clusters: by the place in the file (LUKS), or on the disk (AES of old). */
import type { DataCipher } from '../block/data-cipher.js';
import { findPassphrase, type FindObject } from '../platform/secrets.js';
import { sectorCipher, sectorUnit, type SectorCipher } from './sector-cipher.js';

/** `by`: the offset that sectors are numbered from. */
export function dataCipher(cipher: SectorCipher, by: 'guest' | 'host'): DataCipher {
  return {
    encrypt(guest, host, source) {
      const encrypted = new Uint8Array(source.length);
      cipher.encrypt((by === 'guest' ? guest : host) / sectorUnit, source, encrypted);
      return encrypted;
    },
    decrypt(guest, host, target) {
      cipher.decrypt((by === 'guest' ? guest : host) / sectorUnit, target, target);
    },
  };
}

/** The encryption of qcow, and of qcow2 before LUKS: AES-128 whose key is the start of the passphrase itself. @throws BlockError */
export function legacyCipher(secret: string, find: FindObject): DataCipher {
  const key = new Uint8Array(16);
  key.set(findPassphrase(secret, find).subarray(0, key.length));
  return dataCipher(sectorCipher({ keySize: key.length, mode: 'cbc', ivGenerator: 'plain64' }, key), 'guest');
}
