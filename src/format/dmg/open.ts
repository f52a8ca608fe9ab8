/** Opening a disk image of Apple's. */
import type { BlockChild } from '../../block/child.js';
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { assertReadOnly } from '../../block/read-only-format.js';
import { ChunkType, readChunks, type ChunkTable } from './chunks.js';
import { decoderOf } from './codec/index.js';
import { DmgOps } from './ops.js';
import { dataOfProperties, dataOfResources } from './resources.js';
import { parseTrailer, searchSize, trailerSize, type DmgTrailer } from './trailer.js';
import { refuseWrapped } from './wrapper.js';

/** Longest property list or resource fork that is read. */
const mostResources = 16 << 20;

/** @throws BlockError CORRUPT_IMAGE, UNSUPPORTED_FEATURE */
export async function openDmg(context: OpenContext<object>): Promise<BlockOps> {
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
