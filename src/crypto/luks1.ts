/** LUKS1 volumes: making them, unlocking them, changing their keyslots. */
import { BlockError, Errno, strerror } from '../block/errors.js';
import type { OptionValue } from '../block/options.js';
import { digestSize, equalSecrets, pbkdf2, pbkdf2Rate, randomBytes, randomUuid } from '../platform/cryptography.js';
import { merge, split } from './anti-forensic.js';
import { describeCipher, modeName, type ChosenCipher } from './cipher-names.js';
import { fillKeyslot, planKeyslots } from './keyslot-rules.js';
import {
  keyslotCount, keyslotOffset, luks1HeaderSize, luks1Size, materialSize, parseLuks1, serialiseLuks1, stripeCount,
  type Luks1Header, type Luks1Keyslot,
} from './luks1-header.js';
import type { AmendKeys, HeaderStore, LuksVolume, UnlockedVolume } from './luks-volume.js';
import { keyBytes as keyBytesOf, sectorCipher } from './sector-cipher.js';

export const defaultIterTime = 2000;
const fewestIterations = 1000;
const mostIterations = 0xffff_ffff;
const saltSize = 32;
const digestLength = 20;
/** Keyslots are so many times harder to guess than the master key's digest. */
export const digestShare = 8;

export interface NewLuks1 extends ChosenCipher {
  readonly passphrase: Uint8Array;
  /** Milliseconds to spend on a guess of the passphrase. */
  readonly iterTime?: number | undefined;
  readonly detached: boolean;
}

/** Header and key material of a new volume with one keyslot: the bytes up to its payload. */
export async function createLuks1({ cipher, hash, passphrase, iterTime, detached }: NewLuks1): Promise<Uint8Array> {
  const keyBytes = keyBytesOf(cipher);
  const masterKey = newMasterKey(keyBytes);
  const size = luks1Size(keyBytes);
  const salt = randomBytes(saltSize);
  const iterations = pbkdf2Iterations(hash, digestLength, iterTime, digestShare);
  const header: Luks1Header = {
    cipher, modeName: modeName(cipher), hash, payloadOffset: detached ? 0 : size, keyBytes, salt, iterations,
    digest: await pbkdf2(hash, masterKey, salt, iterations, digestLength), uuid: randomUuid(),
    keyslots: Array.from({ length: keyslotCount }, (_, index) => emptyKeyslot(keyslotOffset(index, keyBytes))),
  };
  // essiv may need a key that AES does not have
  sectorCipher(cipher, masterKey);
  const image = new Uint8Array(size);
  const store: HeaderStore = {
    size,
    read: (offset, target) => target.set(image.subarray(offset, offset + target.length)),
    write: (offset, source) => image.set(source, offset),
    flush: () => undefined,
  };
  const volume = new Luks1Volume(store, header, detached);
  await volume.activate(0, passphrase, masterKey, iterTime);
  return image;
}

/** XTS is void where both halves of its key are the same. */
function newMasterKey(length: number): Uint8Array {
  for (;;) {
    const key = randomBytes(length);
    if (!equalSecrets(key.subarray(0, length / 2), key.subarray(length / 2))) return key;
  }
}

/** Iterations that take `iterTime` milliseconds for `share` keys. @throws BlockError where they are too many */
export function pbkdf2Iterations(hash: string, length: number, iterTime: number | undefined, share: number): number {
  // A time of 0 is no time, as the peer has it.
  const time = iterTime === undefined || iterTime === 0 ? defaultIterTime : iterTime;
  const rate = pbkdf2Rate(hash, length);
  if (rate * (time < 0 ? time + 2 ** 64 : time) >= 2 ** 64) throw tooMany(`${rate} too large to scale`);
  const iterations = Math.floor(rate * time / 1000 / share);
  if (iterations > mostIterations) throw tooMany(`${iterations} larger than ${mostIterations}`);
  return Math.max(fewestIterations, iterations);
}

function tooMany(reason: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', `PBKDF iterations ${reason}: ${strerror(Errno.ERANGE)}`, { errno: Errno.ERANGE });
}

function emptyKeyslot(offset: number): Luks1Keyslot {
  return { active: false, iterations: 0, salt: new Uint8Array(saltSize), offset };
}

/** Reads and checks a header. `detached`: the payload is in another file. @throws BlockError with the peer's texts */
export async function openLuks1(store: HeaderStore, detached: boolean): Promise<Luks1Volume> {
  const bytes = new Uint8Array(luks1HeaderSize);
  await store.read(0, bytes);
  return new Luks1Volume(store, parseLuks1(bytes, detached), detached);
}

