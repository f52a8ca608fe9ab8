/** Compressed clusters: reading, and writing whole clusters packed into shared sectors. */
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { settled } from '../../block/mapped-format.js';
import type { PackedBlock } from '../../platform/compression-threads.js';
import type { Codec } from '../../platform/compression.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { Turns } from '../../util/turns.js';
import type { ClusterMap } from './cluster.js';
import type { Qcow2Image } from './image.js';
import { compressedHi, loOf, maxCompressedOffset } from './tables.js';

/** Requests of at least this many bytes are compressed on another thread. */
const laterFrom = 16 * 1024;

/** Compressed bytes that are read at once. */
const mostTogether = 2 << 20;

export class CompressedClusters {
  readonly #image: Qcow2Image;
  readonly #clusters: ClusterMap;
  readonly #codec: Codec;
  /** Clusters are placed in the order in which they were sent, whichever is compressed first. */
  readonly #turns = new Turns();
  /** Whole clusters asked for since others got their turn. */
  readonly #asked: AskedCluster[] = [];
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
    const cluster = { offset, place: place.offset, length: place.length };
    if (target.length === clusterSize) {
      yield* wait(this.#readWithOthers({ ...cluster, target }));
      return true;
    }
    const bytes = new Uint8Array(clusterSize);
    yield* this.#readAlone({ ...cluster, target: bytes });
    if (age === image.refcounts.age) this.#last = { host: place.offset, age, bytes };
    target.set(bytes.subarray(start, start + target.length));
    return true;
  }

