/** The trailer that a UDIF image ends with. Big-endian. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

export const trailerSize = 512;
/** The trailer is looked for in so many last bytes: not all files end with it. */
export const searchSize = 4096;
const magic = 0x6b6f_6c79;
const version = 4;

export interface DmgTrailer {
  readonly dataOffset: number;
  /** The resource fork of older images, and the property list of newer ones; length 0: absent. */
  readonly resources: { readonly offset: number; readonly length: number };
  readonly properties: { readonly offset: number; readonly length: number };
  /** Sectors of the disk. */
  readonly sectors: number;
}

/**
 * Finds it in the last bytes of a file.
 * @throws BlockError NOT_THIS_FORMAT | UNSUPPORTED_FEATURE with the peer's texts
 */
export function parseTrailer(tail: Uint8Array): DmgTrailer {
  const view = viewOf(tail);
  let at = tail.length - trailerSize;
  while (at >= 0 && view.getUint32(at) !== magic) at--;
  if (at < 0) throw new BlockError('NOT_THIS_FORMAT', 'Could not locate UDIF trailer in dmg file', { errno: Errno.EINVAL });
  const found = view.getUint32(at + 4);
  if (found !== version) throw new BlockError('UNSUPPORTED_FEATURE', `UDIF version ${found} is not supported`);
  const segments = view.getUint32(at + 60);
  if (segments > 1) throw new BlockError('UNSUPPORTED_FEATURE', `UDIF images in ${segments} segments are not supported`);
  const word = (offset: number): number => {
    const value = view.getBigUint64(at + offset);
    if (value > BigInt(Math.floor(Number.MAX_SAFE_INTEGER / 1024))) throw new BlockError('CORRUPT_IMAGE', 'UDIF trailer is broken', { errno: Errno.EINVAL });
    return Number(value);
  };
  return {
    dataOffset: word(24), sectors: word(492),
    resources: { offset: word(40), length: word(48) }, properties: { offset: word(216), length: word(224) },
  };
}
