/** What a disk must show: a plain byte array, changed by the same steps as the images under test. */
import { writeFileSync } from 'node:fs';
import type { BlockBackend } from '../../src/block/child.js';
import { Req } from '../../src/block/driver.js';
import { seededRandom } from '../../src/testing/random.js';

export type Step = {
  readonly offset: number;
  readonly length: number;
} & ({ readonly kind: 'write' | 'compressed'; readonly seed: number } | { readonly kind: 'zero' | 'discard' });

/** Reproducible content that differs from place to place; it can be compressed to about a third. */
export function content(seed: number, length: number): Uint8Array {
  const random = seededRandom(seed);
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 3) bytes[at] = Math.floor(random() * 256);
  return bytes;
}

export class DiskModel {
  #bytes: Uint8Array;

  constructor(initial: Uint8Array) {
    this.#bytes = initial.slice();
  }

  get bytes(): Uint8Array { return this.#bytes; }

  apply(steps: readonly Step[]): this {
    for (const step of steps) {
      if ('seed' in step) this.#bytes.set(content(step.seed, step.length), step.offset);
      else this.#bytes.fill(0, step.offset, step.offset + step.length);
    }
    return this;
  }

  resize(size: number): this {
    const bytes = new Uint8Array(size);
    bytes.set(this.#bytes.subarray(0, size));
    this.#bytes = bytes;
    return this;
  }

  copy(): DiskModel {
    return new DiskModel(this.#bytes);
  }
}

/** The steps through the library. */
export async function applySteps(disk: BlockBackend, steps: readonly Step[]): Promise<void> {
  for (const step of steps) {
    const { offset, length } = step;
    if ('seed' in step) await disk.write(offset, content(step.seed, length), step.kind === 'compressed' ? Req.COMPRESSED : 0);
    else if (step.kind === 'zero') await disk.writeZeroes(offset, length, Req.MAY_UNMAP);
    else await disk.discard(offset, length);
  }
}

/** The steps as parameters of a qemu-io, which finds the content in files that `file` gives names to. */
export function stepParameters(steps: readonly Step[], file: (name: string) => string): string[] {
  return steps.flatMap((step) => {
    const { offset, length } = step;
    if (!('seed' in step)) return ['-c', `${step.kind === 'zero' ? 'write -z -u' : 'discard'} ${offset} ${length}`];
    const source = file(`content.${step.seed}.${length}`);
    writeFileSync(source, content(step.seed, length));
    return ['-c', `write ${step.kind === 'compressed' ? '-c ' : ''}-s ${source} ${offset} ${length}`];
  });
}

/** The ranges that a dirty bitmap of that granularity has after the steps. */
export function dirtyRanges(steps: readonly Step[], granularity: number, size: number): [offset: number, length: number][] {
  const dirty = new Uint8Array(Math.ceil(size / granularity));
  for (const { offset, length } of steps) dirty.fill(1, Math.floor(offset / granularity), Math.ceil((offset + length) / granularity));
  const ranges: [number, number][] = [];
  for (let start = dirty.indexOf(1); start >= 0; start = dirty.indexOf(1, start)) {
    const stop = dirty.indexOf(0, start);
    const end = stop < 0 ? dirty.length : stop;
    ranges.push([start * granularity, Math.min(end * granularity, size) - start * granularity]);
    start = end;
  }
  return ranges;
}
