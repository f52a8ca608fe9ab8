/** Moving bytes past the page cache (O_DIRECT), through memory aligned as devices want it. */
import { readSync } from 'node:fs';
import { andThen, type MaybePromise } from '../../util/maybe.js';
import { readLater, writeLater } from './pool.js';
import type { Transfer } from './transfer.js';

const slotSize = 1 << 20;
const slotCount = 4;
const pageSize = 4096;

/** Node's types leave it out. */
declare const WebAssembly: { readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer } };

/** WebAssembly memory begins at a page: the one aligned memory a script can have. */
function alignedMemory(bytes: number): ArrayBuffer {
  const pages = Math.ceil(bytes / 65536);
  return new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer;
}

let probeMemory: ArrayBuffer | undefined;

/** The alignment in bytes that the descriptor, opened with O_DIRECT, asks of offsets and lengths: 512, 4096 or 0 where neither helps. */
export function probeAlignment(fd: number): number {
  probeMemory ??= alignedMemory(pageSize);
  for (const alignment of [512, pageSize]) {
    try {
      readSync(fd, new Uint8Array(probeMemory, 0, alignment), 0, alignment, alignment);
      return alignment;
    } catch {
      // Refused: try the next.
    }
  }
  return 0;
}

/**
 * Every request waits for the device, so all go to the thread pool. Requests are aligned to `alignment` (the node sees to it);
 * bytes past the file's end are zero.
 */
export class DirectTransfer implements Transfer {
  readonly #fd: number;
  readonly #alignment: number;
  readonly #memory = alignedMemory(slotSize * slotCount);
  readonly #free: Uint8Array[] = Array.from({ length: slotCount }, (_, index) => new Uint8Array(this.#memory, index * slotSize, slotSize));
  readonly #waiting: ((slot: Uint8Array) => void)[] = [];

  constructor(fd: number, alignment: number) {
    this.#fd = fd;
    this.#alignment = alignment;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#pieces(target.length, 0, (slot, at) =>
      readLater(this.#fd, offset + at, slot, 0, this.#alignment).then(() => target.set(slot, at)));
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#pieces(source.length, 0, (slot, at) => {
      slot.set(source.subarray(at, at + slot.length));
      return writeLater(this.#fd, offset + at, slot, 0);
    });
  }

  #pieces(length: number, at: number, move: (slot: Uint8Array, at: number) => Promise<void>): Promise<void> {
    const moved = andThen(this.#takeSlot(), (slot) =>
      move(slot.subarray(0, Math.min(slotSize, length - at)), at).finally(() => this.#giveBack(slot)));
    return Promise.resolve(moved).then(() => at + slotSize < length ? this.#pieces(length, at + slotSize, move) : undefined);
  }

  #takeSlot(): MaybePromise<Uint8Array> {
    return this.#free.pop() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  #giveBack(slot: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next) next(slot);
    else this.#free.push(slot);
  }
}
