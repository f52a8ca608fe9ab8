/** The XZ container: blocks of LZMA2. Check sums inside it are not looked at. */
import { LzmaDecoder } from './lzma.js';

const magic = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0];
const streamHeaderSize = 12;
const lzma2 = 0x21;
/** Bytes of a block's check by the kind the stream names. */
const checkSizes = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

/** Fills target. @throws Error where the stream is broken, ends early or uses other filters than LZMA2 */
export function decodeXz(source: Uint8Array, target: Uint8Array): void {
  if (magic.some((byte, index) => source[index] !== byte)) throw new Error('not XZ data');
  const checkSize = checkSizes[source[7]! & 15]!;
  let from = streamHeaderSize;
  for (let at = 0; at < target.length;) {
    const headerSize = ((source[from] ?? 0) + 1) * 4;
    if (headerSize === 4 || from + headerSize > source.length) throw new Error('XZ data ends early');
    checkFilters(source.subarray(from + 1, from + headerSize - 4));
    from += headerSize;
    const block = decodeLzma2(source.subarray(from), target.subarray(at));
    at += block.written;
    from += Math.ceil(block.read / 4) * 4 + checkSize;
  }
}

function checkFilters(header: Uint8Array): void {
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = header[at++];
      if (byte === undefined || scale > 2 ** 49) throw new Error('XZ data is broken');
      value += (byte & 0x7f) * scale;
      if ((byte & 0x80) === 0) return value;
    }
  };
  const flags = next();
  if ((flags & 0x40) !== 0) next();
  if ((flags & 0x80) !== 0) next();
  const filter = next();
  if ((flags & 3) !== 0 || filter !== lzma2) throw new Error(`XZ filter 0x${filter.toString(16)} is not supported`);
}

/** Decodes chunks up to their end, or until the target is full. */
function decodeLzma2(source: Uint8Array, target: Uint8Array): { read: number; written: number } {
  const decoder = new LzmaDecoder(target);
  let from = 0;
  for (;;) {
    const control = source[from];
    if (control === undefined) throw new Error('LZMA data ends early');
    if (control === 0) return { read: from + 1, written: decoder.at };
    if (decoder.at === target.length) return { read: from, written: decoder.at };
    const low = ((source[from + 1]! << 8) | source[from + 2]!) + 1;
    if (control < 0x80) {
      if (control > 2) throw new Error('LZMA data is broken');
      if (control === 1) decoder.resetDictionary();
      if (from + 3 + low > source.length) throw new Error('LZMA data ends early');
      decoder.store(source.subarray(from + 3, from + 3 + low));
      from += 3 + low;
      continue;
    }
    const packed = ((source[from + 3]! << 8) | source[from + 4]!) + 1;
    const withProperties = control >= 0xc0;
    const start = from + (withProperties ? 6 : 5);
    if (start + packed > source.length) throw new Error('LZMA data ends early');
    if (control >= 0xe0) decoder.resetDictionary();
    if (withProperties) decoder.setProperties(source[from + 5]!);
    else if (control >= 0xa0) decoder.resetState();
    decoder.decode(source.subarray(start, start + packed), ((control & 0x1f) << 16) + low);
    from = start + packed;
  }
}
