/** The chunks a disk is made of. */
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';

const magic = 0x6d69_7368;
const headerSize = 204;
const entrySize = 40;
const sectorSize = 512;
const longestChunk = 64 << 20;
const mostChunks = 1 << 19;

export const ChunkType = { ZERO: 0, RAW: 1, IGNORED: 2, COMMENT: 0x7fff_fffe, END: 0xffff_ffff } as const;

/** In columns, in the order of the disk; bytes. Chunks of zeroes and what lies between chunks are left out. */
export interface ChunkTable {
  readonly count: number;
  readonly types: Uint32Array;
  readonly starts: Float64Array;
  readonly lengths: Float64Array;
  /** Where the stored bytes lie in the file, and how many there are. */
  readonly places: Float64Array;
  readonly stored: Float64Array;
  /** Byte behind the last chunk, of whatever kind. */
  readonly end: number;
}

interface Chunk { readonly type: number; readonly start: number; readonly length: number; readonly place: number; readonly stored: number }

/**
 * Reads the tables among `resources` (others are passed by). `dataOffset`: where the data fork begins.
 * @throws BlockError CORRUPT_IMAGE with the peer's texts
 */
export function readChunks(resources: readonly Uint8Array[], dataOffset: number): ChunkTable {
  const chunks: Chunk[] = [];
  let end = 0;
  let seen = 0;
  const tables = resources.filter((bytes) => bytes.length >= headerSize && viewOf(bytes).getUint32(0) === magic);
  if (tables.length === 0) throw invalid('The dmg file has no table of chunks');
  for (const bytes of tables) {
    for (const chunk of tableEntries(bytes, dataOffset)) {
      if (++seen > mostChunks) throw invalid('The dmg file has too many chunks');
      end = Math.max(end, chunk.start + chunk.length);
      if (chunk.type === ChunkType.ZERO || chunk.type === ChunkType.IGNORED || chunk.length === 0) continue;
      checkLength(chunk, chunks.length);
      chunks.push(chunk);
    }
  }
  chunks.sort((a, b) => a.start - b.start);
  return {
    count: chunks.length, end,
    types: Uint32Array.from(chunks, ({ type }) => type),
    starts: Float64Array.from(chunks, ({ start }) => start),
    lengths: Float64Array.from(chunks, ({ length }) => length),
    places: Float64Array.from(chunks, ({ place }) => place),
    stored: Float64Array.from(chunks, ({ stored }) => stored),
  };
}

function* tableEntries(bytes: Uint8Array, dataOffset: number): Generator<Chunk> {
  const view = viewOf(bytes);
  const number = (offset: number): number => {
    const value = view.getBigUint64(offset);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid('A chunk of the dmg file leads outside');
    return Number(value);
  };
  const firstSector = number(8);
  const dataStart = dataOffset + number(24);
  const count = Math.min(view.getUint32(200), Math.floor((bytes.length - headerSize) / entrySize));
  for (let index = 0; index < count; index++) {
    const entry = headerSize + index * entrySize;
    const type = view.getUint32(entry);
    if (type === ChunkType.END) return;
    if (type === ChunkType.COMMENT) continue;
    const chunk = {
      type, start: (firstSector + number(entry + 8)) * sectorSize, length: number(entry + 16) * sectorSize,
      place: dataStart + number(entry + 24), stored: number(entry + 32),
    };
    if (chunk.start + chunk.length > Number.MAX_SAFE_INTEGER || chunk.place + chunk.stored > Number.MAX_SAFE_INTEGER) {
      throw invalid('A chunk of the dmg file leads outside');
    }
    yield chunk;
  }
}

function checkLength({ type, length, stored }: Chunk, index: number): void {
  if (type === ChunkType.RAW) return;
  if (length > longestChunk) throw invalid(`sector count ${length / sectorSize} for chunk ${index} is larger than max (${longestChunk / sectorSize})`);
  if (stored > longestChunk) throw invalid(`length ${stored} for chunk ${index} is larger than max (${longestChunk})`);
}

function invalid(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}
