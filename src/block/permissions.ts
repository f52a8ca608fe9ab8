/**
 * Permissions: each edge says what it needs and what it lets others do. A node's needs flow to its children by role.
 */
import type { BlockChild } from './child.js';
import { Perm, type ChildRole } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';

const names: readonly (readonly [number, string])[] = [
  [Perm.CONSISTENT_READ, 'consistent read'], [Perm.WRITE, 'write'], [Perm.WRITE_UNCHANGED, 'write unchanged'], [Perm.RESIZE, 'resize'],
];

function describePermissions(bits: number): string {
  return names.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name).join(', ');
}

/** What a node takes of and shares with others on a child of that role, given the same for the node itself. */
function childPermissions(role: ChildRole, node: BlockNode, take: number, share: number): { take: number; share: number } {
  if (node.settings.forceShare) share = Perm.ALL;
  switch (role) {
    case 'filtered':
    case 'root':
      return { take, share: share | Perm.WRITE_UNCHANGED };
    case 'image':
    case 'metadata': {
      const written = node.readOnly ? 0 : Perm.WRITE | Perm.RESIZE;
      return { take: take | written | (node.noIo ? 0 : Perm.CONSISTENT_READ), share: share & ~(Perm.WRITE | Perm.RESIZE) };
    }
    case 'data':
      return { take: take | ((take & Perm.WRITE) !== 0 ? Perm.RESIZE : 0), share: share & ~(Perm.WRITE | Perm.RESIZE) };
    case 'cow':
      return {
        take: take & Perm.CONSISTENT_READ,
        share: ((share & Perm.WRITE) !== 0 ? Perm.WRITE | Perm.RESIZE : 0) | Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED,
      };
  }
}

/**
 * Recomputes permissions from `node` downwards. Refuses with PERMISSION_CONFLICT (or the layer's own refusal, e.g. a file lock),
 * leaving all as it was.
 */
export function refreshPermissions(node: BlockNode): void {
  const undo: (() => void)[] = [];
  try {
    refresh(node, undo);
  } catch (error) {
    for (const step of undo.reverse()) step();
    throw error;
  }
}

/** Gives a node that is being opened, and has no users yet, what its driver may need meanwhile: marking or repairing the image. */
export function grantForOpening(node: BlockNode): void {
  for (const child of node.children.values()) {
    Object.assign(child, childPermissions(child.role, node, 0, Perm.ALL));
    refreshPermissions(child.node);
  }
}

function refresh(node: BlockNode, undo: (() => void)[]): void {
  let take = 0;
  let share: number = Perm.ALL;
  for (const edge of node.parents) {
    for (const other of node.parents) {
      const refused = edge.take & ~other.share;
      if (edge !== other && refused !== 0) throw conflict(node, edge, other, refused);
    }
    take |= edge.take;
    share &= edge.share;
  }
  if (node.settings.forceShare) share = Perm.ALL;
  if ((take & (Perm.WRITE | Perm.WRITE_UNCHANGED)) !== 0 && node.readOnly) {
    throw new BlockError('PERMISSION', 'Block node is read-only', { node: node.name });
  }
  for (const child of node.children.values()) {
    const usual = childPermissions(child.role, node, take, share);
    if (child.role === 'cow') usual.take &= Perm.CONSISTENT_READ;
    const wanted = node.ops.childPermissions?.(child.name, usual) ?? usual;
    const before = { take: child.take, share: child.share };
    child.take = wanted.take;
    child.share = node.settings.forceShare ? Perm.ALL : wanted.share;
    undo.push(() => Object.assign(child, before));
    refresh(child.node, undo);
  }
  const before = node.permissions;
  node.ops.setPermissions(take, share);
  node.permissions = { take, share };
  undo.push(() => {
    node.ops.setPermissions(before.take, before.share);
    node.permissions = before;
  });
}

function conflict(node: BlockNode, edge: BlockChild, other: BlockChild, bits: number): BlockError {
  return new BlockError('PERMISSION_CONFLICT',
    `Permission conflict on node '${node.name}': permissions '${describePermissions(bits)}' are both required by ${edge.description} `
    + `(uses node '${node.name}' as '${edge.name}' child) and unshared by ${other.description} (uses node '${node.name}' as '${other.name}' child).`,
    { node: node.name });
}
