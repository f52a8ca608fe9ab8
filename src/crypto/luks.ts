/** LUKS of either version: told apart, opened, and what options ask of it. */
import { BlockError, Errno } from '../block/errors.js';
import type { OptionValue } from '../block/options.js';
import { findPassphrase, type FindObject } from '../platform/secrets.js';
import { chooseCipher } from './cipher-names.js';
import { createLuks1, openLuks1, type NewLuks1 } from './luks1.js';
import { isLuks, luks1HeaderSize, luks1Size, luksVersion } from './luks1-header.js';
import { createLuks2, luks2Size, openLuks2, type NewLuks2 } from './luks2.js';
import { keyBytes } from './sector-cipher.js';
import type { AmendKeys, HeaderStore, LuksVolume, UnlockedVolume } from './luks-volume.js';

type OptionValues = Readonly<Record<string, OptionValue>>;

/**
 * Reads and checks the header. `detached`: the payload is in another file. `newest`: the highest version that the place allows.
 * @throws BlockError with the peer's texts
 */
export async function openLuks(store: HeaderStore, { detached = false, newest = 2 } = {}): Promise<LuksVolume> {
  const head = new Uint8Array(luks1HeaderSize);
  await store.read(0, head.subarray(0, Math.min(head.length, store.size)));
  if (!isLuks(head)) throw new BlockError('NOT_THIS_FORMAT', 'Volume is not in LUKS format', { errno: Errno.EINVAL });
  const version = luksVersion(head);
  if (version === 1) return openLuks1(store, detached);
  if (version === 2 && newest >= 2) return openLuks2(store, detached);
  throw new BlockError('UNSUPPORTED_FEATURE', `LUKS version ${version} is not supported`, { errno: Errno.ENOTSUP });
}

/** Unlocks with the secret that an option names. `option` as the user knows it. @throws BlockError */
export async function unlockLuks(volume: LuksVolume, secret: OptionValue, option: string, find: FindObject): Promise<UnlockedVolume> {
  const unlocked = await volume.unlock(findPassphrase(requireSecret(secret, option), find));
  if (unlocked === undefined) throw new BlockError('ACCESS_DENIED', 'Invalid password, cannot unlock any keyslot', { errno: Errno.EPERM });
  return unlocked;
}

/** The id of a secret that must be given. */
export function requireSecret(secret: OptionValue, option: string): string {
  if (typeof secret !== 'string') throw new BlockError('INVALID_ARGUMENT', `Parameter '${option}' is required for cipher`);
  return secret;
}

/** A new volume as create options describe it, under names that begin with `prefix`. @throws BlockError */
export function createLuks(options: OptionValues, prefix: string, find: FindObject, detached: boolean): Promise<Uint8Array> {
  const given = cipherOptions(options, prefix);
  const passphrase = findPassphrase(requireSecret(options[`${prefix}key-secret`], `${prefix}key-secret`), find);
  const iterTime = options[`${prefix}iter-time`];
  const common = { ...given, passphrase, iterTime: typeof iterTime === 'number' ? iterTime : undefined, detached };
  return luksVersionOption(options, prefix) === 1 ? createLuks1(common) : createLuks2({ ...common, ...luks2Options(options, prefix) });
}

/** Bytes that a new volume takes before its payload. @throws BlockError */
export function headerSize(options: OptionValues, prefix: string): number {
  const { cipher } = cipherOptions(options, prefix);
  return luksVersionOption(options, prefix) === 1 ? luks1Size(keyBytes(cipher)) : luks2Size;
}

function luksVersionOption(options: OptionValues, prefix: string): 1 | 2 {
  const version = options[`${prefix}version`] ?? 1;
  if (version !== 1 && version !== 2) throw notAccepted('version', version);
  return version;
}

function luks2Options(options: OptionValues, prefix: string): Pick<NewLuks2, 'sectorSize' | 'kdf'> {
  const sectorSize = options[`${prefix}sector-size`] ?? 512;
  const kdf = options[`${prefix}kdf`] ?? 'argon2id';
  if (sectorSize !== 512 && sectorSize !== 1024 && sectorSize !== 2048 && sectorSize !== 4096) throw notAccepted('sector-size', sectorSize);
  if (kdf !== 'argon2id' && kdf !== 'argon2i' && kdf !== 'pbkdf2') throw notAccepted('kdf', kdf);
  return { sectorSize, kdf };
}

function notAccepted(option: string, value: OptionValue): BlockError {
  return new BlockError('INVALID_ARGUMENT', `Parameter '${option}' does not accept value '${String(value)}'`);
}

/** The cipher that create options mean. @throws BlockError */
export function cipherOptions(options: OptionValues, prefix: string): Pick<NewLuks1, 'cipher' | 'hash'> {
  const text = (name: string): string | undefined => {
    const value = options[prefix + name];
    return typeof value === 'string' ? value : undefined;
  };
  return chooseCipher({
    algorithm: text('cipher-alg'), mode: text('cipher-mode'), ivGenerator: text('ivgen-alg'), ivHash: text('ivgen-hash-alg'), hash: text('hash-alg'),
  });
}

/** What amend options ask for, under names that begin with `prefix`. @throws BlockError */
export function amendOptions(options: OptionValues, prefix: string, find: FindObject, force: boolean): AmendKeys {
  const value = (name: string): OptionValue => options[prefix + name];
  const passphrase = (name: string): (() => Uint8Array) | undefined => {
    const id = value(name);
    return typeof id === 'string' ? () => findPassphrase(id, find) : undefined;
  };
  const number = (name: string): number | undefined => {
    const given = value(name);
    return typeof given === 'number' ? given : undefined;
  };
  const state = value('state');
  if (state === undefined) throw new BlockError('INVALID_ARGUMENT', "Parameter 'state' is missing");
  if (state !== 'active' && state !== 'inactive') throw notAccepted('state', state);
  const [newPassphrase, oldPassphrase, keyslot, iterTime] = [passphrase('new-secret'), passphrase('old-secret'), number('keyslot'), number('iter-time')];
  return {
    state, force,
    ...(newPassphrase !== undefined && { newPassphrase }), ...(oldPassphrase !== undefined && { oldPassphrase }),
    ...(keyslot !== undefined && { keyslot }), ...(iterTime !== undefined && { iterTime }),
  };
}
