/** Where an image keeps its tables of chunks: in a property list as base64, or in a resource fork. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

const tableType = 0x626c_6b78;
const mostTables = 4096;

/** The data of everything in the property list, tables and others. @throws BlockError CORRUPT_IMAGE */
export function dataOfProperties(bytes: Uint8Array): Uint8Array[] {
  const text = new TextDecoder('latin1').decode(bytes);
  const found: Uint8Array[] = [];
  for (let at = 0; ;) {
    const start = text.indexOf('<data>', at);
    if (start < 0) return found;
    const end = text.indexOf('</data>', start);
    if (end < 0) throw broken();
    found.push(fromBase64(text.slice(start + '<data>'.length, end)));
    at = end;
  }
}

function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw broken();
  }
}

/** The tables in a resource fork. Big-endian. @throws BlockError CORRUPT_IMAGE */
export function dataOfResources(bytes: Uint8Array): Uint8Array[] {
  const view = viewOf(bytes);
  try {
    const data = view.getUint32(0);
    const types = view.getUint32(4) + view.getUint16(view.getUint32(4) + 24);
    const found: Uint8Array[] = [];
    for (let type = 0; type <= view.getUint16(types); type++) {
      const entry = types + 2 + type * 8;
      if (view.getUint32(entry) !== tableType) continue;
      const references = types + view.getUint16(entry + 6);
      for (let index = 0; index <= view.getUint16(entry + 4); index++) {
        const place = data + (view.getUint32(references + index * 12 + 4) & 0xff_ffff);
        const length = view.getUint32(place);
        if (place + 4 + length > bytes.length || found.length === mostTables) throw broken();
        found.push(bytes.subarray(place + 4, place + 4 + length));
      }
    }
    return found;
  } catch (error) {
    if (error instanceof RangeError) throw broken();
    throw error;
  }
}

function broken(): BlockError {
  return new BlockError('CORRUPT_IMAGE', 'The resources of the dmg file are broken', { errno: Errno.EINVAL });
}
