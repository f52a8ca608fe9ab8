/** LUKS2 volumes: opening and unlocking them, changing their keyslots, making them. */
import { BlockError, Errno } from '../block/errors.js';
import type { OptionValue } from '../block/options.js';
import { argon2, type Argon2Cost } from '../platform/argon2.js';
import { digest, digestSize, equalSecrets, pbkdf2, randomBytes, randomUuid } from '../platform/cryptography.js';
import { merge, split } from './anti-forensic.js';
import { describeCipher, modeName, type ChosenCipher } from './cipher-names.js';
import { fillKeyslot, planKeyslots } from './keyslot-rules.js';
import { defaultIterTime, digestShare, pbkdf2Iterations } from './luks1.js';
import { stripeCount } from './luks1-header.js';
import {
  checksumField, checksumOf, luks2BinarySize, luks2HeaderSizes, outlineLuks2, parseLuks2, serialiseLuks2, type JsonObject, type Luks2Header,
} from './luks2-header.js';
import {
  corrupt, encodeBytes, list, objectIn, parseEncryption, readDigest, readKeyslot, readSegment, refuseRequirements, type Kdf, type Luks2Keyslot,
  type Luks2Segment,
} from './luks2-metadata.js';
import type { AmendKeys, HeaderStore, LuksVolume, UnlockedVolume } from './luks-volume.js';
import { keyBytes as keyBytesOf, sectorCipher, sectorUnit, type SectorCipher } from './sector-cipher.js';

/** As many as the format has room for. */
const keyslotCount = 32;
const saltSize = 32;
const areaAlignment = 4096;
const newHeaderSize = 16 * 1024;
/** Bytes before the payload of a new volume. */
export const luks2Size = 16 * 1024 * 1024;

/** Finds the newer of the two copies that are whole. @throws BlockError */
export async function openLuks2(store: HeaderStore, detached: boolean): Promise<Luks2Volume> {
  const copies: Luks2Header[] = [];
  for (const offset of [0, ...luks2HeaderSizes]) {
    const copy = await readCopy(store, offset);
    if (copy === undefined) continue;
    copies.push(copy);
    if (offset !== 0) break;
  }
  const header = copies.reduce<Luks2Header | undefined>((best, copy) => (best !== undefined && best.sequence >= copy.sequence ? best : copy), undefined);
  if (header === undefined) throw corrupt('Both copies of the LUKS2 header are damaged');
  refuseRequirements(header.metadata);
  return new Luks2Volume(store, header, detached);
}

async function readCopy(store: HeaderStore, offset: number): Promise<Luks2Header | undefined> {
  if (offset + luks2BinarySize > store.size) return undefined;
  const binary = new Uint8Array(luks2BinarySize);
  await store.read(offset, binary);
  const outline = outlineLuks2(binary, offset);
  if (outline === undefined || offset + outline.size > store.size) return undefined;
  const { size, checksumAlgorithm } = outline;
  const length = digestSize(checksumAlgorithm);
  if (length === undefined) return undefined;
  const bytes = new Uint8Array(size);
  await store.read(offset, bytes);
  const sum = checksumOf(bytes, (content) => digest(checksumAlgorithm, content));
  return equalSecrets(sum, checksumField(bytes).subarray(0, length)) ? parseLuks2(bytes) : undefined;
}

export interface NewLuks2 extends ChosenCipher {
  readonly passphrase: Uint8Array;
  /** Milliseconds to spend on a guess of the passphrase. */
  readonly iterTime?: number | undefined;
  readonly detached: boolean;
  readonly sectorSize: number;
  readonly kdf: Kdf['type'];
}

