/** The compressions a chunk may have. */
import { inflate } from '../../../platform/inflate.js';
import { systemBzip2, systemXz, type Decode } from '../../../platform/system-codecs.js';
import { decodeAdc } from './adc.js';
import { decodeBzip2 } from './bzip2.js';
import { decodeLzfse } from './lzfse.js';
import { decodeXz } from './xz.js';

/** The system's library if there is one, else ours; also where the library finds fault with what ours may yet read. */
function preferring(system: () => Decode | undefined, own: Decode): () => Decode {
  let found: Decode | undefined;
  return () => (found ??= ((library) => (library === undefined ? own : (source: Uint8Array, target: Uint8Array) => {
    try {
      library(source, target);
    } catch {
      own(source, target);
    }
  }))(system()));
}

const bzip2 = preferring(systemBzip2, decodeBzip2);
const xz = preferring(systemXz, decodeXz);

function decodeZlib(source: Uint8Array, target: Uint8Array): void {
  const bytes = inflate(source, target.length);
  if (bytes.length !== target.length) throw new Error('compressed data ends early');
  target.set(bytes);
}

/** By the type of the chunk. Each fills its target or throws. */
export function decoderOf(type: number): Decode | undefined {
  switch (type) {
    case 0x8000_0004: return decodeAdc;
    case 0x8000_0005: return decodeZlib;
    case 0x8000_0006: return bzip2();
    case 0x8000_0007: return decodeLzfse;
    case 0x8000_0008: return xz();
    default: return undefined;
  }
}
