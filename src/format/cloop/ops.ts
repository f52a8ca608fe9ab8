/** The open layer. Each block is a zlib stream; the last one may hold less than a block. */
import type { BlockChild } from '../../block/child.js';
import { DecodedCache } from '../../block/decoded-cache.js';
import type { LayerExtent } from '../../block/driver.js';
import { Errno, systemError } from '../../block/errors.js';
import { ReadOnlyFormat } from '../../block/read-only-format.js';
import { inflate } from '../../platform/inflate.js';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { viewOf } from '../../util/view.js';
import { offsetsOffset, type CloopHeader } from './header.js';

const cachedBytes = 16 << 20;

export class CloopOps extends ReadOnlyFormat {
  readonly size: number;
  readonly clusterSize: number;
  readonly #file: BlockChild;
  readonly #blocks: number;
  readonly #decoded = new DecodedCache(cachedBytes, (block) => this.#decode(block));

  constructor(file: BlockChild, { blockSize, blocks }: CloopHeader) {
    super();
    this.#file = file;
    this.#blocks = blocks;
    this.clusterSize = blockSize;
    this.size = blocks * blockSize;
  }

  protected map(offset: number, length: number): LayerExtent {
    return { kind: 'data', length: Math.min(length, this.clusterSize - (offset % this.clusterSize)) };
  }

  protected override readEncoded(offset: number, target: Uint8Array): MaybePromise<void> {
    const block = Math.floor(offset / this.clusterSize);
    const inBlock = offset - block * this.clusterSize;
    return andThen(this.#decoded.get(block), (bytes) => target.set(bytes.subarray(inBlock, inBlock + target.length)));
  }

  #decode(block: number): MaybePromise<Uint8Array> {
    const ends = new Uint8Array(16);
    return andThen(this.#file.read(offsetsOffset + block * 8, ends), () => {
      const view = viewOf(ends);
      const start = Number(view.getBigUint64(0));
      const end = Number(view.getBigUint64(8));
      if (end > this.#file.size || start > end) throw systemError(Errno.EIO, { driver: 'cloop', op: 'read', offset: start });
      const stream = new Uint8Array(end - start);
      return andThen(this.#file.read(start, stream), () => this.#inflate(block, stream));
    });
  }

  #inflate(block: number, stream: Uint8Array): Uint8Array {
    let bytes: Uint8Array;
    try {
      bytes = inflate(stream, this.clusterSize);
    } catch (error) {
      throw systemError(Errno.EIO, { driver: 'cloop', op: 'read' }, undefined, error);
    }
    if (bytes.length === this.clusterSize) return bytes;
    if (block < this.#blocks - 1) throw systemError(Errno.EIO, { driver: 'cloop', op: 'read' });
    const filled = new Uint8Array(this.clusterSize);
    filled.set(bytes);
    return filled;
  }
}
