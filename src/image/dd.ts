/** Copying block by block, as dd does. */
import type { BlockBackend } from '../block/child.js';
import { BlockError } from '../block/errors.js';
import { eventsHandled } from '../platform/bytes.js';
import { clockMs } from '../platform/clock.js';
import { run, wait, type Steps } from '../util/steps.js';

const turnMs = 50;

export interface DdRange {
  /** Bytes of the input left out at its start. */
  readonly skip: number;
  /** Bytes of the output. */
  readonly length: number;
}

/** What a copy of `count` blocks (default: all) behind `skip` blocks covers. The blocks skipped count as blocks of the input. */
export function ddRange(inputSize: number, blockSize: number, skip: number, count?: number): DdRange {
  const end = count === undefined ? inputSize : Math.min(inputSize, count * blockSize);
  return { skip: skip * blockSize, length: Math.max(0, end - skip * blockSize) };
}

/** @throws BlockError `error while reading from input image file: …` or `error while writing to output image file: …` */
export async function copyBlocks(input: BlockBackend, output: BlockBackend, { skip, length }: DdRange, blockSize: number): Promise<void> {
  await run(blocks(input, output, skip, length, blockSize));
}

function* blocks(input: BlockBackend, output: BlockBackend, skip: number, length: number, blockSize: number): Steps<void> {
  const buffer = new Uint8Array(Math.min(blockSize, length));
  let lastTurn = clockMs();
  for (let at = 0; at < length; at += blockSize) {
    const block = buffer.subarray(0, Math.min(blockSize, length - at));
    try {
      yield* wait(input.read(skip + at, block));
    } catch (error) {
      throw explained('error while reading from input image file', error);
    }
    try {
      yield* wait(output.write(at, block));
    } catch (error) {
      throw explained('error while writing to output image file', error);
    }
    if (clockMs() - lastTurn > turnMs) {
      yield* wait(eventsHandled());
      lastTurn = clockMs();
    }
  }
}

function explained(what: string, error: unknown): unknown {
  return error instanceof BlockError ? new BlockError(error.code, `${what}: ${error.message}`, error.context, error) : error;
}
