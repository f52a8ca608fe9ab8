/** Where the content of an image lies. */
import type { BlockNode } from '../block/node.js';
import { blockStatus, type BlockStatus } from '../block/status.js';
import type { MaybePromise } from '../util/maybe.js';
import { run, wait, type Steps } from '../util/steps.js';

/** A range with one answer. Bytes. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** Layers below the image in which the range was found; 0 is the image itself. */
  readonly depth: number;
  /** Some layer decides the range. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly compressed: boolean;
  /** Where the bytes lie plainly (or room is reserved for them), and in which file. */
  readonly offset?: number;
  readonly file?: BlockNode;
}

/**
 * Reports the ranges of [start, end) in order, neighbours with the same answer joined. Of an empty range one empty entry is reported.
 * `last`: no entry follows; where a range cannot be told, none was the last.
 * `end` past the image's end means its end.
 */
export function mapImage(top: BlockNode, start: number, end: number, report: (entry: MapEntry, last: boolean) => void): MaybePromise<void> {
  return run(mapSteps(top, start, Math.min(end, top.size), report));
}

function* mapSteps(top: BlockNode, start: number, end: number, report: (entry: MapEntry, last: boolean) => void): Steps<void> {
  if (start >= end) {
    report({ start, length: 0, depth: 0, present: false, zero: false, data: false, compressed: false }, true);
    return;
  }
  let pending: MapEntry | undefined;
  for (let at = start; at < end;) {
    const entry: MapEntry = yield* entryAt(top, at, end - at);
    at += entry.length;
    if (pending === undefined) pending = entry;
    else if (continues(pending, entry)) pending = { ...pending, length: pending.length + entry.length };
    else {
      report(pending, false);
      pending = entry;
    }
  }
  if (pending) report(pending, true);
}

/** The answer of the first layer that knows whether there is data. */
function* entryAt(top: BlockNode, start: number, wanted: number): Steps<MapEntry> {
  let node = top;
  let length = wanted;
  for (let depth = 0;; depth++) {
    const status: BlockStatus = yield* wait(blockStatus(node, start, length));
    const below: BlockNode | undefined = node.backing;
    if (status.length === 0) return { start, length, depth, present: true, zero: true, data: false, compressed: false };
    length = status.length;
    if (status.zero || status.data || below === undefined) return toEntry(start, status, status.zero || status.data ? depth : 0);
    node = below;
  }
}

function toEntry(start: number, { length, data, zero, allocated, compressed, host }: BlockStatus, depth: number): MapEntry {
  return { start, length, depth, present: allocated, zero, data, compressed, ...(host && { offset: host.offset, file: host.node }) };
}

function continues(a: MapEntry, b: MapEntry): boolean {
  return a.zero === b.zero && a.data === b.data && a.present === b.present && a.compressed === b.compressed && a.depth === b.depth
    && a.file === b.file && (a.offset === undefined || a.offset + a.length === b.offset);
}
