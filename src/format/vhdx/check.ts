/** Looking the table over: does each block lie where it may, and nowhere else? And putting right what does not. */
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { MiB, regionTableOffsets, serialiseRegionTable } from './header.js';
import type { VhdxImage } from './image.js';
import { Occupancy } from './occupancy.js';
import { bitmapBlockSize, entryCount, entrySize, invalidEntry, placeOf, readEntry, State, stateOf } from './tables.js';

/** An entry that refers to the file, or makes no sense. */
export interface TableEntry {
  readonly index: number;
  readonly state: number;
  /** Infinity: further than anyone counts, `farPlace` of the file. */
  readonly place: number;
  readonly farPlace?: bigint;
  /** Bytes of the file that the guest or its bitmap need, and all that belong to the block. */
  readonly needed: number;
  readonly length: number;
  /** Undefined for a sector bitmap. */
  readonly block: number | undefined;
}

const placeMask = ~0xfffffn & 0xffff_ffff_ffff_ffffn;
/** Files are no longer, whoever counts. */
const mostFar = 2n ** 63n - 1n;

/** All entries that refer to the file or make no sense. Places of blocks that are not there, but were, go to `spare`. */
export function* tableEntries(
  image: VhdxImage, visit: (entry: TableEntry) => void, { signal, spare }: { readonly signal?: AbortSignal; readonly spare?: (place: number) => void } = {}): Steps<void> {
  const { bat, geometry: { blockSize, chunkRatio }, size, hasParent } = image;
  const total = entryCount(image.geometry, size, hasParent);
  const perChunk = MiB / entrySize;
  for (let first = 0; first < total; first += perChunk) {
    signal?.throwIfAborted();
    const count = Math.min(perChunk, total - first);
    const view = viewOf(new Uint8Array(count * entrySize));
    yield* wait(image.readMetadata(bat.offset + first * entrySize, new Uint8Array(view.buffer)));
    for (let at = 0; at < count; at++) {
      const entry = readEntry(view, at);
      const state = entry === invalidEntry ? view.getUint8(at * entrySize) % 8 : stateOf(entry);
      if (state < State.FULLY_PRESENT && state !== invalidEntry) {
        if (entry > state) spare?.(placeOf(entry));
        continue;
      }
      const index = first + at;
      const chunk = Math.floor(index / (chunkRatio + 1));
      const isBitmap = index - chunk * (chunkRatio + 1) === chunkRatio;
      if (isBitmap && !hasParent) continue;
      const block = index - chunk;
      const where = entry === invalidEntry ? { place: Infinity, farPlace: view.getBigUint64(at * entrySize, true) & placeMask } : { place: placeOf(entry) };
      visit(isBitmap
        ? { index, state, ...where, needed: bitmapBlockSize, length: bitmapBlockSize, block: undefined }
        : { index, state, ...where, needed: Math.min(blockSize, size - block * blockSize), length: blockSize, block });
    }
  }
}

