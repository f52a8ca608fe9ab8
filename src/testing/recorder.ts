/**
 * Driver `recorder`: a disk in memory that logs what reaches it, so that every state a power cut could leave can be rebuilt.
 * With `delays` requests complete later and out of order, by a seeded schedule.
 */
import { BlockOps, Req, unlimited, type BlockDriver, type Capabilities, type LayerExtent, type ResizeOptions } from '../block/driver.js';
import { Errno, systemError } from '../block/errors.js';
import type { MaybePromise } from '../util/maybe.js';
import { seededRandom } from './random.js';

/** One change, with the logical times at which it was submitted and acknowledged (Infinity: never). */
export interface RecordedChange {
  readonly kind: 'write' | 'zero' | 'resize';
  readonly offset: number;
  /** Bytes zeroed; for resize the new size. */
  readonly length: number;
  readonly data?: Uint8Array;
  readonly submitted: number;
  acknowledged: number;
}
/** A flush covers the changes acknowledged before it was submitted, once it is acknowledged itself. */
export interface RecordedFlush {
  readonly submitted: number;
  acknowledged: number;
}

/** What reached a recorder since it was made or reset. */
export class Recording {
  /** Content before the first change. */
  initial: Uint8Array;
  content: Uint8Array;
  size: number;
  changes: RecordedChange[] = [];
  flushes: RecordedFlush[] = [];
  /** Logical clock: counts submissions and acknowledgements. */
  time = 0;
  /** Undefined: requests complete at once. */
  random: (() => number) | undefined;

  constructor(initial: Uint8Array = new Uint8Array(0)) {
    this.initial = initial.slice();
    this.content = initial.slice();
    this.size = initial.length;
  }

  /** Forgets the past: what is there now becomes the durable beginning. */
  reset(): void {
    this.initial = this.content.slice(0, this.size);
    this.changes = [];
    this.flushes = [];
    this.time = 0;
  }
}

/** Longest image a recorder keeps, in bytes; beyond it the medium is full. */
const MAX_SIZE = 1 << 26;

const capabilities: Capabilities = Object.freeze({
  write: true, writeFlags: 0, zeroFlags: Req.MAY_UNMAP | Req.NO_FALLBACK, discard: true, resize: 'any', growsOnWrite: true,
});

class RecorderOps extends BlockOps {
  override readonly limits = unlimited;
  override readonly capabilities = capabilities;
  readonly #recording: Recording;

  constructor(recording: Recording) {
    super();
    this.#recording = recording;
  }

  get size(): number { return this.#recording.size; }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.#later(() => {
      target.set(this.#recording.content.subarray(offset, offset + target.length));
    });
  }

  override write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.#change('write', offset, source.length, source.slice());
  }

  override writeZeroes(offset: number, length: number): MaybePromise<void> {
    return this.#change('zero', offset, length);
  }

  override discard(offset: number, length: number): MaybePromise<void> {
    return this.#change('zero', offset, length);
  }

  override flush(): MaybePromise<void> {
    const flush: RecordedFlush = { submitted: this.#recording.time++, acknowledged: Infinity };
    this.#recording.flushes.push(flush);
    return this.#later(() => { flush.acknowledged = this.#recording.time++; });
  }

  status(_offset: number, length: number): LayerExtent { return { kind: 'data', length }; }

  override resize(size: number, _options: ResizeOptions): Promise<void> {
    return Promise.resolve(this.#change('resize', 0, size));
  }

  close(): Promise<void> { return Promise.resolve(); }

  #change(kind: RecordedChange['kind'], offset: number, length: number, data?: Uint8Array): MaybePromise<void> {
    const recording = this.#recording;
    if (offset + length > MAX_SIZE) throw systemError(Errno.ENOSPC, { driver: 'recorder', op: kind, offset, length });
    const change: RecordedChange = { kind, offset, length, ...(data && { data }), submitted: recording.time++, acknowledged: Infinity };
    recording.changes.push(change);
    applyChange(recording, change);
    return this.#later(() => { change.acknowledged = recording.time++; });
  }

  #later(finish: () => void): MaybePromise<void> {
    const { random } = this.#recording;
    if (!random) return finish();
    return turns(Math.floor(random() * 6)).then(finish);
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await undefined;
}

/** Applies one change to an image in memory. */
export function applyChange(image: { content: Uint8Array; size: number }, change: RecordedChange): void {
  const end = change.kind === 'resize' ? change.length : change.offset + change.length;
  if (end > image.content.length) {
    const grown = new Uint8Array(Math.max(end, Math.min(image.content.length * 2, MAX_SIZE)));
    grown.set(image.content.subarray(0, image.size));
    image.content = grown;
  }
  if (change.kind === 'resize') {
    image.content.fill(0, Math.min(end, image.size), Math.max(end, image.size));
    image.size = end;
    return;
  }
  if (change.data) image.content.set(change.data, change.offset);
  else image.content.fill(0, change.offset, end);
  image.size = Math.max(image.size, end);
}

/** A driver named `recorder` whose disk is `recording`. With `seed` requests complete late and out of order. */
export function recorderDriver(recording: Recording, seed?: number): BlockDriver {
  recording.random = seed === undefined ? undefined : seededRandom(seed);
  return { name: 'recorder', kind: 'protocol', options: {}, children: {}, open: () => new RecorderOps(recording) };
}
