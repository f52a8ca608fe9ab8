/** Which parts of a disk hold anything. */
import type { BlockNode } from '../../block/node.js';
import { blockStatus, chainStatus } from '../../block/status.js';
import { MAX_CHUNK_NUMBER, MIN_CHUNK_SIZE, SECTOR_SIZE } from './constants.js';
import { VixError } from './errors.js';
import { toBytes, toSectors, type Sectors } from './sectors.js';

/** VixDiskLibBlock: sectors. */
export interface Block {
  readonly offset: number;
  readonly length: number;
}

export interface QueryOptions {
  /** First sector; 0 by default. */
  readonly start?: Sectors | undefined;
  /** Sectors; up to the end by default. */
  readonly length?: Sectors | undefined;
  /** Sectors of which one answer is made, at least {@link MIN_CHUNK_SIZE}, which is the default. */
  readonly chunkSize?: Sectors | undefined;
}

export interface Query {
  /** All in bytes. */
  readonly start: number;
  readonly end: number;
  readonly chunk: number;
}

/** @throws VixError VIX_E_INVALID_ARG, VIX_E_DISK_OUTOFRANGE */
export function planQuery(size: number, { start = 0, length, chunkSize = MIN_CHUNK_SIZE }: QueryOptions): Query {
  const whole = toSectors(size) * SECTOR_SIZE;
  const from = toBytes(start);
  const end = length === undefined ? whole : from + toBytes(length);
  const chunk = toBytes(chunkSize);
  if (chunk < MIN_CHUNK_SIZE * SECTOR_SIZE) throw new VixError('VIX_E_INVALID_ARG', `chunks have at least ${MIN_CHUNK_SIZE} sectors`);
  if (from > whole || end > whole) throw new VixError('VIX_E_DISK_OUTOFRANGE', `the disk has ${toSectors(size)} sectors`);
  return { start: from, end, chunk };
}

/** @throws VixError VIX_E_INVALID_ARG where one call would look at too many chunks */
export function refuseTooMany({ start, end, chunk }: Query): void {
  if (Math.floor((end - start) / chunk) > MAX_CHUNK_NUMBER) throw new VixError('VIX_E_INVALID_ARG', `one call looks at no more than ${MAX_CHUNK_NUMBER} chunks`);
}

/**
 * Runs of chunks that hold anything, counted from `start` on. In a whole chain what is known to read as zero is left out; of a single
 * link everything is told that does not show its parent.
 */
export async function* allocatedRuns(node: BlockNode, { start, end, chunk }: Query, single: boolean): AsyncGenerator<Block> {
  let run: { start: number; end: number } | undefined;
  for (let at = start; at < end;) {
    const status = single ? await blockStatus(node, at, end - at, true) : await chainStatus(node, at, end - at);
    const next = at + status.length;
    if (single ? status.allocated || status.data : !status.zero) {
      const first = at - (at - start) % chunk;
      const last = Math.min(end, start + Math.ceil((next - start) / chunk) * chunk);
      if (run !== undefined && first <= run.end) run.end = last;
      else {
        if (run !== undefined) yield toBlock(run);
        run = { start: first, end: last };
      }
      // what is told of a chunk need not be asked again
      at = last;
    } else {
      at = next;
    }
  }
  if (run !== undefined) yield toBlock(run);
}

function toBlock({ start, end }: { readonly start: number; readonly end: number }): Block {
  return { offset: start / SECTOR_SIZE, length: (end - start) / SECTOR_SIZE };
}
