/** Compressing grains beside each other, and handing them on in the order in which they came. */
import { zlibStream } from '../../platform/compression.js';
import { Turns } from '../../util/turns.js';
import { wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { grainMarkerLength, sectorSize } from './header.js';

export class GrainPacker {
  readonly #turns = new Turns();
  readonly #grainSize: number;

  constructor(grainSize: number) {
    this.#grainSize = grainSize;
  }

  /**
   * Compresses grains that follow each other; `source` ends within one only at the end of the disk. `store` gets each with its
   * marker, in whole sectors, when all that came before have been stored.
   */
  *pack(grain: number, source: Uint8Array, store: (grain: number, packed: Uint8Array) => Steps<void>): Steps<void> {
    let whole = source;
    if (source.length % this.#grainSize !== 0) {
      whole = new Uint8Array(Math.ceil(source.length / this.#grainSize) * this.#grainSize);
      whole.set(source);
    }
    const turn = this.#turns.take();
    try {
      const blocks = yield* wait(zlibStream.compressBlocks(whole, this.#grainSize));
      yield* wait(turn.mine);
      for (const [index, packed] of blocks.entries()) {
        yield* store(grain + index, withMarker((grain + index) * this.#grainSize / sectorSize, packed!));
      }
    } finally {
      turn.done();
    }
  }
}

/** Marker, data, and padding to whole sectors. */
export function withMarker(place: number, packed: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((grainMarkerLength + packed.length) / sectorSize) * sectorSize);
  const view = viewOf(bytes);
  view.setBigUint64(0, BigInt(place), true);
  view.setUint32(8, packed.length, true);
  bytes.set(packed, grainMarkerLength);
  return bytes;
}
