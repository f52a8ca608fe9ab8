/** The options of creating and amending LUKS headers that every format with one has, as QEMU explains them. */
import type { CreateSchema } from '../block/options.js';

const all = {
  'cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  'state': { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
  'keyslot': { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  'new-secret': { type: 'string', help: 'New secret to set in the matching keyslots. Empty string to erase' },
} satisfies CreateSchema;

/** These options, in the order given, under names that begin with `prefix`. */
export function luksOptions(names: readonly (keyof typeof all)[], prefix = ''): CreateSchema {
  return Object.fromEntries(names.map((name) => [prefix + name, all[name]]));
}

/** What creation announces, in the peer's order. */
export const luksCreateNames = ['cipher-alg', 'cipher-mode', 'ivgen-alg', 'ivgen-hash-alg', 'hash-alg', 'iter-time'] as const;
