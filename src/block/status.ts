/** Block status: what lies behind a range, for one node and for a chain. Follows QEMU's truth table. */
import { andThen, type MaybePromise } from '../util/maybe.js';
import type { LayerExtent } from './driver.js';
import type { BlockNode } from './node.js';

export interface BlockStatus {
  /** Bytes the answer holds for; 0 only at or past the end. */
  readonly length: number;
  /** Must be read to be known. May stand beside `zero`: stored here, and the storage reads as zero. */
  readonly data: boolean;
  readonly zero: boolean;
  /** Decided by this layer, not by its backing file. */
  readonly allocated: boolean;
  readonly compressed: boolean;
  /** The range ends at the node's end. */
  readonly eof: boolean;
  /** Where the bytes lie plainly (or are reserved), in the lowest node known to hold them. */
  readonly host?: { readonly node: BlockNode; readonly offset: number };
}

export interface ChainStatus extends BlockStatus {
  /** Layers looked at until one decided: 1 is the first; 0 means none down to (excluding) the base. */
  readonly depth: number;
  readonly owner?: BlockNode;
}

/** Status of one node's layer, recursing into children where the layer is a passthrough or asks for it. */
export function blockStatus(node: BlockNode, offset: number, length: number, wantZero = true): MaybePromise<BlockStatus> {
  const size = node.ops.size;
  const available = Math.min(length, size - offset);
  if (available <= 0) return { length: 0, data: false, zero: false, allocated: false, compressed: false, eof: true };
  const alignment = node.ops.limits.requestAlignment;
  if (alignment === 1) {
    return andThen(node.ops.status(offset, available, wantZero), (extent) => interpret(node, offset, size, extent, wantZero));
  }
  const start = offset - (offset % alignment);
  const end = Math.min(Math.ceil((offset + available) / alignment) * alignment, size);
  return andThen(node.ops.status(start, end - start, wantZero), (extent) => {
    const usable = Math.min(start + extent.length - offset, available);
    const host = extent.host && { child: extent.host.child, offset: extent.host.offset + (offset - start) };
    return interpret(node, offset, size, { ...extent, length: usable, ...(host && { host }) }, wantZero);
  });
}

/** A protocol's bytes lie where they are asked for. */
function ownPlace(node: BlockNode, offset: number, extent: LayerExtent): BlockStatus['host'] {
  const stored = extent.kind === 'zero' || (extent.kind === 'data' && extent.hole !== true);
  return stored && node.driver.kind === 'protocol' ? { node, offset } : undefined;
}

/** An aligned layer, or child, answers in whole units: the rest of the last one beyond the child's odd end goes with what precedes it. */
function roundedUp(node: BlockNode, below: BlockStatus, extent: Extract<LayerExtent, { kind: 'child' }>, offset: number, size: number): BlockStatus {
  const alignment = Math.max(node.ops.limits.requestAlignment, extent.host.child.node.ops.limits.requestAlignment);
  const length = below.eof && extent.length - below.length < alignment ? extent.length : below.length;
  return { ...below, length, eof: offset + length >= size };
}

function interpret(node: BlockNode, offset: number, size: number, extent: LayerExtent, wantZero: boolean): MaybePromise<BlockStatus> {
  const eof = offset + extent.length >= size;
  const host = extent.host ? { node: extent.host.child.node, offset: extent.host.offset } : ownPlace(node, offset, extent);
  switch (extent.kind) {
    case 'child': {
      return andThen(blockStatus(extent.host.child.node, extent.host.offset, extent.length, wantZero), (below) =>
        below.length === 0
          ? { length: extent.length, data: false, zero: true, allocated: true, compressed: false, eof, ...(host && { host }) }
          : roundedUp(node, below, extent, offset, size));
    }
    case 'data': {
      const stored = extent.hole !== true;
      const status = {
        length: extent.length, data: stored, zero: extent.zero === true, allocated: stored, compressed: extent.compressed === true, eof,
        ...(host && { host }),
      };
      if (!extent.recurse || !wantZero || host === undefined) return status;
      return andThen(blockStatus(host.node, host.offset, extent.length, true), (below) => {
        if (below.length === 0) return { ...status, zero: true };
        const shorter = below.length < extent.length;
        return { ...status, length: below.length, zero: below.zero, eof: shorter ? false : eof };
      });
    }
    case 'zero':
      return { length: extent.length, data: false, zero: true, allocated: extent.allocated, compressed: false, eof, ...(host && { host }) };
    case 'backing': {
      const backing = node.backing;
      const zero = backing === undefined || backing.size <= offset;
      return { length: extent.length, data: false, zero, allocated: false, compressed: false, eof, ...(host && { host }) };
    }
  }
}

/**
 * Walks the chain from `top` towards its base until a layer decides the range. With `base` the walk stops before it
 * (depth 0: not allocated above base).
 */
export function chainStatus(
  top: BlockNode, offset: number, length: number, options: { readonly base?: BlockNode | undefined; readonly wantZero?: boolean } = {},
): MaybePromise<ChainStatus> {
  const wantZero = options.wantZero ?? true;
  const size = top.size;
  const walk = (node: BlockNode, bytes: number, depth: number): MaybePromise<ChainStatus> =>
    andThen(blockStatus(node, offset, bytes, wantZero), (status): MaybePromise<ChainStatus> => {
      if (status.length === 0) {
        if (depth === 1) return { ...status, depth: 0 };
        // a layer too short to answer: the zeroes beyond its end count as its own
        return { length: bytes, data: false, zero: true, allocated: true, compressed: false, eof: offset + bytes >= size, depth, owner: node };
      }
      const eof = offset + status.length >= size;
      if (status.allocated) return { ...status, eof, depth, owner: node };
      const next = node.backing;
      if (next === undefined || next === options.base) return { ...status, eof, depth: 0 };
      return walk(next, status.length, depth + 1);
    });
  if (top === options.base) return { length, data: false, zero: false, allocated: false, compressed: false, eof: false, depth: 0 };
  return walk(top, length, 1);
}