/** Header and key material of a new volume with one keyslot: the bytes up to its payload. */
export async function createLuks2({ cipher, hash, passphrase, iterTime, detached, sectorSize, kdf }: NewLuks2): Promise<Uint8Array> {
  const masterKey = randomBytes(keyBytesOf(cipher));
  sectorCipher(cipher, masterKey, sectorSize);
  const salt = randomBytes(saltSize);
  const length = digestSize(hash)!;
  const iterations = pbkdf2Iterations(hash, length, iterTime, digestShare);
  const metadata: JsonObject = {
    keyslots: {}, tokens: {},
    segments: {
      0: { type: 'crypt', offset: String(detached ? 0 : luks2Size), size: 'dynamic', iv_tweak: '0', encryption: `aes-${modeName(cipher)}`, sector_size: sectorSize },
    },
    digests: {
      0: {
        type: 'pbkdf2', keyslots: [], segments: ['0'], hash, iterations, salt: encodeBytes(salt),
        digest: encodeBytes(await pbkdf2(hash, masterKey, salt, iterations, length)),
      },
    },
    config: { json_size: String(newHeaderSize - luks2BinarySize), keyslots_size: String(luks2Size - 2 * newHeaderSize) },
  };
  const image = new Uint8Array(luks2Size);
  const store: HeaderStore = {
    size: luks2Size,
    read: (offset, target) => target.set(image.subarray(offset, offset + target.length)),
    write: (offset, source) => image.set(source, offset),
    flush: () => undefined,
  };
  const header: Luks2Header = { size: newHeaderSize, sequence: 0n, label: '', checksumAlgorithm: 'sha256', uuid: randomUuid(), subsystem: '', metadata };
  await new Luks2Volume(store, header, detached).activate('0', passphrase, masterKey, { hash, iterTime, kdf });
  return image;
}

interface NewKeyslot {
  readonly hash: string;
  readonly iterTime: number | undefined;
  readonly kdf: Kdf['type'];
}

export class Luks2Volume implements LuksVolume {
  readonly #store: HeaderStore;
  readonly #detached: boolean;
  readonly #segment: Luks2Segment;
  #header: Luks2Header;

  /** @throws BlockError where the metadata cannot be used */
  constructor(store: HeaderStore, header: Luks2Header, detached: boolean) {
    this.#detached = detached;
    this.#store = store;
    this.#header = header;
    this.#segment = readSegment(header.metadata);
    readDigest(header.metadata);
  }

  get payloadOffset(): number {
    return this.#segment.offset;
  }

  get payloadSize(): number | undefined {
    return this.#segment.size;
  }

  get sectorSize(): number {
    return this.#segment.sectorSize;
  }

