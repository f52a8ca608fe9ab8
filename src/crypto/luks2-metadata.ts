/** The metadata of LUKS2, checked as it is read: nothing in it is trusted. */
import { BlockError, Errno } from '../block/errors.js';
import type { Argon2Cost } from '../platform/argon2.js';
import { parseCipher, requireHash } from './cipher-names.js';
import { isObject, type JsonObject } from './luks2-header.js';
import { sectorUnit, type CipherSpec } from './sector-cipher.js';

export type Kdf =
  | { readonly type: 'pbkdf2'; readonly hash: string; readonly iterations: number; readonly salt: Uint8Array }
  | Argon2Cost & { readonly salt: Uint8Array };

export interface Luks2Keyslot {
  readonly id: string;
  /** 2 is tried first, 0 only when asked for. */
  readonly priority: number;
  /** Of the key it holds. */
  readonly keyBytes: number;
  readonly stripes: number;
  readonly hash: string;
  readonly offset: number;
  readonly size: number;
  readonly cipher: CipherSpec;
  /** Of the key that encrypts the material. */
  readonly areaKeyBytes: number;
  readonly kdf: Kdf;
}

export interface Luks2Segment {
  readonly offset: number;
  /** Undefined: all that follows. */
  readonly size: number | undefined;
  /** Added to sector numbers. */
  readonly firstSector: number;
  /** 'aes-xts-plain64' */
  readonly encryption: string;
  readonly sectorSize: number;
}

export interface Luks2Digest {
  readonly keyslots: readonly string[];
  readonly hash: string;
  readonly iterations: number;
  readonly salt: Uint8Array;
  readonly digest: Uint8Array;
}

const largestKey = 512;
const largestSector = 4096;
/** Key material of a cipher with the longest key and twice the usual stripes. */
const largestArea = 8 * 1024 * 1024;

export function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message, { errno: Errno.ENOTSUP });
}

export function objectIn(parent: JsonObject, name: string): JsonObject {
  const value = parent[name];
  if (!isObject(value)) throw corrupt(`LUKS2 metadata lacks '${name}'`);
  return value;
}

function textIn(parent: JsonObject, name: string): string {
  const value = parent[name];
  if (typeof value !== 'string') throw corrupt(`LUKS2 metadata lacks '${name}'`);
  return value;
}

/** Numbers of 64 bits are written as strings. */
function numberIn(parent: JsonObject, name: string, least: number, most: number = Number.MAX_SAFE_INTEGER): number {
  const value = parent[name];
  const number = typeof value === 'string' && /^\d{1,20}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < least || number > most) {
    throw corrupt(`LUKS2 metadata has no sound '${name}'`);
  }
  return number;
}

function bytesIn(parent: JsonObject, name: string): Uint8Array {
  try {
    return Uint8Array.from(atob(textIn(parent, name)), (character) => character.charCodeAt(0));
  } catch (error) {
    throw error instanceof BlockError ? error : corrupt(`LUKS2 metadata has no sound '${name}'`);
  }
}

