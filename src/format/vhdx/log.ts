/**
 * The log: a ring of entries, each of which holds new contents of 4 KiB pages. What the last sound sequence of entries says holds,
 * whether it has reached its place or not.
 */
import { BlockError, Errno } from '../../block/errors.js';
import { crc32c } from '../../util/crc32c.js';
import type { MaybePromise } from '../../util/maybe.js';
import { wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { readGuid, writeGuid } from './guid.js';
import { checksum, MiB, readSize, text, writeSize, type VhdxHeader } from './header.js';

const sector = 4096;
const entryHeaderSize = 64;
const descriptorSize = 32;
/** Pages that one entry with a single sector of descriptors can hold. */
export const maxPagesPerEntry = (sector - entryHeaderSize) / descriptorSize;
/** No writer makes longer entries. */
const maxEntrySize = 64 * MiB;
const maxUpdates = 65_536;
const maxFileSize = 2 ** 47;

/** New content of a range of the file; zeroes where there are no bytes. */
export interface LogUpdate {
  readonly offset: number;
  readonly length: number;
  readonly bytes?: Uint8Array;
}

/** What must be applied, in this order, and how long the file is then at least. */
export interface PendingLog {
  readonly updates: readonly LogUpdate[];
  readonly fileSize: number;
}

/** There are sound entries, but where they begin is damaged: what they changed is half in its place, and nobody can tell the rest. */
export const brokenLog = 'broken';

/** A sound entry; places are relative to the log's start. */
interface Entry {
  readonly at: number;
  readonly length: number;
  readonly tail: number;
  readonly sequence: bigint;
  readonly flushedSize: number;
  readonly fileSize: number;
}

export interface LogSource {
  readonly size: number;
  read(offset: number, target: Uint8Array): MaybePromise<void>;
}

function corrupt(message: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EINVAL });
}

/**
 * What the log of that header says; undefined where nothing is to be applied. An entry that is not sound was torn as it was written: nothing
 * of it has reached its place.
 * @throws BlockError CORRUPT_IMAGE
 */
export function* readLog(file: LogSource, header: VhdxHeader): Steps<PendingLog | typeof brokenLog | undefined> {
  const ring = new Ring(file, header);
  const entries = yield* ring.findEntries();
  const sequence = activeSequence(entries, header.logLength);
  const head = sequence?.at(-1);
  if (sequence === undefined || head === undefined) return entries.length > 0 ? brokenLog : undefined;
  if (file.size < head.flushedSize) {
    throw corrupt(`VHDX image is truncated: it has ${file.size} bytes, ${head.flushedSize} when its log was written`);
  }
  if (!(head.fileSize <= maxFileSize)) throw corrupt('VHDX log asks for a file that is too large');
  const updates: LogUpdate[] = [];
  const end = Math.max(file.size, head.fileSize);
  for (const entry of sequence) {
    for (const update of parseUpdates((yield* ring.load(entry.at, entry.length)))) {
      if (updates.length === maxUpdates) throw corrupt('VHDX log has too many entries');
      if (update.offset % sector !== 0 || update.length % sector !== 0 || !(update.offset + update.length <= end)) {
        throw corrupt(`VHDX log refers to an invalid range at ${update.offset}`);
      }
      updates.push(update);
    }
  }
  return updates.length === 0 && file.size >= head.fileSize ? undefined : { updates, fileSize: end };
}

class Ring {
  readonly #file: LogSource;
  readonly #header: VhdxHeader;
  /** Entries may be made to overlap, so that checking them all would take forever. */
  #budget: number;

  constructor(file: LogSource, header: VhdxHeader) {
    this.#file = file;
    this.#header = header;
    this.#budget = 2 * header.logLength + 256 * MiB;
  }

