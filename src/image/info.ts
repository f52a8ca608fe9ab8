/** What an image is: the facts `info` shows, under their QAPI names. */
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import type { InternalSnapshot } from '../block/facets.js';
import { placeOf, protocolPrefix, resolveReference } from '../block/filename.js';
import type { OptionValue } from '../block/options.js';

export type SnapshotInfo = {
  readonly id: string;
  readonly name: string;
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
  readonly 'vm-clock-sec': number;
  readonly 'vm-clock-nsec': number;
  readonly icount?: bigint;
};

/** One node; sizes in bytes. */
export type NodeInfo = {
  readonly filename: string;
  readonly format: string;
  /** Absent where no layer knows (NBD, null). */
  readonly 'dirty-flag'?: boolean;
  /** Host storage in use; absent where nobody knows. */
  readonly 'actual-size'?: number;
  readonly 'virtual-size': number;
  readonly 'cluster-size'?: number;
  readonly encrypted?: true;
  readonly compressed?: true;
  /** As stored in the image. */
  readonly 'backing-filename'?: string;
  /** As it will be opened; absent where it can't be told. */
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly snapshots?: readonly SnapshotInfo[];
  readonly 'format-specific'?: { readonly type: string; readonly data: Readonly<Record<string, OptionValue>> };
  readonly children: readonly { readonly name: string; readonly info: NodeInfo }[];
};

/** Facts about a node and all that is open below it. */
export async function imageInfo(node: BlockNode): Promise<NodeInfo> {
  const format = node.facet('formatInfo');
  const backing = node.facet('backing');
  const snapshots = node.facet('snapshots')?.list() ?? [];
  const specific = format?.specific();
  const actualSize = await allocatedSize(node);
  const children = [];
  // the peer's order: opened last, told first
  for (const [name, child] of [...node.children].reverse()) children.push({ name, info: await imageInfo(child.node) });
  return {
    filename: node.filename,
    format: node.driver.name,
    ...(hasFacts(node) && { 'dirty-flag': format?.dirty ?? false }),
    ...(actualSize !== undefined && { 'actual-size': actualSize }),
    'virtual-size': Math.ceil(node.size / 512) * 512,
    ...(format?.clusterSize !== undefined && { 'cluster-size': format.clusterSize }),
    ...(format?.encrypted && { encrypted: true as const }),
    ...(format?.compressed && { compressed: true as const }),
    ...backingInfo(node, backing?.filename, backing?.format),
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotInfo) }),
    ...(specific && { 'format-specific': specific }),
    children,
  };
}

/** Whether the layer, or the one it passes on, can tell of its state at all. */
function hasFacts(node: BlockNode): boolean {
  return node.facet('formatInfo') !== undefined || [...node.children.values()].some((child) => child.role === 'filtered' && hasFacts(child.node));
}

function backingInfo(node: BlockNode, filename: string | undefined, format: string | undefined): Partial<NodeInfo> {
  if (filename === undefined) return {};
  const full = fullBackingName(node, filename);
  return {
    'backing-filename': filename,
    ...(full !== undefined && { 'full-backing-filename': full }),
    ...(format !== undefined && { 'backing-filename-format': format }),
  };
}

/** Resolves a name stored in an image as opening it would; undefined where the image's own place can't be told. */
export function fullBackingName(node: BlockNode, filename: string): string | undefined {
  if (filename.startsWith('/') || protocolPrefix(filename) !== undefined) return filename;
  const place = placeOf(node);
  return place === undefined ? undefined : resolveReference(filename, place);
}

/** Nanoseconds of guest time and the rest, under QAPI's names. */
export function snapshotInfo(snapshot: InternalSnapshot): SnapshotInfo {
  return {
    id: snapshot.id,
    name: snapshot.name,
    'vm-state-size': snapshot.vmStateSize,
    'date-sec': snapshot.dateSec,
    'date-nsec': snapshot.dateNsec,
    'vm-clock-sec': Number(snapshot.vmClockNs / 1_000_000_000n),
    'vm-clock-nsec': Number(snapshot.vmClockNs % 1_000_000_000n),
    ...(snapshot.icount !== undefined && { icount: snapshot.icount }),
  };
}

/** Host storage a node takes, its own files together; undefined where one of them can't say. */
export async function allocatedSize(node: BlockNode): Promise<number | undefined> {
  const facet = node.facet('allocatedSize');
  if (facet) return facet.allocatedSize().catch((error: unknown) => {
    if (error instanceof BlockError) return undefined;
    throw error;
  });
  if (node.driver.kind === 'protocol' || node.driver.protocolPrefixes !== undefined) return undefined;
  let sum = 0;
  for (const child of node.children.values()) {
    if (child.role === 'cow') continue;
    const size = await allocatedSize(child.node);
    if (size === undefined) return undefined;
    sum += size;
  }
  return sum;
}
