/** Driver `dmg`: Apple's disk images (UDIF), to be read. */
import type { BlockChild } from '../../block/child.js';
import type { BlockDriver } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { assertReadOnly } from '../../block/read-only-format.js';
import { ChunkType, readChunks, type ChunkTable } from './chunks.js';
import { decoderOf } from './codec/index.js';
import { DmgOps } from './ops.js';
import { dataOfProperties, dataOfResources } from './resources.js';
import { parseTrailer, searchSize, trailerSize, type DmgTrailer } from './trailer.js';

const encryptedHead = 'encrcdsa';
const encryptedTail = 'cdsaencr';
/** Apple's images that grow: another format, and nothing a raw disk begins with. */
const sparseHead = 'sprs';
/** Longest property list or resource fork that is read. */
const mostResources = 16 << 20;

export const dmg: BlockDriver = {
  name: 'dmg',
  kind: 'format',
  options: {},
  children: { file: { role: 'image' } },
  probe: (head, filename) => (text(head, 0) === encryptedHead || text(head, 0).startsWith(sparseHead) ? 100 : filename.endsWith('.dmg') ? 2 : 0),
  async open(context) {
    assertReadOnly(context);
    const file = context.child('file')!;
    if (file.size < trailerSize) throw invalid('dmg file must be at least 512 bytes long');
    await refuseWrapped(file);
    const tail = new Uint8Array(Math.min(file.size, searchSize));
    await file.read(file.size - tail.length, tail);
    const trailer = parseTrailer(tail);
    const chunks = readChunks(await readResources(file, trailer), trailer.dataOffset);
    for (const type of unknownTypes(chunks)) {
      context.warn(`Image contains chunks of unknown type ${type.toString(16)}, accessing them will result in I/O errors`);
    }
    return new DmgOps(file, chunks, Math.max(trailer.sectors * 512, chunks.end));
  },
};

function text(bytes: Uint8Array, at: number): string {
  return new TextDecoder('latin1').decode(bytes.subarray(at, at + 8));
}

/** @throws BlockError UNSUPPORTED_FEATURE where the image lies in an encrypted or sparse wrapper */
async function refuseWrapped(file: BlockChild): Promise<void> {
  const ends = new Uint8Array(16);
  await file.read(0, ends.subarray(0, 8));
  await file.read(file.size - 8, ends.subarray(8));
  const version = text(ends, 0) === encryptedHead ? 2 : text(ends, 8) === encryptedTail ? 1 : undefined;
  if (text(ends, 0).startsWith(sparseHead)) throw new BlockError('UNSUPPORTED_FEATURE', 'Apple sparse images are not supported');
  if (version !== undefined) throw new BlockError('UNSUPPORTED_FEATURE', `Encrypted dmg files are not supported (encryption wrapper version ${version})`);
}

async function readResources(file: BlockChild, { resources, properties }: DmgTrailer): Promise<Uint8Array[]> {
  const { offset, length } = properties.length > 0 ? properties : resources;
  if (length === 0) throw invalid('The dmg file has neither a property list nor a resource fork');
  if (length > mostResources || offset + length > file.size) throw invalid('The resources of the dmg file lead outside');
  const bytes = new Uint8Array(length);
  await file.read(offset, bytes);
  return properties.length > 0 ? dataOfProperties(bytes) : dataOfResources(bytes);
}

function unknownTypes({ types }: ChunkTable): Set<number> {
  return new Set(types.filter((type) => type !== ChunkType.RAW && decoderOf(type) === undefined));
}

function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
