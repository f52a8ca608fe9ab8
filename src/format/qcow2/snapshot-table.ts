/** The table of internal snapshots in the file: reading (and, for a check, mending) and writing. */
import type { BlockChild } from '../../block/child.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { Qcow2Header } from './header.js';
import type { Qcow2Image } from './image.js';
import { maxSnapshotExtraSize, maxSnapshots, maxSnapshotTableSize, parseSnapshotEntry, serialiseSnapshotTable, type SnapshotEntry } from './tables.js';
import { viewOf } from '../../util/view.js';

export interface SnapshotTable {
  entries: SnapshotEntry[];
  /** Bytes in the file. */
  size: number;
}

/** Damage that {@link readSnapshotTable} mended in memory. */
export interface SnapshotDamage {
  /** Entries whose extra data was cut. */
  cut: number;
  /** Entries that were left out. */
  dropped: number;
}

/**
 * Reads the snapshot table.
 * @param mend cuts off what exceeds the limits instead of failing; each cut is told to `report`
 * @throws BlockError with errno EFBIG where limits are exceeded, with a hint how to force it
 */
export function* readSnapshotTable(
  file: BlockChild, header: Qcow2Header, mend?: (line: string) => void,
): Steps<SnapshotTable & { damage: SnapshotDamage }> {
  const entries: SnapshotEntry[] = [];
  const damage: SnapshotDamage = { cut: 0, dropped: 0 };
  let position = 0;
  let keptSize = 0;
  const count = Math.min(header.snapshotCount, maxSnapshots);
  for (let index = 0; index < count; index++) {
    position = Math.ceil(position / 8) * 8;
    const found = yield* readEntry(file, header.snapshotsOffset + position);
    const { entry } = found;
    let kept = found.size;
    if (entry.extraSize > maxSnapshotExtraSize) {
      if (mend === undefined) {
        throw tooBig(`Too much extra metadata in snapshot table entry ${index}`, 'You can force-remove this extra metadata with qemu-img check -r all');
      }
      mend(`Discarding too much extra metadata in snapshot table entry ${index} (${entry.extraSize} > ${maxSnapshotExtraSize})`);
      kept -= entry.extraSize - maxSnapshotExtraSize;
      damage.cut++;
    }
    if (Math.ceil(keptSize / 8) * 8 + kept > maxSnapshotTableSize || header.snapshotsOffset + position + found.size > Number.MAX_SAFE_INTEGER) {
      const over = count - index;
      if (mend === undefined) throw tooBig('Snapshot table is too big', overhanging(over));
      mend(`Discarding ${over} overhanging snapshots (snapshot table is too big)`);
      damage.dropped += over;
      break;
    }
    entries.push(entry);
    keptSize = Math.ceil(keptSize / 8) * 8 + kept;
    position += found.size;
  }
  return { entries, size: position, damage };
}

/** Hint of the message for snapshots beyond a limit. */
export function overhanging(count: number): string {
  return `You can force-remove all ${count} overhanging snapshots with qemu-img check -r all`;
}

const fixedSize = 40;

function* readEntry(file: BlockChild, offset: number): Steps<{ entry: SnapshotEntry; size: number }> {
  const fixed = new Uint8Array(fixedSize);
  yield* readTable(file, offset, fixed);
  const view = viewOf(fixed);
  const extraSize = view.getUint32(36);
  const names = view.getUint16(12) + view.getUint16(14);
  const readable = Math.min(extraSize, maxSnapshotExtraSize);
  const bytes = new Uint8Array(fixedSize + readable + names);
  yield* readTable(file, offset, bytes.subarray(0, fixedSize + readable));
  yield* readTable(file, offset + fixedSize + extraSize, bytes.subarray(fixedSize + readable));
  viewOf(bytes).setUint32(36, readable);
  const { entry } = parseSnapshotEntry(bytes, 0)!;
  entry.extraSize = extraSize;
  return { entry, size: fixedSize + extraSize + names };
}

function* readTable(file: BlockChild, offset: number, target: Uint8Array): Steps<void> {
  try {
    yield* wait(file.read(offset, target));
  } catch (error) {
    const errno = error instanceof BlockError ? error.errno : Errno.EIO;
    throw new BlockError('IO_ERROR', `Failed to read snapshot table: ${strerror(errno)}`, { errno }, error);
  }
}

/**
 * Writes the snapshot table to a new place, switches the header to it and frees the old one. Runs inside `image.exclusive`.
 * On failure the image still has its old table.
 */
export function* writeSnapshotTable(image: Qcow2Image, entries: SnapshotEntry[]): Steps<void> {
  const bytes = serialiseSnapshotTable(entries, image.size);
  if (bytes.length > maxSnapshotTableSize) throw tooBig(strerror(Errno.EFBIG));
  const old = { offset: image.header.snapshotsOffset, size: image.snapshots.size };
  const offset = bytes.length === 0 ? 0 : yield* image.refcounts.allocate(bytes.length);
  try {
    yield* image.flushMetadata();
    if (bytes.length > 0) yield* image.writeMetadata(offset, bytes);
    yield* wait(image.file.flush());
    yield* image.updateHeader({ snapshotCount: entries.length, snapshotsOffset: offset });
    yield* wait(image.file.flush());
  } catch (error) {
    if (bytes.length > 0) yield* image.refcounts.update(offset, bytes.length, -1, 'always');
    throw error;
  }
  image.snapshots = { entries, size: bytes.length };
  if (old.size > 0) yield* image.refcounts.free(old.offset, old.size, 'snapshot');
}

/** {@link writeSnapshotTable} as a promise, for a check. */
export function storeSnapshotTable(image: Qcow2Image, entries: SnapshotEntry[]): Promise<void> {
  return Promise.resolve(run(writeSnapshotTable(image, entries)));
}

function tooBig(message: string, hint?: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', message, { errno: Errno.EFBIG, ...(hint !== undefined && { hint }) });
}