export class Luks1Volume implements LuksVolume {
  readonly sectorSize = 512;
  readonly payloadSize = undefined;
  readonly #store: HeaderStore;
  readonly #detached: boolean;
  #header: Luks1Header;

  constructor(store: HeaderStore, header: Luks1Header, detached: boolean) {
    this.#store = store;
    this.#header = header;
    this.#detached = detached;
  }

  get payloadOffset(): number {
    return this.#header.payloadOffset;
  }

  info(): Readonly<Record<string, OptionValue>> {
    const { cipher, hash, uuid, payloadOffset, iterations, keyslots } = this.#header;
    return {
      ...describeCipher(cipher), 'hash-alg': hash, 'detached-header': this.#detached, uuid, 'payload-offset': payloadOffset,
      'master-key-iters': iterations,
      slots: keyslots.map((slot) => ({
        active: slot.active, ...(slot.active && { iters: slot.iterations, stripes: stripeCount }), 'key-offset': slot.offset,
      })),
    };
  }

  async unlock(passphrase: Uint8Array): Promise<UnlockedVolume | undefined> {
    for (let index = 0; index < keyslotCount; index++) {
      const masterKey = await this.#open(index, passphrase);
      if (masterKey === undefined) continue;
      return { cipher: sectorCipher(this.#header.cipher, masterKey), amend: (change) => this.#amend(masterKey, change) };
    }
    return undefined;
  }

  /** The master key, if the keyslot is active and the passphrase is its own. */
  async #open(index: number, passphrase: Uint8Array): Promise<Uint8Array | undefined> {
    const { cipher, hash, keyBytes, salt, iterations, digest, keyslots } = this.#header;
    const slot = keyslots[index]!;
    if (!slot.active) return undefined;
    const key = await pbkdf2(hash, passphrase, slot.salt, slot.iterations, keyBytes);
    const material = new Uint8Array(materialSize(keyBytes));
    if (slot.offset + material.length > this.#store.size) return undefined;
    await this.#store.read(slot.offset, material);
    sectorCipher(cipher, key).decrypt(0, material, material);
    const masterKey = merge(material.subarray(0, keyBytes * stripeCount), stripeCount, hash);
    return equalSecrets(await pbkdf2(hash, masterKey, salt, iterations, digestLength), digest) ? masterKey : undefined;
  }

  /** Stores the master key under a passphrase: key material first, durably, then the mark that it is there. */
  async activate(index: number, passphrase: Uint8Array, masterKey: Uint8Array, iterTime: number | undefined): Promise<void> {
    const { cipher, hash, keyBytes, keyslots } = this.#header;
    const { offset } = keyslots[index]!;
    const iterations = pbkdf2Iterations(hash, Math.min(keyBytes, digestSize(hash)!), iterTime, Math.ceil(keyBytes / digestSize(hash)!));
    const salt = randomBytes(saltSize);
    const material = new Uint8Array(materialSize(keyBytes));
    material.set(split(masterKey, stripeCount, hash));
    sectorCipher(cipher, await pbkdf2(hash, passphrase, salt, iterations, keyBytes)).encrypt(0, material, material);
    await this.#store.write(offset, material);
    await this.#store.flush();
    await this.#setKeyslot(index, { active: true, iterations, salt, offset });
  }

  /** Overwrites the key material, so that an old copy of the header does not bring it back, then takes the mark away. */
  async #erase(index: number): Promise<void> {
    const { keyBytes, keyslots } = this.#header;
    const { offset } = keyslots[index]!;
    for (let pass = 0; pass < 2; pass++) {
      await this.#store.write(offset, randomBytes(materialSize(keyBytes)));
      await this.#store.flush();
    }
    await this.#setKeyslot(index, emptyKeyslot(offset));
  }

  async #setKeyslot(index: number, slot: Luks1Keyslot): Promise<void> {
    const header = { ...this.#header, keyslots: this.#header.keyslots.with(index, slot) };
    await this.#store.write(0, serialiseLuks1(header));
    await this.#store.flush();
    this.#header = header;
  }

  async #amend(masterKey: Uint8Array, change: AmendKeys): Promise<void> {
    const active = (index: number): boolean => this.#header.keyslots[index]!.active;
    const plan = await planKeyslots({
      count: keyslotCount, active, taken: active,
      opens: async (index, passphrase) => (await this.#open(index, passphrase)) !== undefined,
    }, change);
    if ('fill' in plan) await fillKeyslot(plan.fill, () => this.activate(plan.fill, plan.passphrase, masterKey, plan.iterTime));
    else for (const index of plan.erase) await this.#erase(index);
  }
}