  info(): Readonly<Record<string, OptionValue>> {
    const { uuid, label, metadata } = this.#header;
    const { hash, iterations } = readDigest(metadata);
    const keyslots = this.#keyslots();
    const [first] = keyslots;
    return {
      'version': 2,
      ...(first === undefined ? {} : describeCipher(parseEncryption(this.#segment.encryption, first.keyBytes))),
      'sector-size': this.sectorSize, 'hash-alg': hash, 'detached-header': this.#detached, uuid,
      ...(label !== '' && { label }),
      'payload-offset': this.payloadOffset, 'master-key-iters': iterations,
      slots: keyslots.map(({ id, offset, stripes, kdf }) => ({
        active: true, keyslot: Number(id), 'key-offset': offset, stripes, kdf: kdf.type,
        ...(kdf.type === 'pbkdf2' ? { iters: kdf.iterations } : { iters: kdf.time, memory: kdf.memory, cpus: kdf.lanes }),
      })),
    };
  }

  /** Those that hold the key of the data. */
  #keyslots(): Luks2Keyslot[] {
    const { metadata } = this.#header;
    return readDigest(metadata).keyslots.flatMap((id) => readKeyslot(metadata, id) ?? []);
  }

  async unlock(passphrase: Uint8Array): Promise<UnlockedVolume | undefined> {
    const usable = this.#keyslots().filter(({ priority }) => priority > 0).sort((a, b) => b.priority - a.priority);
    for (const keyslot of usable) {
      const masterKey = await this.#open(keyslot, passphrase);
      if (masterKey === undefined) continue;
      return { cipher: this.#dataCipher(masterKey), amend: (change) => this.#amend(masterKey, change) };
    }
    return undefined;
  }

  #dataCipher(masterKey: Uint8Array): SectorCipher {
    const { encryption, sectorSize, firstSector } = this.#segment;
    const cipher = sectorCipher(parseEncryption(encryption, masterKey.length), masterKey, sectorSize);
    if (firstSector === 0) return cipher;
    return {
      encrypt: (sector, source, target) => cipher.encrypt(firstSector + sector, source, target),
      decrypt: (sector, source, target) => cipher.decrypt(firstSector + sector, source, target),
    };
  }

  async #open({ keyBytes, stripes, hash, offset, areaKeyBytes, cipher, kdf }: Luks2Keyslot, passphrase: Uint8Array): Promise<Uint8Array | undefined> {
    const material = new Uint8Array(Math.ceil(keyBytes * stripes / sectorUnit) * sectorUnit);
    if (offset + material.length > this.#store.size) return undefined;
    const key = await deriveKey(passphrase, kdf, areaKeyBytes);
    await this.#store.read(offset, material);
    sectorCipher(cipher, key).decrypt(0, material, material);
    const masterKey = merge(material.subarray(0, keyBytes * stripes), stripes, hash);
    const expected = readDigest(this.#header.metadata);
    const found = await pbkdf2(expected.hash, masterKey, expected.salt, expected.iterations, expected.digest.length);
    return equalSecrets(found, expected.digest) ? masterKey : undefined;
  }

  /** Stores the master key under a passphrase, in room of its own: key material first, durably, then the metadata. */
  async activate(id: string, passphrase: Uint8Array, masterKey: Uint8Array, { hash, iterTime, kdf: type }: NewKeyslot): Promise<void> {
    const { metadata } = this.#header;
    const size = Math.ceil(masterKey.length * stripeCount / areaAlignment) * areaAlignment;
    const offset = this.#freeArea(size);
    const kdf = newKdf(type, hash, masterKey.length, iterTime);
    const { encryption } = this.#segment;
    const material = new Uint8Array(Math.ceil(masterKey.length * stripeCount / sectorUnit) * sectorUnit);
    material.set(split(masterKey, stripeCount, hash));
    const key = await deriveKey(passphrase, kdf, masterKey.length);
    sectorCipher(parseEncryption(encryption, masterKey.length), key).encrypt(0, material, material);
    await this.#store.write(offset, material);
    await this.#store.flush();
    const keyslot = {
      type: 'luks2', key_size: masterKey.length, af: { type: 'luks1', stripes: stripeCount, hash },
      area: { type: 'raw', offset: String(offset), size: String(size), encryption, key_size: masterKey.length }, kdf: writtenKdf(kdf),
    };
    await this.#change({ ...objectIn(metadata, 'keyslots'), [id]: keyslot }, (ids) => [...ids.filter((other) => other !== id), id]);
  }

  /** Both copies, one after the other: whichever is whole after a crash tells of one state or the other. */
  async #change(keyslots: JsonObject, assigned: (ids: readonly string[]) => readonly string[]): Promise<void> {
    const { metadata, sequence } = this.#header;
    const [segmentId] = Object.keys(objectIn(metadata, 'segments'));
    const digests = Object.fromEntries(Object.entries(objectIn(metadata, 'digests') as Record<string, JsonObject>).map(([id, entry]) =>
      [id, list(entry['segments']).includes(segmentId!) ? { ...entry, keyslots: assigned(list(entry['keyslots'])) } : entry]));
    const header: Luks2Header = { ...this.#header, sequence: sequence + 1n, metadata: { ...metadata, keyslots, digests } };
    for (const second of [true, false]) {
      const bytes = serialiseLuks2(header, second, randomBytes(64));
      checksumField(bytes).set(checksumOf(bytes, (content) => digest(header.checksumAlgorithm, content)));
      await this.#store.write(second ? header.size : 0, bytes);
      await this.#store.flush();
    }
    this.#header = header;
  }

  /** Room among the key material. @throws BlockError NO_SPACE */
  #freeArea(size: number): number {
    const { metadata, size: headerSize } = this.#header;
    const start = 2 * headerSize;
    const limit = start + Number(objectIn(metadata, 'config')['keyslots_size']);
    const taken = Object.values(objectIn(metadata, 'keyslots') as Record<string, JsonObject>).map((keyslot) => {
      const area = objectIn(keyslot, 'area');
      return { from: Number(area['offset']), to: Number(area['offset']) + Number(area['size']) };
    }).sort((a, b) => a.from - b.from);
    let at = start;
    for (const { from, to } of taken) {
      if (at + size <= from) break;
      at = Math.max(at, Math.ceil(to / areaAlignment) * areaAlignment);
    }
    if (!(at + size <= limit)) throw new BlockError('NO_SPACE', "Can't add a keyslot - there is no room for its key material", { errno: Errno.ENOSPC });
    return at;
  }

  /** Overwrites the key material, then takes the keyslot away. */
  async #erase(id: string): Promise<void> {
    const { metadata } = this.#header;
    const keyslot = readKeyslot(metadata, id);
    if (keyslot !== undefined) await this.#wipe(keyslot);
    const { [id]: _erased, ...rest } = objectIn(metadata, 'keyslots');
    await this.#change(rest, (ids) => ids.filter((other) => other !== id));
  }

  async #wipe({ offset, size }: Luks2Keyslot): Promise<void> {
    if (offset + size > this.#store.size) return;
    await this.#store.write(offset, randomBytes(size));
    await this.#store.flush();
  }

  async #amend(masterKey: Uint8Array, change: AmendKeys): Promise<void> {
    const keyslots = new Map(this.#keyslots().map((keyslot) => [Number(keyslot.id), keyslot]));
    const all = objectIn(this.#header.metadata, 'keyslots');
    const plan = await planKeyslots({
      count: keyslotCount, active: (index) => keyslots.has(index), taken: (index) => String(index) in all,
      opens: async (index, passphrase) => (await this.#open(keyslots.get(index)!, passphrase)) !== undefined,
    }, change);
    if ('erase' in plan) {
      for (const index of plan.erase) await this.#erase(String(index));
      return;
    }
    const id = String(plan.fill);
    const [{ hash, kdf } = { hash: 'sha256', kdf: { type: 'argon2id' as const } }] = keyslots.values();
    const replaced = readKeyslot(this.#header.metadata, id);
    await fillKeyslot(plan.fill, () => this.activate(id, plan.passphrase, masterKey, { hash, iterTime: plan.iterTime, kdf: kdf.type }));
    // The new key material has room of its own: what it replaces is wiped once it is in force.
    if (replaced !== undefined) await this.#wipe(replaced);
  }
}

function deriveKey(passphrase: Uint8Array, kdf: Kdf, length: number): Promise<Uint8Array> {
  if (kdf.type === 'pbkdf2') return pbkdf2(kdf.hash, passphrase, kdf.salt, kdf.iterations, length);
  return argon2(passphrase, kdf.salt, kdf, length);
}

/** KiB that a pass gets through in a second, on an ordinary machine. */
const argon2MemoryPerSecond = 512 * 1024;

function newKdf(type: Kdf['type'], hash: string, length: number, iterTime: number | undefined): Kdf {
  const salt = randomBytes(saltSize);
  if (type === 'pbkdf2') {
    const size = digestSize(hash)!;
    return { type, hash, iterations: pbkdf2Iterations(hash, size, iterTime, Math.ceil(length / size)), salt };
  }
  const passes = 4;
  const time = iterTime === undefined || iterTime === 0 ? defaultIterTime : iterTime;
  const memory = Math.min(1024 * 1024, Math.max(32 * 1024, Math.floor(argon2MemoryPerSecond * time / 1000 / passes)));
  return { type, time: passes, memory, lanes: 1, salt };
}

function writtenKdf(kdf: Kdf): JsonObject {
  const salt = encodeBytes(kdf.salt);
  if (kdf.type === 'pbkdf2') return { type: kdf.type, salt, hash: kdf.hash, iterations: kdf.iterations };
  const { type, time, memory, lanes }: Argon2Cost = kdf;
  return { type, salt, time, memory, cpus: lanes };
}