/** Whether it says where a block lies; who reads others gets an error. */
export function isMeaningful({ state }: TableEntry, hasParent: boolean): boolean {
  return state !== invalidEntry && (state !== State.PARTIALLY_PRESENT || hasParent);
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

/** What must not be overlaid by blocks, the last first. */
export function reservedRanges({ header, regions }: Pick<VhdxImage, 'header' | 'regions'>): Range[] {
  return [{ offset: 0, length: MiB }, { offset: header.logOffset, length: header.logLength }, ...regions].reverse();
}

export function overlap(range: Range, others: readonly Range[]): Range | undefined {
  return others.find(({ offset, length }) => offset < range.offset + range.length && range.offset < offset + length);
}

export function overlapText(range: Range, other: Range): string {
  return `VHDX region ${range.offset}-${range.offset + range.length} overlaps with region ${other.offset}-${other.offset + other.length}`;
}

/** What is wrong with an entry by itself: lines in the peer's words. */
export function* entryFaults(image: VhdxImage, { index, place, farPlace, needed, length }: TableEntry, reserved: readonly Range[]): Generator<string> {
  const size = image.fileSize;
  if (farPlace !== undefined && farPlace > mostFar - BigInt(length)) yield `VHDX BAT entry ${index} offset overflow.`;
  const truncated = `points after end of file (${size}). Image has probably been truncated.`;
  if (place >= size) yield `VHDX BAT entry ${index} start offset ${farPlace ?? place} ${truncated}`;
  else if (place + needed > size) yield `VHDX BAT entry ${index} end offset ${place + length - 1} ${truncated}`;
  const hit = overlap({ offset: place, length }, reserved);
  if (hit !== undefined) yield overlapText({ offset: place, length }, hit);
}

type CheckOptions = Parameters<CheckFacet['check']>[0];

export function checkVhdx(image: VhdxImage, options: CheckOptions): Promise<CheckResult> {
  return Promise.resolve(image.exclusive(() => run(check(image, options))));
}

function* check(image: VhdxImage, options: CheckOptions): Steps<CheckResult> {
  const { repair, report, reportError, signal, asPeer = false } = options;
  const result: CheckResult = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: image.replayed && repair !== 'none' ? 1 : 0, leaksFixed: 0 };
  if (!image.readOnly) yield* image.writeBack();
  if (image.pending !== undefined) report?.('The log holds changes that did not reach their places yet; they are taken into account');
  if (image.logBroken) {
    reportError?.('The log holds changes, but where they begin is damaged: they cannot be used');
    if (repair === 'all') {
      yield* image.replay();
      result.corruptionsFixed++;
    } else result.corruptions++;
  }
  yield* checkRegionTables(image, result, options);
  const reserved = reservedRanges(image);
  const occupancy = new Occupancy(image.fileSize);
  const bad: { readonly entry: TableEntry; readonly misplaced: boolean }[] = [];
  yield* tableEntries(image, (entry) => {
    if (asPeer && (entry.state !== State.FULLY_PRESENT || entry.place === 0)) return;
    let faults = 0;
    if (!isMeaningful(entry, image.hasParent)) {
      reportError?.(`VHDX BAT entry ${entry.index} has the invalid state ${entry.state}`);
      faults++;
    } else for (const fault of entryFaults(image, entry, reserved)) {
      reportError?.(fault);
      faults++;
    }
    const shared = faults === 0 && !asPeer && occupancy.claim(entry.place, entry.length);
    if (shared) {
      reportError?.(`VHDX BAT entry ${entry.index} refers to offset ${entry.place}, where another block lies`);
      faults++;
    }
    if (faults === 0) return;
    result.corruptions += faults;
    if (repair === 'all' && !asPeer && bad.length < maxRepairs) {
      bad.push({ entry, misplaced: shared || overlap({ offset: entry.place, length: entry.length }, reserved) !== undefined });
      result.corruptions -= faults;
      result.corruptionsFixed += faults;
    }
  }, signal && { signal });
  for (const { entry, misplaced } of bad) {
    signal?.throwIfAborted();
    yield* mend(image, entry, misplaced);
  }
  if (bad.length > 0) yield* image.writeBack();
  return result;
}

/** Of two region tables one is enough for us; the peer looks at the first alone. */
function* checkRegionTables(image: VhdxImage, result: CheckResult, { repair, reportError, asPeer = false }: CheckOptions): Steps<void> {
  const damaged = image.damagedRegionTables.filter((offset) => !asPeer || offset === regionTableOffsets[0]);
  for (const offset of damaged) reportError?.(`The region table at offset ${offset} is damaged; there is another`);
  if (repair !== 'all' || asPeer) {
    result.corruptions += damaged.length;
  } else if (damaged.length > 0) {
    const bytes = serialiseRegionTable(image.regions);
    yield* image.editMetadata(damaged.map((offset) => ({ offset, bytes })));
    image.damagedRegionTables = [];
    result.corruptionsFixed += damaged.length;
  }
}

/** More than these are mended by another run. */
const maxRepairs = 65_536;

/** What lies behind the end of the file, or nobody knows where, is lost: it becomes zero. What lies where others do is copied away. */
function* mend(image: VhdxImage, entry: TableEntry, misplaced: boolean): Steps<void> {
  const { index, state, place, length, block } = entry;
  const { file } = image;
  yield* image.announceChange();
  if (place >= image.fileSize || !isMeaningful(entry, image.hasParent)) {
    yield* image.setEntry(index, block === undefined ? State.NOT_PRESENT : State.ZERO);
    return;
  }
  if (!misplaced) {
    yield* image.growFile(place + length);
    return;
  }
  const room = yield* image.newRoom(length, 1);
  const buffer = new Uint8Array(MiB);
  for (let at = 0; at < length; at += MiB) {
    yield* wait(file.read(place + at, buffer));
    yield* wait(file.write(room.offset + at, buffer));
  }
  yield* image.setEntry(index, room.offset + state);
}
