/**
 * Codec of the LUKS2 header: a binary part of 4096 bytes, big endian, and metadata in JSON behind it; all of it twice. What the metadata
 * says that is not known here is kept.
 */
import { BlockError, Errno } from '../block/errors.js';
import { latin1 } from '../util/latin1.js';
import { viewOf } from '../util/view.js';
import { luksMagic } from './luks1-header.js';

/** Bytes of the binary part. */
export const luks2BinarySize = 4096;
/** Where the second copy may begin: the sizes that a header can have. */
export const luks2HeaderSizes: readonly number[] = [0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x10_0000, 0x20_0000, 0x40_0000];
const secondMagic = Uint8Array.of(0x53, 0x4b, 0x55, 0x4c, 0xba, 0xbe);
const checksumOffset = 448;
const checksumSize = 64;

export type JsonObject = { readonly [key: string]: unknown };

export interface Luks2Header {
  /** Bytes of one copy. */
  readonly size: number;
  /** Grows with each change: the copy with the higher one counts. */
  readonly sequence: bigint;
  readonly label: string;
  readonly checksumAlgorithm: string;
  readonly uuid: string;
  readonly subsystem: string;
  readonly metadata: JsonObject;
}

/** What the binary part says before the rest is read. */
export interface Luks2Outline { readonly size: number; readonly checksumAlgorithm: string }

function text(bytes: Uint8Array, offset: number, length: number): string {
  return latin1(bytes.subarray(offset, offset + length)).split('\0', 1)[0]!;
}

/** The outline of the copy that lies at `offset`; undefined where there is none. */
export function outlineLuks2(bytes: Uint8Array, offset: number): Luks2Outline | undefined {
  const view = viewOf(bytes);
  const magic = offset === 0 ? luksMagic : secondMagic;
  if (!magic.every((byte, index) => bytes[index] === byte) || view.getUint16(6) !== 2) return undefined;
  const size = Number(view.getBigUint64(8));
  if (!luks2HeaderSizes.includes(size) || (offset !== 0 && size !== offset) || view.getBigUint64(256) !== BigInt(offset)) return undefined;
  return { size, checksumAlgorithm: text(bytes, 72, 32) };
}

/** A whole copy, its checksum already verified. Undefined where the metadata is no JSON object. */
export function parseLuks2(bytes: Uint8Array): Luks2Header | undefined {
  const json = bytes.subarray(luks2BinarySize);
  const end = json.indexOf(0);
  let metadata: unknown;
  try {
    metadata = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(end < 0 ? json : json.subarray(0, end)));
  } catch {
    return undefined;
  }
  if (!isObject(metadata)) return undefined;
  return {
    size: bytes.length, sequence: viewOf(bytes).getBigUint64(16), label: text(bytes, 24, 48), checksumAlgorithm: text(bytes, 72, 32),
    uuid: text(bytes, 168, 40), subsystem: text(bytes, 208, 48), metadata,
  };
}

/** One copy without its checksum; `salt` (64 bytes) makes copies differ. @throws BlockError NO_SPACE */
export function serialiseLuks2(header: Luks2Header, second: boolean, salt: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(header.size);
  const view = viewOf(bytes);
  const put = (offset: number, value: string): void => bytes.set(new TextEncoder().encode(value), offset);
  bytes.set(second ? secondMagic : luksMagic);
  view.setUint16(6, 2);
  view.setBigUint64(8, BigInt(header.size));
  view.setBigUint64(16, header.sequence);
  put(24, header.label);
  put(72, header.checksumAlgorithm);
  bytes.set(salt, 104);
  put(168, header.uuid);
  put(208, header.subsystem);
  view.setBigUint64(256, BigInt(second ? header.size : 0));
  const json = new TextEncoder().encode(JSON.stringify(header.metadata));
  if (luks2BinarySize + json.length >= header.size) throw new BlockError('NO_SPACE', 'The LUKS2 metadata does not fit into its header', { errno: Errno.ENOSPC });
  bytes.set(json, luks2BinarySize);
  return bytes;
}

/** The checksum of a copy, in the place it has there. */
export function checksumOf(bytes: Uint8Array, digest: (bytes: Uint8Array) => Uint8Array): Uint8Array {
  const cleared = bytes.slice();
  cleared.fill(0, checksumOffset, checksumOffset + checksumSize);
  return digest(cleared);
}

export function checksumField(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(checksumOffset, checksumOffset + checksumSize);
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