  /** Clusters that are asked for in one go, and lie together, are read at once, and decompressed on other threads where that is quicker. */
  #readWithOthers(cluster: PackedCluster): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#asked.length === 0) queueMicrotask(() => this.#readAsked());
      this.#asked.push({ ...cluster, resolve, reject });
    });
  }

  #readAsked(): void {
    const asked = this.#asked.splice(0);
    for (let at = 0; at < asked.length;) {
      const start = at++;
      while (at < asked.length && liesBehind(asked[at - 1]!, asked[at]!) && asked[at]!.place - asked[start]!.place < mostTogether) at++;
      void run(this.#readRun(asked.slice(start, at)));
    }
  }

  *#readRun(clusters: readonly AskedCluster[]): Steps<void> {
    if (clusters.length > 1 && (yield* this.#readTogether(clusters))) {
      for (const { resolve } of clusters) resolve();
      return;
    }
    for (const cluster of clusters) {
      try {
        yield* this.#readAlone(cluster);
        cluster.resolve();
      } catch (error) {
        cluster.reject(error);
      }
    }
  }

  /** False: one of them cannot be read. */
  *#readTogether(clusters: readonly PackedCluster[]): Steps<boolean> {
    const start = clusters[0]!.place;
    const last = clusters.at(-1)!;
    try {
      const packed = new Uint8Array(last.place + last.length - start);
      yield* wait(this.#image.file.read(start, packed));
      const blocks = clusters.map(({ place, length, target }) => ({ source: packed.subarray(place - start, place - start + length), target }));
      if (this.#codec.decompressLater) yield* wait(this.#codec.decompressLater(blocks));
      else for (const { source, target } of blocks) this.#codec.decompress(source, target);
      return true;
    } catch {
      return false;
    }
  }

  *#readAlone({ offset, place, length, target }: PackedCluster): Steps<void> {
    const { file, context } = this.#image;
    const packed = new Uint8Array(length);
    yield* wait(file.read(place, packed));
    try {
      this.#codec.decompress(packed, target);
    } catch (error) {
      throw new BlockError('IO_ERROR', 'Input/output error', { node: context.nodeName, op: 'read', offset, errno: Errno.EIO }, error);
    }
  }

  /**
   * Stores whole clusters compressed; `source` ends within one only at the end of the disk. Clusters that do not shrink are left to
   * `plain`. @throws EIO where a cluster is stored already; those before it are stored
   */
  *write(offset: number, source: Uint8Array, plain: (offset: number, clusters: Uint8Array) => Steps<void>): Steps<void> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    const placed: Placed[] = [];
    let failure: { readonly error: unknown } | undefined;
    const turn = this.#turns.take();
    try {
      const blocks = yield* this.#pack(source);
      yield* wait(turn.mine);
      for (let at = 0; at < blocks.length;) {
        const start = at;
        const shrink = blocks[at] !== undefined;
        while (at < blocks.length && (blocks[at] !== undefined) === shrink) at++;
        const first = offset + start * clusterSize;
        if (shrink) yield* wait(image.exclusive(() => run(this.#place(first, blocks.slice(start, at), placed))));
        else yield* plain(first, source.subarray(start * clusterSize, at * clusterSize));
      }
    } catch (error) {
      failure = { error };
    } finally {
      turn.done();
    }
    if (!image.dead) yield* this.#store(placed);
    if (failure !== undefined) throw failure.error;
  }

  *#pack(source: Uint8Array): Steps<readonly PackedBlock[]> {
    const { clusterSize } = this.#image.geometry;
    let whole = source;
    if (source.length % clusterSize !== 0) {
      whole = new Uint8Array(Math.ceil(source.length / clusterSize) * clusterSize);
      whole.set(source);
    }
    if (whole.length >= laterFrom) return yield* wait(this.#codec.compressBlocks(whole, clusterSize));
    return Array.from({ length: whole.length / clusterSize }, (_, index) => {
      const packed = this.#codec.compress(whole.subarray(index * clusterSize, (index + 1) * clusterSize));
      return packed.length < clusterSize ? packed : undefined;
    });
  }

  /** Finds room for blocks of clusters that follow each other. */
  *#place(offset: number, blocks: readonly PackedBlock[], placed: Placed[]): Steps<void> {
    const { clusterBits, clusterSize } = this.#image.geometry;
    for (const [index, packed] of blocks.entries()) {
      const cluster = offset + index * clusterSize;
      yield* this.#clusters.prepareCompressed(cluster);
      const place = yield* this.#image.refcounts.allocateBytes(packed!.length, maxCompressedOffset(clusterBits));
      placed.push({ offset: cluster, place, packed: packed! });
    }
  }

  /** Writes what lies behind each other at once, then refers to it. What could not be written is given back; where referring fails, it leaks. */
  *#store(placed: readonly Placed[]): Steps<void> {
    const image = this.#image;
    let written = 0;
    try {
      while (written < placed.length) {
        const together = placed.slice(written, endOfRun(placed, written));
        const [{ place, packed: { buffer, byteOffset } }, last] = [together[0]!, together.at(-1)!];
        const length = last.place + last.packed.length - place;
        image.checkOverlap(place, length);
        yield* wait(image.debug('write_compressed'));
        yield* wait(image.file.write(place, new Uint8Array(buffer, byteOffset, length)));
        written += together.length;
        yield* wait(image.exclusive(() => run(this.#link(together))));
      }
    } catch (error) {
      if (!image.dead) yield* wait(image.exclusive(() => run(this.#release(placed.slice(written)))));
      throw error;
    }
  }

  *#link(placed: readonly Placed[]): Steps<void> {
    const { clusterBits } = this.#image.geometry;
    for (const { offset, place, packed } of placed) {
      yield* this.#clusters.linkCompressed(offset, compressedHi(place, packed.length, clusterBits), loOf(place));
    }
  }

  *#release(placed: readonly Placed[]): Steps<void> {
    for (const { place, packed } of placed) yield* this.#image.refcounts.update(place, packed.length, -1);
  }

  /** Lets the file end with a whole sector, after the last compressed cluster of an image. */
  *alignFile(): Steps<void> {
    const { file } = this.#image;
    const size = Math.ceil(file.size / 512) * 512;
    if (size !== file.size) yield* wait(file.resize(size, { exact: false }));
  }
}

/** A compressed cluster of the disk, where in the file it lies, and the memory that its content fills. */
interface PackedCluster { readonly offset: number; readonly place: number; readonly length: number; readonly target: Uint8Array }
interface AskedCluster extends PackedCluster { readonly resolve: () => void; readonly reject: (error: unknown) => void }

/** Lengths are known by sectors: the next one may begin within the last. */
function liesBehind({ place, length }: PackedCluster, next: PackedCluster): boolean {
  return next.place > place && next.place <= place + length;
}

/** A compressed cluster and where in the file it is to lie. */
interface Placed { readonly offset: number; readonly place: number; readonly packed: Uint8Array }

/** End of those from `start` on that lie behind each other, in memory and in the file. */
function endOfRun(placed: readonly Placed[], start: number): number {
  let end = start + 1;
  for (; end < placed.length; end++) {
    const { place, packed } = placed[end - 1]!;
    const next = placed[end]!;
    if (next.place !== place + packed.length || next.packed.buffer !== packed.buffer || next.packed.byteOffset !== packed.byteOffset + packed.length) break;
  }
  return end;
}

/** Refusal of compressed writes that are not made of whole clusters. */
export function misplacedCompressedWrite(offset: number, length: number): BlockError {
  return systemError(Errno.EINVAL, { op: 'write', offset, length });
}
