/** Laying a new image on a file. */
import type { BlockBackend } from '../../block/child.js';
import type { OptionValue } from '../../block/options.js';
import { viewOf } from '../../util/view.js';
import { headerBytes, ImageType, maxBlocks, newBlockSize, newHeader, tooLarge } from './header.js';
import { absent, entrySize } from './entries.js';

const chunkSize = 1 << 20;

/** Header and block map; of a fixed image, room for all blocks too. @throws BlockError with the peer's text */
export async function createVdi(target: BlockBackend, options: Readonly<Record<string, OptionValue>> & { readonly size: number }): Promise<void> {
  if (options.size > maxBlocks * newBlockSize) throw tooLarge(options.size);
  const fixed = options['static'] === true;
  const size = Math.ceil(options.size / 512) * 512;
  const blocks = Math.ceil(size / newBlockSize);
  const dataOffset = newDataOffset(blocks);
  if (target.size > 0) await target.resize(0, { exact: false });
  await target.resize(fixed ? dataOffset + blocks * newBlockSize : dataOffset, { exact: false });
  for (let first = 0; first < blocks; first += chunkSize / entrySize) {
    await target.write(headerBytes + first * entrySize, mapChunk(first, Math.min(blocks - first, chunkSize / entrySize), fixed));
  }
  await target.write(0, newHeader({ type: fixed ? ImageType.FIXED : ImageType.DYNAMIC, size, blocks, dataOffset, uuid: newUuid(), snapshot: newUuid() }));
}

/** Where the blocks of a new image begin. */
export function newDataOffset(blocks: number): number {
  return headerBytes + Math.ceil(blocks * entrySize / 512) * 512;
}

function mapChunk(first: number, count: number, fixed: boolean): Uint8Array {
  const bytes = new Uint8Array(count * entrySize);
  const view = viewOf(bytes);
  for (let at = 0; at < count; at++) view.setUint32(at * entrySize, fixed ? first + at : absent, true);
  return bytes;
}

function newUuid(): Uint8Array {
  const uuid = crypto.getRandomValues(new Uint8Array(16));
  // version and variant of a random one; the third group is little-endian
  uuid[7] = (uuid[7]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return uuid;
}
