/** Options of opening, creating and amending. */
import type { CreateSchema, OptionSchema } from '../../block/options.js';

export interface LuksOpenOptions {
  /** Id of the secret with the passphrase. */
  readonly 'key-secret'?: string;
}

export const openOptions: OptionSchema<LuksOpenOptions> = {
  'key-secret': { type: 'string', help: 'ID of the secret that provides the encryption key' },
};

/** In the order in which creation announces them. */
export const createOptions: CreateSchema = {
  'size': { type: 'size', help: 'Virtual disk size' },
  'key-secret': { type: 'string', help: 'ID of the secret that provides the keyslot passphrase' },
  'cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  'detached-header': { type: 'boolean', help: 'Create a detached LUKS header' },
  'version': { type: 'number', help: 'LUKS version (1 or 2)', beyondPeer: true },
  'sector-size': { type: 'number', help: 'Encryption sector size of LUKS2 (512 to 4096)', beyondPeer: true },
  'kdf': { type: 'string', help: 'Key derivation of LUKS2 (argon2id, argon2i, pbkdf2)', beyondPeer: true },
};

export const luksAmendOptions: CreateSchema = {
  'state': { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
  'keyslot': { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  'new-secret': { type: 'string', help: 'New secret to set in the matching keyslots. Empty string to erase' },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
};
