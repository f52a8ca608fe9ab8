/** Writing what an overlay holds into an image below it. */
import type { BlockBackend, BlockChild } from '../block/child.js';
import { Perm, Req } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { chainStatus } from '../block/status.js';
import { copyBuffer } from '../platform/bytes.js';
import { Pauses } from '../platform/pauses.js';
import { unfiltered } from './chain.js';
import { RatePacer } from './pacer.js';

const chunkBytes = 1 << 20;

export interface CommitControl {
  /** Bytes per second; 0 is unlimited. */
  readonly rate?: number;
  readonly progress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface CommitOutcome {
  /** Why the base could not be made read-only again; its content is complete. */
  readonly notSettled?: BlockError;
}

/**
 * Copies everything allocated above `base` into it, growing it to the overlay's size first. What the overlay holds stays as it is; an
 * image that records what its backing file holds learns beforehand that `base` changes.
 * The backend must let others write below it (share WRITE and RESIZE).
 */
export async function commitImage(graph: BlockGraph, top: BlockBackend, base: BlockNode, control: CommitControl = {}): Promise<CommitOutcome> {
  await expectChange(graph, overlayOf(top.node, base));
  const wasReadOnly = base.readOnly;
  if (wasReadOnly) await graph.reopen(base, { readOnly: false });
  let settled: CommitOutcome = {};
  try {
    const target = graph.attach(base, { take: Perm.CONSISTENT_READ | Perm.WRITE | Perm.RESIZE, share: Perm.ALL });
    try {
      if (target.size < top.size) await target.resize(top.size);
      await copyAllocated(top, target, base, control);
      await target.flush();
    } finally {
      await target.close();
    }
  } finally {
    if (wasReadOnly) settled = await settle(graph, base);
  }
  return settled;
}

/** The image right above `base`. */
function overlayOf(top: BlockNode, base: BlockNode): BlockNode {
  const overlay = unfiltered(top);
  return overlay.backing === undefined || unfiltered(overlay.backing) === unfiltered(base) ? overlay : overlayOf(overlay.backing, base);
}

async function expectChange(graph: BlockGraph, overlay: BlockNode): Promise<void> {
  const backing = overlay.facet('backing');
  if (backing?.expectChange === undefined) return;
  const wasReadOnly = overlay.readOnly;
  if (wasReadOnly) await graph.reopen(overlay, { readOnly: false });
  try {
    await backing.expectChange();
  } finally {
    if (wasReadOnly) await graph.reopen(overlay, { readOnly: true });
  }
}

async function settle(graph: BlockGraph, base: BlockNode): Promise<CommitOutcome> {
  try {
    await graph.reopen(base, { readOnly: true });
    return {};
  } catch (error) {
    if (error instanceof BlockError) return { notSettled: error };
    throw error;
  }
}

async function copyAllocated(top: BlockBackend, target: BlockChild, base: BlockNode, { rate = 0, progress, signal }: CommitControl): Promise<void> {
  const pacer = new RatePacer(rate);
  const pauses = new Pauses();
  const buffer = copyBuffer(chunkBytes);
  const total = top.size;
  for (let offset = 0; offset < total;) {
    signal?.throwIfAborted();
    await pauses.take();
    const status = await chainStatus(top.node, offset, total - offset, { base });
    let length = status.length;
    if (status.depth > 0 && status.zero) {
      await target.writeZeroes(offset, length, Req.MAY_UNMAP);
    } else if (status.depth > 0) {
      length = Math.min(length, chunkBytes);
      const part = buffer.subarray(0, length);
      await top.read(offset, part);
      await target.write(offset, part);
      await pacer.spent(length);
    }
    offset += length;
    progress?.(offset, total);
  }
}

/** Empties an overlay whose content now lies below it, where its format can. */
export async function emptyImage(top: BlockBackend): Promise<void> {
  await top.facet('makeEmpty')?.makeEmpty();
}
