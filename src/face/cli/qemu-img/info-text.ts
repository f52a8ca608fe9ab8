/** The text form of image facts. */
import type { NodeInfo, SnapshotInfo } from '../../../image/info.js';
import { orderedEntries } from '../../../util/key-order.js';
import { formatBytes, formatSize } from '../../../util/units.js';

/** Lines about an image and, indented under headings like `Child node '/file':`, about what it stands on. */
export function infoText(info: NodeInfo): string { return describe(info, '', '', false); }

function describe(info: NodeInfo, indent: string, path: string, leaf: boolean): string {
  const lines = leaf
    ? [`filename: ${info.filename}`, `protocol type: ${info.format}`, `file length: ${sizes(info['virtual-size'])}`]
    : [`image: ${info.filename}`, `file format: ${info.format}`, `virtual size: ${sizes(info['virtual-size'])}`];
  lines.push(`disk size: ${info['actual-size'] === undefined ? 'unavailable' : formatSize(info['actual-size'])}`);
  if (info.encrypted) lines.push('encrypted: yes');
  if (info['cluster-size'] !== undefined) lines.push(`cluster_size: ${info['cluster-size']}`);
  if (info['dirty-flag']) lines.push('cleanly shut down: no');
  if (info['backing-filename'] !== undefined) lines.push(...backingLines(info));
  if (info.snapshots) lines.push('Snapshot list:', ...snapshotTable(info.snapshots));
  const specific = info['format-specific'];
  if (specific && Object.keys(specific.data).length > 0) lines.push('Format specific information:', ...dictionaryLines(specific.data, '    '));
  let text = lines.map((line) => `${indent}${line}\n`).join('');
  for (const { name, info: child } of info.children) {
    const childPath = `${path}/${name}`;
    text += `${indent}Child node '${childPath}':\n${describe(child, `${indent}    `, childPath, child.children.length === 0)}`;
  }
  return text;
}

function sizes(bytes: number): string { return `${formatSize(bytes)} (${formatBytes(bytes)} bytes)`; }

function backingLines(info: NodeInfo): string[] {
  const stored = info['backing-filename']!;
  const full = info['full-backing-filename'];
  const note = full === undefined ? ' (cannot determine actual path)' : full === stored ? '' : ` (actual path: ${full})`;
  const format = info['backing-filename-format'];
  return [`backing file: ${stored}${note}`, ...(format === undefined ? [] : [`backing file format: ${format}`])];
}

/** The members of a dictionary, one a line, in their customary order; nested ones indented below their name. */
export function dictionaryLines(value: unknown, indent: string): string[] {
  const entries: [string, unknown][] = Array.isArray(value)
    ? value.map((item: unknown, index): [string, unknown] => [`[${index}]`, item])
    : orderedEntries(value as Record<string, unknown>).map(([name, member]) => [name.replaceAll('-', ' '), member]);
  return entries.flatMap(([label, member]) => typeof member === 'object' && member !== null
    ? [`${indent}${label}:`, ...dictionaryLines(member, `${indent}    `)]
    : [`${indent}${label}: ${String(member)}`]);
}

/** A heading and one row for each internal snapshot. */
export function snapshotTable(snapshots: readonly SnapshotInfo[]): string[] {
  return [row('ID', 'TAG', 'VM_SIZE', 'DATE', 'VM_CLOCK', 'ICOUNT'), ...snapshots.map((snapshot) => row(
    snapshot.id, snapshot.name, formatSize(snapshot['vm-state-size']), localTime(snapshot['date-sec']), clock(snapshot),
    snapshot.icount === undefined ? '--' : snapshot.icount.toString(),
  ))];
}

function row(id: string, tag: string, size: string, date: string, time: string, icount: string): string {
  return `${id.padEnd(7)} ${tag.padEnd(16)} ${size.padStart(8)} ${date.padStart(19)} ${time.padStart(15)} ${icount.padStart(10)}`;
}

function localTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function clock(snapshot: SnapshotInfo): string {
  const seconds = snapshot['vm-clock-sec'];
  const part = (value: number, digits: number): string => String(Math.trunc(value)).padStart(digits, '0');
  return `${part(seconds / 3600, 4)}:${part((seconds / 60) % 60, 2)}:${part(seconds % 60, 2)}.${part(snapshot['vm-clock-nsec'] / 1e6, 3)}`;
}

/** Several images, a blank line between them. */
export function chainText(infos: readonly NodeInfo[]): string { return infos.map(infoText).join('\n'); }
