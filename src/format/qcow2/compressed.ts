/** Compressed clusters: reading, and writing whole clusters packed into shared sectors. */
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { settled } from '../../block/mapped-format.js';
import type { Codec } from '../../platform/compression.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { Turns } from '../../util/turns.js';
import type { ClusterMap } from './cluster.js';
import type { Qcow2Image } from './image.js';
import { compressedHi, loOf, maxCompressedOffset } from './tables.js';

/** Clusters at least this large are compressed on another thread. */
const laterFrom = 16 * 1024;

export class CompressedClusters {
  readonly #image: Qcow2Image;
  readonly #clusters: ClusterMap;
  readonly #codec: Codec;
  /** Clusters are packed in the order in which they were sent, whichever is compressed first. */
  readonly #turns = new Turns();
  /** The cluster last decompressed for a part of it, and the state of compressed data it belongs to. */
  #last: { readonly host: number; readonly age: number; readonly bytes: Uint8Array } | undefined;

  constructor(image: Qcow2Image, clusters: ClusterMap, codec: Codec) {
    this.#image = image;
    this.#clusters = clusters;
    this.#codec = codec;
  }

  /** Reads from a cluster that is mapped as compressed. Undefined: it is so no longer, and must be looked up again. */
  *read(offset: number, target: Uint8Array): Steps<boolean> {
    const place = yield* settled(() => this.#clusters.compressed(offset));
    if (place === undefined) return false;
    const image = this.#image;
    const { clusterSize } = image.geometry;
    const start = offset % clusterSize;
    const age = image.refcounts.age;
    if (this.#last?.host === place.offset && this.#last.age === age) {
      target.set(this.#last.bytes.subarray(start, start + target.length));
      return true;
    }
    const whole = target.length === clusterSize;
    const bytes = whole ? target : new Uint8Array(clusterSize);
    const packed = new Uint8Array(place.length);
    yield* wait(image.file.read(place.offset, packed));
    try {
      this.#codec.decompress(packed, bytes);
    } catch (error) {
      throw new BlockError('IO_ERROR', 'Input/output error', { node: image.context.nodeName, op: 'read', offset, errno: Errno.EIO }, error);
    }
    if (whole) return true;
    if (age === image.refcounts.age) this.#last = { host: place.offset, age, bytes };
    target.set(bytes.subarray(start, start + target.length));
    return true;
  }

  /**
   * Stores one cluster compressed; `source` is shorter only at the end of the disk. False: it does not shrink, and is to be written
   * plainly. @throws EIO where the cluster is stored already
   */
  *write(offset: number, source: Uint8Array): Steps<boolean> {
    const image = this.#image;
    const { clusterBits, clusterSize } = image.geometry;
    let whole = source;
    if (source.length < clusterSize) {
      whole = new Uint8Array(clusterSize);
      whole.set(source);
    }
    let packed: Uint8Array;
    let place: number;
    const turn = this.#turns.take();
    try {
      packed = clusterSize >= laterFrom ? yield* wait(this.#codec.compressLater(whole)) : this.#codec.compress(whole);
      yield* wait(turn.mine);
      if (packed.length >= clusterSize) return false;
      place = yield* wait(image.exclusive(() => run(this.#reserve(offset, packed.length))));
    } finally {
      turn.done();
    }
    try {
      image.checkOverlap(place, packed.length);
      yield* wait(image.debug('write_compressed'));
      yield* wait(image.file.write(place, packed));
    } catch (error) {
      if (!image.dead) yield* wait(image.exclusive(() => run(image.refcounts.update(place, packed.length, -1))));
      throw error;
    }
    const hi = compressedHi(place, packed.length, clusterBits);
    yield* wait(image.exclusive(() => run(this.#clusters.linkCompressed(offset, hi, loOf(place)))));
    return true;
  }

  *#reserve(offset: number, length: number): Steps<number> {
    yield* this.#clusters.prepareCompressed(offset);
    return yield* this.#image.refcounts.allocateBytes(length, maxCompressedOffset(this.#image.geometry.clusterBits));
  }

  /** Lets the file end with a whole sector, after the last compressed cluster of an image. */
  *alignFile(): Steps<void> {
    const { file } = this.#image;
    const size = Math.ceil(file.size / 512) * 512;
    if (size !== file.size) yield* wait(file.resize(size, { exact: false }));
  }
}

/** Refusal of compressed writes that are not made of whole clusters. */
export function misplacedCompressedWrite(offset: number, length: number): BlockError {
  return systemError(Errno.EINVAL, { op: 'write', offset, length });
}
