/** Changing a descriptor: what is not named stays as it is, byte for byte. No I/O. */
import { BlockError, Errno } from '../../block/errors.js';
import { latin1, utf8AsLatin1 } from '../../util/latin1.js';
import type { ExtentLine } from './descriptor.js';

export interface DescriptorEdit {
  /** Lines of the first part by their keys, as they are to stand behind "="; undefined takes them out. */
  readonly fields?: Readonly<Record<string, string | undefined>>;
  /** Entries of the disk database, without "ddb.". */
  readonly entries?: ReadonlyMap<string, string>;
  /** All extents there are. */
  readonly extents?: readonly ExtentLine[];
}

export function editDescriptor(bytes: Uint8Array, edit: DescriptorEdit): Uint8Array {
  const text = latin1(bytes);
  const ending = text.includes('\r\n') ? '\r' : '';
  let lines = text.split('\n');
  for (const [key, value] of Object.entries(edit.fields ?? {})) {
    lines = withLine(lines, key, value === undefined ? undefined : `${key}=${utf8AsLatin1(value)}${ending}`, afterFields);
  }
  if (edit.extents) lines = withExtents(lines, edit.extents.map((extent) => utf8AsLatin1(formatExtent(extent)) + ending));
  for (const [key, value] of edit.entries ?? []) {
    lines = withLine(lines, `ddb.${key}`, utf8AsLatin1(formatEntry(key, value)) + ending, lastLine);
  }
  return Uint8Array.from(lines.join('\n'), (character) => character.charCodeAt(0));
}

/** Where a line of that key is, it is changed or taken out; else it is put where `place` says. */
function withLine(lines: readonly string[], key: string, line: string | undefined, place: (lines: readonly string[]) => number): string[] {
  const pattern = new RegExp(`^\\s*${key.replace(/[^\w]/g, '\\$&')}\\s*=`, 'i');
  const at = lines.findIndex((each) => pattern.test(each));
  const replacement = line === undefined ? [] : [line];
  return at === -1 ? lines.toSpliced(place(lines), 0, ...replacement) : lines.toSpliced(at, 1, ...replacement);
}

/** Behind the type, or behind the last line of the first part that is there. */
function afterFields(lines: readonly string[]): number {
  return lines.findLastIndex((line) => /^\s*(createType|parentCID|CID|version)\s*=/i.test(line)) + 1;
}

function lastLine(lines: readonly string[]): number {
  return lines.findLastIndex((line) => line.trim() !== '') + 1;
}

function withExtents(lines: readonly string[], extents: readonly string[]): string[] {
  const isExtent = (line: string): boolean => /^\s*(RW|RDONLY|NOACCESS)\s/i.test(line);
  const first = lines.findIndex(isExtent);
  const at = first === -1 ? afterFields(lines) : first;
  return [...lines.slice(0, at), ...extents, ...lines.slice(at).filter((line) => !isExtent(line))];
}

/** @throws BlockError INVALID_ARGUMENT for a name that would end the line */
export function formatExtent({ access, sectors, type, filename, offset }: ExtentLine): string {
  if (filename !== undefined && /[\r\n]/.test(filename)) {
    throw new BlockError('INVALID_ARGUMENT', 'The name of a VMDK disk cannot have line ends: its descriptor is made of lines', { errno: Errno.EINVAL });
  }
  return `${access} ${sectors} ${type}${filename === undefined ? '' : ` "${filename}"`}${type === 'FLAT' ? ` ${offset}` : ''}`;
}

/** @throws BlockError INVALID_ARGUMENT for a key that no reader would find again */
export function formatEntry(key: string, value: string): string {
  if (!/^[A-Za-z0-9_.:-]+$/.test(key)) throw new BlockError('INVALID_ARGUMENT', `'${key}' cannot be a key of the disk database`, { errno: Errno.EINVAL });
  return `ddb.${key} = "${escapeValue(value)}"`;
}

/** Characters that would end a value stand as "|" and two hexadecimal digits. */
function escapeValue(value: string): string {
  return value.replace(/[\0-\x1f"|\x7f]/g, (character) => `|${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}

export function unescapeValue(value: string): string {
  return value.replace(/\|([0-9A-F]{2})/gi, (_, digits: string) => String.fromCharCode(parseInt(digits, 16)));
}
