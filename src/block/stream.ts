/** Images as streams: written from first byte to last, without going back. */
import type { BlockBackend } from './child.js';
import { BlockError } from './errors.js';
import { chainStatus } from './status.js';

/** An image on its way to a pipe or an HTTP body. */
export interface ImageStream {
  /** Bytes in all, known in advance where nothing is compressed. */
  readonly length?: number;
  /** Each chunk is its receiver's to keep. */
  chunks(): AsyncGenerator<Uint8Array, void, undefined>;
}

/** Units `first` to `first + count` of a disk, all of which hold data. */
export interface UnitRun {
  readonly first: number;
  readonly count: number;
}

/** Bytes read at a time. */
export const streamPiece = 2 << 20;

/** The units of `unit` bytes that may hold other than zeroes, by what the layers say; nothing is read. In order. */
export async function* dataUnits(source: BlockBackend, unit: number): AsyncGenerator<UnitRun, void, undefined> {
  let pending: UnitRun | undefined;
  for (let at = 0; at < source.size;) {
    const { length, zero } = await chainStatus(source.node, at, source.size - at);
    if (!zero) {
      const first = Math.floor(at / unit);
      const end = Math.ceil((at + length) / unit);
      if (pending && first <= pending.first + pending.count) pending = { first: pending.first, count: end - pending.first };
      else {
        if (pending) yield pending;
        pending = { first, count: end - first };
      }
    }
    at += length;
  }
  if (pending) yield pending;
}

/** The bytes of units (all that hold data), one behind the other; the last one is filled with zeroes where the disk ends within it. */
export async function* readUnits(
  source: BlockBackend, unit: number, runs: AsyncIterable<UnitRun> | Iterable<UnitRun> = dataUnits(source, unit),
): AsyncGenerator<Uint8Array, void, undefined> {
  const piece = Math.max(unit, streamPiece - (streamPiece % unit));
  for await (const { first, count } of runs) {
    const end = (first + count) * unit;
    for (let at = first * unit; at < end; at += piece) {
      const bytes = new Uint8Array(Math.min(piece, end - at));
      const inside = Math.min(bytes.length, source.size - at);
      await source.read(at, bytes.subarray(0, inside));
      yield bytes;
    }
  }
}

/**
 * The same stream, failing where it does not end at the length it announced: the source was changed under way.
 * @throws BlockError
 */
export function measured(stream: ImageStream): ImageStream {
  const { length } = stream;
  if (length === undefined) return stream;
  return {
    length,
    async *chunks() {
      let sent = 0;
      for await (const chunk of stream.chunks()) {
        sent += chunk.length;
        if (sent > length) break;
        yield chunk;
      }
      if (sent !== length) throw new BlockError('IO_ERROR', 'The source changed while it was streamed');
    },
  };
}