/** Base64, as the metadata has bytes. */
export function encodeBytes(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

/** `aes-xts-plain64` @throws BlockError UNSUPPORTED_FEATURE */
export function parseEncryption(encryption: string, keyBytes: number): CipherSpec {
  const dash = encryption.indexOf('-');
  if (dash <= 0) throw unsupported(`Cipher '${encryption}' not supported`);
  return parseCipher(encryption.slice(0, dash), encryption.slice(dash + 1), keyBytes);
}

/** @throws BlockError UNSUPPORTED_FEATURE for what must be understood and is not */
export function refuseRequirements(metadata: JsonObject): void {
  const { requirements } = objectIn(metadata, 'config');
  const mandatory = isObject(requirements) ? requirements['mandatory'] : undefined;
  const [first] = Array.isArray(mandatory) ? mandatory : [];
  if (first !== undefined) throw unsupported(`LUKS2 requirement '${String(first)}' is not supported`);
}

/** The one segment of data. @throws BlockError */
export function readSegment(metadata: JsonObject): Luks2Segment {
  const segments = Object.values(objectIn(metadata, 'segments'));
  const [segment] = segments;
  if (segments.length !== 1 || !isObject(segment)) throw unsupported(`LUKS2 volumes with ${segments.length} segments are not supported`);
  const type = textIn(segment, 'type');
  if (type !== 'crypt') throw unsupported(`LUKS2 segment type '${type}' is not supported`);
  if (segment['integrity'] !== undefined) throw unsupported('LUKS2 with data integrity protection is not supported');
  const sectorSize = numberIn(segment, 'sector_size', sectorUnit, largestSector);
  if (!Number.isInteger(Math.log2(sectorSize))) throw corrupt("LUKS2 metadata has no sound 'sector_size'");
  const offset = numberIn(segment, 'offset', 0);
  const size = segment['size'] === 'dynamic' ? undefined : numberIn(segment, 'size', 0, Number.MAX_SAFE_INTEGER - offset);
  if (offset % sectorUnit !== 0 || (size ?? 0) % sectorSize !== 0) throw corrupt('LUKS2 segment is not aligned to sectors');
  return { offset, size, firstSector: numberIn(segment, 'iv_tweak', 0, 2 ** 52), encryption: textIn(segment, 'encryption'), sectorSize };
}

/** The digest that tells the key of the data. @throws BlockError */
export function readDigest(metadata: JsonObject): Luks2Digest {
  const [segmentId] = Object.keys(objectIn(metadata, 'segments'));
  for (const digest of Object.values(objectIn(metadata, 'digests'))) {
    if (!isObject(digest) || !list(digest['segments']).includes(segmentId!)) continue;
    const type = textIn(digest, 'type');
    if (type !== 'pbkdf2') throw unsupported(`LUKS2 digest type '${type}' is not supported`);
    const hash = textIn(digest, 'hash');
    requireHash(hash);
    const expected = bytesIn(digest, 'digest');
    if (expected.length === 0 || expected.length > largestKey) throw corrupt("LUKS2 metadata has no sound 'digest'");
    return {
      keyslots: list(digest['keyslots']), hash, iterations: numberIn(digest, 'iterations', 1, 0xffff_ffff), salt: bytesIn(digest, 'salt'), digest: expected,
    };
  }
  throw corrupt('LUKS2 metadata has no digest for its segment');
}

export function list(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string') : [];
}

/** The id's keyslot; undefined where there is none, or one of another kind. @throws BlockError */
export function readKeyslot(metadata: JsonObject, id: string): Luks2Keyslot | undefined {
  const keyslot = objectIn(metadata, 'keyslots')[id];
  if (!isObject(keyslot) || keyslot['type'] !== 'luks2') return undefined;
  const area = objectIn(keyslot, 'area');
  const af = objectIn(keyslot, 'af');
  const [areaType, afType] = [textIn(area, 'type'), textIn(af, 'type')];
  if (areaType !== 'raw') throw unsupported(`LUKS2 keyslot area type '${areaType}' is not supported`);
  if (afType !== 'luks1') throw unsupported(`LUKS2 anti-forensic type '${afType}' is not supported`);
  const keyBytes = numberIn(keyslot, 'key_size', 1, largestKey);
  const stripes = numberIn(af, 'stripes', 1, 8000);
  const size = numberIn(area, 'size', 1, largestArea);
  const hash = textIn(af, 'hash');
  const areaKeyBytes = numberIn(area, 'key_size', 1, largestKey);
  requireHash(hash);
  if (keyBytes * stripes > size) throw corrupt(`LUKS2 keyslot ${id} does not fit its area`);
  return {
    id, priority: keyslot['priority'] === undefined ? 1 : numberIn(keyslot, 'priority', 0, 2), keyBytes, stripes, hash, size, areaKeyBytes,
    offset: numberIn(area, 'offset', 2 * 0x4000), cipher: parseEncryption(textIn(area, 'encryption'), areaKeyBytes), kdf: readKdf(objectIn(keyslot, 'kdf')),
  };
}

function readKdf(kdf: JsonObject): Kdf {
  const type = textIn(kdf, 'type');
  const salt = bytesIn(kdf, 'salt');
  if (type === 'pbkdf2') {
    const hash = textIn(kdf, 'hash');
    requireHash(hash);
    return { type, hash, iterations: numberIn(kdf, 'iterations', 1, 0xffff_ffff), salt };
  }
  if (type !== 'argon2i' && type !== 'argon2id') throw unsupported(`LUKS2 key derivation '${type}' is not supported`);
  return { type, time: numberIn(kdf, 'time', 1), memory: numberIn(kdf, 'memory', 1), lanes: numberIn(kdf, 'cpus', 1), salt };
}