  *findEntries(): Steps<Entry[]> {
    const { logLength, logOffset, logGuid } = this.#header;
    const found: Entry[] = [];
    const end = Math.min(logLength, this.#file.size - logOffset);
    for (let start = 0; start < end; start += MiB) {
      const chunk = new Uint8Array(Math.min(MiB, end - start));
      yield* wait(this.#file.read(logOffset + start, chunk));
      for (let at = 0; at + sector <= chunk.length; at += sector) {
        const head = chunk.subarray(at, at + sector);
        if (text(head, 0, 4) !== 'loge' || readGuid(head, 32) !== logGuid) continue;
        const entry = parseEntry(head, start + at);
        if (entry.length === 0 || entry.length % sector !== 0 || entry.length > Math.min(logLength, maxEntrySize)) continue;
        if (entry.tail % sector !== 0 || entry.tail >= logLength || entry.sequence === 0n) continue;
        this.#budget -= entry.length;
        if (this.#budget < 0) throw corrupt('VHDX log is damaged');
        if (isSound((yield* this.load(entry.at, entry.length)), entry.sequence)) found.push(entry);
      }
    }
    return found;
  }

  *load(at: number, length: number): Steps<Uint8Array> {
    const { logLength, logOffset } = this.#header;
    const bytes = new Uint8Array(length);
    const first = Math.min(length, logLength - at);
    yield* wait(this.#file.read(logOffset + at, bytes.subarray(0, first)));
    if (first < length) yield* wait(this.#file.read(logOffset, bytes.subarray(first)));
    return bytes;
  }
}

function parseEntry(bytes: Uint8Array, at: number): Entry {
  const view = viewOf(bytes);
  return {
    at, length: view.getUint32(8, true), tail: view.getUint32(12, true), sequence: view.getBigUint64(16, true),
    flushedSize: readSize(view, 48), fileSize: readSize(view, 56),
  };
}

function descriptorCount(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(24, true);
}

function dataStart(descriptors: number): number {
  return Math.ceil((entryHeaderSize + descriptors * descriptorSize) / sector) * sector;
}

/** Whether checksum, descriptors and data sectors of an entry all belong together. */
function isSound(bytes: Uint8Array, sequence: bigint): boolean {
  const view = viewOf(bytes);
  if (view.getUint32(4, true) !== checksum(bytes)) return false;
  const count = descriptorCount(bytes);
  let data = dataStart(count);
  if (data > bytes.length) return false;
  for (let at = entryHeaderSize; at < entryHeaderSize + count * descriptorSize; at += descriptorSize) {
    const kind = text(bytes, at, 4);
    if (view.getBigUint64(at + 24, true) !== sequence || (kind !== 'zero' && kind !== 'desc')) return false;
    if (kind === 'zero') continue;
    if (data + sector > bytes.length || text(bytes, data, 4) !== 'data') return false;
    if (((BigInt(view.getUint32(data + 4, true)) << 32n) | BigInt(view.getUint32(data + sector - 4, true))) !== sequence) return false;
    data += sector;
  }
  return true;
}

/** Tail to head of the sound sequence with the highest number. */
function activeSequence(entries: readonly Entry[], logLength: number): Entry[] | undefined {
  const byPlace = new Map(entries.map((entry) => [entry.at, entry]));
  const before = new Map<Entry, Entry>();
  const heads: Entry[] = [];
  for (const entry of entries) {
    const next = byPlace.get((entry.at + entry.length) % logLength);
    if (next?.sequence === entry.sequence + 1n) before.set(next, entry);
    else heads.push(entry);
  }
  heads.sort((a, b) => (a.sequence < b.sequence ? 1 : -1));
  for (const head of heads) {
    const sequence: Entry[] = [];
    for (let entry: Entry | undefined = head; entry !== undefined; entry = before.get(entry)) {
      sequence.push(entry);
      if (entry.at === head.tail) return sequence.reverse();
    }
  }
  return undefined;
}

function* parseUpdates(bytes: Uint8Array): Generator<LogUpdate> {
  const view = viewOf(bytes);
  const count = descriptorCount(bytes);
  let data = dataStart(count);
  for (let at = entryHeaderSize; at < entryHeaderSize + count * descriptorSize; at += descriptorSize) {
    const offset = readSize(view, at + 16);
    if (text(bytes, at, 4) === 'zero') {
      yield { offset, length: readSize(view, at + 8) };
      continue;
    }
    const page = bytes.slice(data, data + sector);
    page.set(bytes.subarray(at + 8, at + 16), 0);
    page.set(bytes.subarray(at + 4, at + 8), sector - 4);
    yield { offset, length: sector, bytes: page };
    data += sector;
  }
}

/** An entry that is a sequence by itself: all that was logged before has reached its place. */
export function buildEntry(
  { at, guid, sequence, flushedSize, fileSize, pages }: {
    readonly at: number; readonly guid: string; readonly sequence: bigint; readonly flushedSize: number; readonly fileSize: number;
    /** At most {@link maxPagesPerEntry}, of 4096 bytes each. */
    readonly pages: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
  }): Uint8Array {
  const start = dataStart(pages.length);
  const bytes = new Uint8Array(start + pages.length * sector);
  const view = viewOf(bytes);
  const encoder = new TextEncoder();
  encoder.encodeInto('loge', bytes);
  view.setUint32(8, bytes.length, true);
  view.setUint32(12, at, true);
  view.setBigUint64(16, sequence, true);
  view.setUint32(24, pages.length, true);
  writeGuid(bytes, 32, guid);
  writeSize(view, 48, flushedSize);
  writeSize(view, 56, fileSize);
  pages.forEach(({ offset, bytes: page }, index) => {
    const descriptor = entryHeaderSize + index * descriptorSize;
    encoder.encodeInto('desc', bytes.subarray(descriptor));
    bytes.set(page.subarray(sector - 4), descriptor + 4);
    bytes.set(page.subarray(0, 8), descriptor + 8);
    writeSize(view, descriptor + 16, offset);
    view.setBigUint64(descriptor + 24, sequence, true);
    const data = start + index * sector;
    bytes.set(page, data);
    encoder.encodeInto('data', bytes.subarray(data));
    view.setUint32(data + 4, Number(sequence >> 32n), true);
    view.setUint32(data + sector - 4, Number(sequence & 0xffff_ffffn), true);
  });
  view.setUint32(4, crc32c(bytes), true);
  return bytes;
}

/** Puts the updates that touch [offset, offset + target.length) over what was read from there. */
export function applyUpdates(updates: readonly LogUpdate[], offset: number, target: Uint8Array): void {
  for (const update of updates) {
    const start = Math.max(offset, update.offset);
    const end = Math.min(offset + target.length, update.offset + update.length);
    if (start >= end) continue;
    if (update.bytes === undefined) target.fill(0, start - offset, end - offset);
    else target.set(update.bytes.subarray(start - update.offset, end - update.offset), start - offset);
  }
}
