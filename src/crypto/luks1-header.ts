/** Codec of the LUKS1 header: 592 bytes, big endian, offsets in sectors of 512 bytes. */
import { BlockError, Errno } from '../block/errors.js';
import { latin1 } from '../util/latin1.js';
import { viewOf } from '../util/view.js';
import { parseCipher, requireHash } from './cipher-names.js';
import type { CipherSpec } from './sector-cipher.js';

export const luks1HeaderSize = 592;
export const keyslotCount = 8;
export const stripeCount = 4000;
export const luksMagic = Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe);
/** Key material lies on these boundaries, the first behind the header. */
const alignment = 4096;
const active = 0x00ac_71f3;
const inactive = 0x0000_dead;
const digestLength = 20;

export interface Luks1Keyslot {
  readonly active: boolean;
  readonly iterations: number;
  readonly salt: Uint8Array;
  /** Of the key material, in bytes from the header's start. */
  readonly offset: number;
}

export interface Luks1Header {
  readonly cipher: CipherSpec;
  /** As written: 'xts-plain64'. */
  readonly modeName: string;
  readonly hash: string;
  /** In bytes. */
  readonly payloadOffset: number;
  readonly keyBytes: number;
  readonly digest: Uint8Array;
  readonly salt: Uint8Array;
  readonly iterations: number;
  readonly uuid: string;
  readonly keyslots: readonly Luks1Keyslot[];
}


/** Bytes of a keyslot's material: whole sectors. */
export function materialSize(keyBytes: number): number {
  return Math.ceil(keyBytes * stripeCount / 512) * 512;
}

/** What a keyslot's material keeps from everything else. */
function materialSpace(keyBytes: number): number {
  return Math.ceil(materialSize(keyBytes) / alignment) * alignment;
}

/** Where a new header puts its key material. */
export function keyslotOffset(index: number, keyBytes: number): number {
  return alignment + index * materialSpace(keyBytes);
}

/** Bytes of header and key material together, in a new image. */
export function luks1Size(keyBytes: number): number {
  return keyslotOffset(keyslotCount, keyBytes);
}

export function isLuks(head: Uint8Array): boolean {
  return head.length >= 8 && luksMagic.every((byte, index) => head[index] === byte);
}

export function luksVersion(head: Uint8Array): number {
  return viewOf(head).getUint16(6);
}

/** `detached`: the payload is elsewhere, so that nothing of it can lie within the header. @throws BlockError with the peer's texts */
export function parseLuks1(bytes: Uint8Array, detached: boolean): Luks1Header {
  const view = viewOf(bytes);
  const text = (what: string, offset: number): string => {
    const field = latin1(bytes.subarray(offset, offset + 32));
    const end = field.indexOf('\0');
    if (end < 0) throw corrupt(`LUKS header ${what} is not NUL terminated`);
    return field.slice(0, end);
  };
  const [cipherName, modeName, hash] = [text('cipher name', 8), text('cipher mode', 40), text('hash spec', 72)];
  const keyBytes = view.getUint32(108);
  const payloadOffset = view.getUint32(104) * 512;
  const keyslots = Array.from({ length: keyslotCount }, (_, index): Luks1Keyslot => {
    const at = 208 + index * 48;
    const state = view.getUint32(at);
    if (state !== active && state !== inactive) throw corrupt(`Keyslot ${index} state (active/disable) is corrupted`);
    if (view.getUint32(at + 44) !== stripeCount) throw corrupt(`Keyslot ${index} is corrupted (stripes ${view.getInt32(at + 44)} != ${stripeCount})`);
    return { active: state === active, iterations: view.getUint32(at + 4), salt: bytes.slice(at + 8, at + 40), offset: view.getUint32(at + 40) * 512 };
  });
  const iterations = view.getUint32(164);
  checkPlaces(keyslots, keyBytes, payloadOffset, detached);
  if (iterations === 0) throw corrupt('LUKS key iteration count is zero');
  keyslots.forEach((slot, index) => {
    if (slot.active && slot.iterations === 0) throw corrupt(`Keyslot ${index} iteration count is zero`);
  });
  const cipher = parseCipher(cipherName, modeName, keyBytes);
  requireHash(hash);
  const uuid = latin1(bytes.subarray(168, 208));
  return {
    cipher, modeName, hash, payloadOffset, keyBytes, iterations, keyslots,
    digest: bytes.slice(112, 112 + digestLength), salt: bytes.slice(132, 164), uuid: uuid.split('\0', 1)[0]!,
  };
}

function checkPlaces(keyslots: readonly Luks1Keyslot[], keyBytes: number, payloadOffset: number, detached: boolean): void {
  const size = materialSpace(keyBytes);
  if (!detached && payloadOffset < alignment) throw corrupt('LUKS payload is overlapping with the header');
  keyslots.forEach(({ offset }, index) => {
    if (offset < alignment) throw corrupt(`Keyslot ${index} is overlapping with the LUKS header`);
    if (!detached && offset + size > payloadOffset) throw corrupt(`Keyslot ${index} is overlapping with the encrypted payload`);
    for (let other = index + 1; other < keyslots.length; other++) {
      const theirs = keyslots[other]!.offset;
      if (offset < theirs + size && theirs < offset + size) throw corrupt(`Keyslots ${index} and ${other} are overlapping in the header`);
    }
  });
}

export function serialiseLuks1(header: Luks1Header): Uint8Array {
  const bytes = new Uint8Array(luks1HeaderSize);
  const view = viewOf(bytes);
  const text = (offset: number, value: string): void => bytes.set(new TextEncoder().encode(value), offset);
  bytes.set(luksMagic);
  view.setUint16(6, 1);
  text(8, 'aes');
  text(40, header.modeName);
  text(72, header.hash);
  view.setUint32(104, header.payloadOffset / 512);
  view.setUint32(108, header.keyBytes);
  bytes.set(header.digest, 112);
  bytes.set(header.salt, 132);
  view.setUint32(164, header.iterations);
  text(168, header.uuid);
  header.keyslots.forEach((slot, index) => {
    const at = 208 + index * 48;
    view.setUint32(at, slot.active ? active : inactive);
    view.setUint32(at + 4, slot.iterations);
    bytes.set(slot.salt, at + 8);
    view.setUint32(at + 40, slot.offset / 512);
    view.setUint32(at + 44, stripeCount);
  });
  return bytes;
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
