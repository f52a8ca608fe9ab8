/** Options of opening, creating and amending. */
import type { CreateSchema, OptionSchema } from '../../block/options.js';
import { luksCreateNames, luksOptions } from '../../crypto/luks-options.js';

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
  ...luksOptions(luksCreateNames),
  'detached-header': { type: 'boolean', help: 'Create a detached LUKS header' },
  'version': { type: 'number', help: 'LUKS version (1 or 2)', beyondPeer: true },
  'sector-size': { type: 'number', help: 'Encryption sector size of LUKS2 (512 to 4096)', beyondPeer: true },
  'kdf': { type: 'string', help: 'Key derivation of LUKS2 (argon2id, argon2i, pbkdf2)', beyondPeer: true },
};

export const luksAmendOptions = luksOptions(['state', 'keyslot', 'old-secret', 'new-secret', 'iter-time']);
