/** Giving an overlay another backing file, its content unchanged. */
import type { BlockBackend, BlockChild } from '../block/child.js';
import { BlockError } from '../block/errors.js';
import { Req } from '../block/driver.js';
import type { BlockNode } from '../block/node.js';
import { chainStatus } from '../block/status.js';
import { copyBuffer, firstDifference } from '../platform/bytes.js';
import { Pauses } from '../platform/pauses.js';

const chunkBytes = 1 << 21;

export interface RebaseControl {
  /** What it will stand on; absent: nothing. */
  readonly newBacking?: BlockChild | undefined;
  /** The new backing file is in the old chain: only what lies between can differ. */
  readonly sharedBase?: BlockNode | undefined;
  /** Compare and copy in units of this many bytes (the overlay's cluster or subcluster). */
  readonly alignment: number;
  /** Copies are stored compressed. */
  readonly compress?: boolean;
  /** Told in pieces compared: how many, of how many at most. */
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Copies into the overlay what would change when its backing file does. The reference itself stays as it is; it may change when this is
 * done, since the copies are durable then.
 */
export async function copyDifferences(overlay: BlockBackend, control: RebaseControl): Promise<void> {
  const { newBacking, progress, signal } = control;
  const alignment = Math.min(control.alignment, chunkBytes);
  const total = overlay.size;
  const pauses = new Pauses();
  const pieces = Math.ceil(total / chunkBytes);
  let compared = 0;
  const [oldBytes, newBytes] = [copyBuffer(chunkBytes), copyBuffer(chunkBytes)];
  for (let offset = 0; offset < total;) {
    signal?.throwIfAborted();
    await pauses.take();
    const found = await undecided(overlay.node, offset, Math.min(chunkBytes, total - offset), control);
    if (!found.differs) {
      offset += found.length;
      continue;
    }
    // whole units: what a write leaves of a unit would be filled from the old backing file now and belong to the new one later
    const start = offset - (offset % alignment);
    const end = Math.min(Math.ceil((offset + found.length) / alignment) * alignment, total, start + chunkBytes);
    const [before, after] = [oldBytes.subarray(0, end - start), newBytes.subarray(0, end - start)];
    await overlay.read(start, before);
    await readOrZero(newBacking, start, after);
    await writeDifferences(overlay, start, before, after, { ...control, alignment });
    progress?.(++compared, pieces);
    offset = end;
  }
  await overlay.flush();
}

/** Whether a range is left to the backing files and may differ between them. */
async function undecided(overlay: BlockNode, offset: number, length: number, { sharedBase }: RebaseControl): Promise<{ length: number; differs: boolean }> {
  const { backing } = overlay;
  const status = await chainStatus(overlay, offset, length, { base: backing, wantZero: false });
  if (status.depth > 0) return { length: status.length, differs: false };
  if (sharedBase === undefined || backing === undefined || offset >= backing.size) return { length: status.length, differs: true };
  const above = await chainStatus(backing, offset, status.length, { base: sharedBase, wantZero: false });
  return { length: above.length, differs: above.depth > 0 };
}

async function readOrZero(backing: BlockChild | undefined, offset: number, target: Uint8Array): Promise<void> {
  const inside = Math.max(0, Math.min(target.length, (backing?.size ?? 0) - offset));
  if (inside > 0) await backing!.read(offset, target.subarray(0, inside));
  target.fill(0, inside);
}

async function writePiece(overlay: BlockBackend, offset: number, piece: Uint8Array, compress: boolean | undefined): Promise<void> {
  try {
    if (offset >= (overlay.node.backing?.size ?? 0) && await writeOwnZeroes(overlay, offset, piece.length)) return;
    const compresses = compress === true && await hasNothing(overlay.node, offset, piece.length);
    await overlay.write(offset, piece, compresses ? Req.COMPRESSED : 0);
  } catch (error) {
    throw error instanceof BlockError ? new BlockError(error.code, `Error while writing to COW image: ${error.message}`, error.context, error) : error;
  }
}

/** Whether the overlay has nothing of its own there: what it has of a cluster, subclusters, cannot be compressed with the rest. */
async function hasNothing(overlay: BlockNode, offset: number, length: number): Promise<boolean> {
  for (let at = offset; at < offset + length;) {
    const status = await chainStatus(overlay, at, offset + length - at, { base: overlay.backing, wantZero: false });
    if (status.depth > 0) return false;
    at += status.length;
  }
  return true;
}

/** Zeroes without room for them. False where the format just leaves out what reads as zero by itself: it would show the new backing file. */
async function writeOwnZeroes(overlay: BlockBackend, offset: number, length: number): Promise<boolean> {
  await overlay.writeZeroes(offset, length, 0);
  const { depth, length: told } = await chainStatus(overlay.node, offset, length, { base: overlay.node.backing, wantZero: false });
  return depth > 0 && told >= length;
}

async function writeDifferences(overlay: BlockBackend, offset: number, before: Uint8Array, after: Uint8Array, { alignment, compress }: RebaseControl): Promise<void> {
  for (let at = 0; at < before.length;) {
    let end = at;
    while (end < before.length && differ(before, after, end, Math.min(end + alignment, before.length))) end += alignment;
    end = Math.min(end, before.length);
    if (end > at) {
      const piece = before.subarray(at, end);
      await writePiece(overlay, offset + at, piece, compress);
    }
    at = end + alignment;
  }
}

function differ(a: Uint8Array, b: Uint8Array, start: number, end: number): boolean {
  return firstDifference(a.subarray(start, end), b.subarray(start, end)) !== -1;
}

/** Bytes that a write to the overlay makes its own at once: a cluster where it is compressed, else a subcluster where there are any. */
export function changeUnit(overlay: BlockNode, compress: boolean): number {
  const info = overlay.facet('formatInfo');
  const cluster = info?.clusterSize ?? 512;
  return !compress && info?.specific()?.data['extended-l2'] === true ? cluster / 32 : cluster;
}
