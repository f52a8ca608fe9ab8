/** The open layer. */
import type { BlockChild } from '../../block/child.js';
import { DecodedCache } from '../../block/decoded-cache.js';
import type { LayerExtent } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import { ReadOnlyFormat } from '../../block/read-only-format.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { ChunkType, type ChunkTable } from './chunks.js';
import { decoderOf } from './codec/index.js';

const cachedBytes = 32 << 20;

export class DmgOps extends ReadOnlyFormat {
  readonly size: number;
  readonly clusterSize = 512;
  readonly #file: BlockChild;
  readonly #chunks: ChunkTable;
  readonly #decoded = new DecodedCache(cachedBytes, (chunk) => this.#decode(chunk));

  constructor(file: BlockChild, chunks: ChunkTable, size: number) {
    super();
    this.#file = file;
    this.#chunks = chunks;
    this.size = size;
  }

  protected map(offset: number, length: number): LayerExtent {
    const { count, types, starts, lengths, places, stored } = this.#chunks;
    const chunk = this.#find(offset);
    const inChunk = chunk < 0 ? 0 : offset - starts[chunk]!;
    const left = chunk < 0 ? 0 : lengths[chunk]! - inChunk;
    if (left <= 0) return { kind: 'zero', length: Math.min(length, chunk + 1 < count ? starts[chunk + 1]! - offset : length), allocated: true };
    const found = Math.min(length, left);
    if (types[chunk] !== ChunkType.RAW) return { kind: 'data', length: found };
    const held = stored[chunk]! - inChunk;
    if (held <= 0) return { kind: 'zero', length: found, allocated: true };
    return { kind: 'data', length: Math.min(found, held), host: { child: this.#file, offset: places[chunk]! + inChunk } };
  }

  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    const chunk = this.#find(offset);
    const inChunk = offset - this.#chunks.starts[chunk]!;
    return andThen(this.#decoded.get(chunk), (bytes) => target.set(bytes.subarray(inChunk, inChunk + target.length)));
  }

  /** The last chunk that begins at or before the offset; -1: none does. */
  #find(offset: number): number {
    const { count, starts } = this.#chunks;
    let low = -1;
    for (let high = count; high - low > 1;) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle;
    }
    return low;
  }

  #decode(chunk: number): MaybePromise<Uint8Array> {
    const { types, lengths, places, stored } = this.#chunks;
    const place = places[chunk]!;
    const failed = (cause?: unknown): Error => systemError(Errno.EIO, { driver: 'dmg', op: 'read', offset: place }, undefined, cause);
    const decode = decoderOf(types[chunk]!);
    if (decode === undefined || place >= this.#file.size) throw failed();
    // a chunk may claim more than its stream takes
    const source = new Uint8Array(Math.min(stored[chunk]!, this.#file.size - place));
    return andThen(this.#file.read(place, source), () => {
      const bytes = new Uint8Array(lengths[chunk]!);
      try {
        decode(source, bytes);
      } catch (error) {
        throw failed(error);
      }
      return bytes;
    });
  }
}
