/** Whether two images show the same. */
import type { BlockBackend } from '../block/child.js';
import { chainStatus, type ChainStatus } from '../block/status.js';
import { copyBuffer, eventsHandled, firstDifference, isZero } from '../platform/bytes.js';
import { clockMs } from '../platform/clock.js';
import type { MaybePromise } from '../util/maybe.js';
import { run, wait, type Steps } from '../util/steps.js';

const sector = 512;
/** Progress is told and, at the peer, memory is compared in this many bytes. */
const chunkBytes = 2 << 20;
/** Read at a time: two of them stay in a core's cache. */
const pieceBytes = 128 << 10;
const turnMs = 50;

export type Difference =
  | { readonly kind: 'content'; /** Start of the first sector that differs. */ readonly offset: number }
  | { readonly kind: 'status'; readonly offset: number };

export interface CompareControl {
  /** Ranges must also agree in whether they are allocated, stored, zero, compressed and have a place in a file. */
  readonly strict?: boolean;
  /** Called before the tail that only one image has is looked at. */
  readonly sizesDiffer?: () => void;
  /** Bytes compared so far, and in all. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** One of the images cannot be looked at. */
export class CompareError extends Error {
  override readonly name = 'CompareError';
  readonly image: 0 | 1;
  readonly step: 'status' | 'read';
  readonly offset: number;

  constructor(image: 0 | 1, step: 'status' | 'read', offset: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.image = image;
    this.step = step;
    this.offset = offset;
  }
}

/**
 * The first difference; undefined where there is none. A longer image equals a shorter one if it goes on in zeroes.
 * @throws CompareError
 */
export function compareImages(first: BlockBackend, second: BlockBackend, control: CompareControl = {}): MaybePromise<Difference | undefined> {
  return run(new Comparison([first, second], control).steps());
}

type Pair<T> = readonly [T, T];

class Comparison {
  readonly #images: Pair<BlockBackend>;
  readonly #control: CompareControl;
  readonly #buffers: Pair<Uint8Array> = [copyBuffer(pieceBytes), copyBuffer(pieceBytes)];
  #lastTurn = clockMs();

  constructor(images: Pair<BlockBackend>, control: CompareControl) {
    this.#images = images;
    this.#control = control;
  }

  *steps(): Steps<Difference | undefined> {
    const [{ size: first }, { size: second }] = this.#images;
    const [shared, total] = [Math.min(first, second), Math.max(first, second)];
    for (let at = 0; at < shared;) {
      const statuses: Pair<ChainStatus> = [yield* this.#status(0, at, shared - at), yield* this.#status(1, at, shared - at)];
      let length = Math.min(statuses[0].length, statuses[1].length);
      if (this.#control.strict && !alike(...statuses)) return { kind: 'status', offset: at };
      if (!(showsZeroes(statuses[0]) && showsZeroes(statuses[1]))) {
        length = Math.min(length, chunkBytes);
        const found = yield* this.#compareChunk(at, length, statuses);
        if (found !== undefined) return { kind: 'content', offset: found };
      }
      at += length;
      this.#control.progress?.(at, total);
    }
    if (first === second) return undefined;
    this.#control.sizesDiffer?.();
    const longer = first > second ? 0 : 1;
    for (let at = shared; at < total;) {
      const status = yield* this.#status(longer, at, total - at);
      let { length } = status;
      if (!showsZeroes(status)) {
        length = Math.min(length, chunkBytes);
        const found = yield* this.#firstNonZero(longer, at, length);
        if (found !== undefined) return { kind: 'content', offset: found };
      }
      at += length;
      this.#control.progress?.(at, total);
    }
    return undefined;
  }

  *#compareChunk(offset: number, length: number, statuses: Pair<ChainStatus>): Steps<number | undefined> {
    if (showsZeroes(statuses[0])) return yield* this.#firstNonZero(1, offset, length);
    if (showsZeroes(statuses[1])) return yield* this.#firstNonZero(0, offset, length);
    for (let done = 0; done < length; done += pieceBytes) {
      const at = offset + done;
      const bytes = Math.min(pieceBytes, length - done);
      const a = yield* this.#read(0, at, bytes);
      const b = yield* this.#read(1, at, bytes);
      const difference = firstDifference(a, b);
      if (difference >= 0) return wholeSectors(at + difference);
    }
    return undefined;
  }

  *#firstNonZero(image: 0 | 1, offset: number, length: number): Steps<number | undefined> {
    for (let done = 0; done < length; done += pieceBytes) {
      const bytes = yield* this.#read(image, offset + done, Math.min(pieceBytes, length - done));
      if (!isZero(bytes)) return wholeSectors(offset + done + bytes.findIndex((byte) => byte !== 0));
    }
    return undefined;
  }

  *#read(image: 0 | 1, offset: number, length: number): Steps<Uint8Array> {
    const target = this.#buffers[image].subarray(0, length);
    try {
      yield* wait(this.#images[image].read(offset, target));
    } catch (error) {
      throw new CompareError(image, 'read', offset, error);
    }
    yield* this.#turn();
    return target;
  }

  *#status(image: 0 | 1, offset: number, length: number): Steps<ChainStatus> {
    try {
      return yield* wait(chainStatus(this.#images[image].node, offset, length));
    } catch (error) {
      throw new CompareError(image, 'status', offset, error);
    }
  }

  /** Now and then others may run. */
  *#turn(): Steps<void> {
    if (clockMs() - this.#lastTurn < turnMs) return;
    yield* wait(eventsHandled());
    this.#control.signal?.throwIfAborted();
    this.#lastTurn = clockMs();
  }
}

/** Reads as zero: it says so, or nobody decides it. */
function showsZeroes({ data, zero }: ChainStatus): boolean {
  return zero || !data;
}

function alike(a: ChainStatus, b: ChainStatus): boolean {
  return a.data === b.data && a.zero === b.zero && a.allocated === b.allocated && a.compressed === b.compressed
    && (a.host === undefined) === (b.host === undefined);
}

function wholeSectors(offset: number): number {
  return offset - (offset % sector);
}
