/** Directory entries: short names, long names, dates (Microsoft FAT specification 1.03, sections 6 and 7). */
import { viewOf } from '../../util/view.js';

export const entrySize = 32;
export const Attribute = { VOLUME: 0x08, DIRECTORY: 0x10, ARCHIVE: 0x20, LONG_NAME: 0x0f } as const;

const charsPerEntry = 13;
/** Where the 13 UTF-16 units of a long-name entry lie. */
const charPlaces = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30] as const;
const lastOfName = 0x40;

/** A name of the 8.3 form, 11 characters, for `name`; differs from all in `taken`, to which it is added. */
export function shortName(name: string, taken: Set<string>): string {
  const trimmed = name.replace(/^\.+/, '');
  const dot = trimmed.lastIndexOf('.');
  const clean = (part: string): string => part.toUpperCase().replace(/[^A-Z0-9!#$%&'()@^_`{}~-]/g, '');
  const base = clean(dot > 0 ? trimmed.slice(0, dot) : trimmed);
  const extension = clean(dot > 0 ? trimmed.slice(dot + 1) : '').slice(0, 3).padEnd(3);
  const whole = dot > 0 ? `${base}.${extension.trimEnd()}` : base;
  const exact = base.length > 0 && base.length <= 8 && whole === name.toUpperCase().replace(/\.$/, '');
  for (let n = exact ? 0 : 1; ; n++) {
    const tail = n === 0 ? '' : `~${n}`;
    const candidate = `${base.slice(0, 8 - tail.length)}${tail}`.padEnd(8) + extension;
    if (taken.has(candidate)) continue;
    taken.add(candidate);
    return candidate;
  }
}

/** The entry of a file or directory, behind those of its long name if it has one. */
export function directoryEntries(entry: {
  readonly longName?: string; readonly shortName: string; readonly attributes: number; readonly modified?: Date; readonly cluster: number; readonly size: number;
}): Uint8Array {
  const { longName, modified } = entry;
  const longEntries = longName === undefined ? 0 : Math.ceil(longName.length / charsPerEntry);
  const bytes = new Uint8Array((longEntries + 1) * entrySize);
  const at = longEntries * entrySize;
  const view = viewOf(bytes);
  for (let i = 0; i < 11; i++) bytes[at + i] = entry.shortName.charCodeAt(i);
  bytes[at + 11] = entry.attributes;
  if (modified) {
    const { date, time } = dosTime(modified);
    for (const place of [14, 22]) view.setUint16(at + place, time, true);
    for (const place of [16, 18, 24]) view.setUint16(at + place, date, true);
  }
  view.setUint16(at + 20, entry.cluster >>> 16, true);
  view.setUint16(at + 26, entry.cluster & 0xffff, true);
  view.setUint32(at + 28, entry.size, true);
  const checksum = nameChecksum(bytes.subarray(at, at + 11));
  for (let n = 0; n < longEntries; n++) {
    const start = (longEntries - 1 - n) * entrySize;
    bytes[start] = (n + 1) | (n === longEntries - 1 ? lastOfName : 0);
    bytes[start + 11] = Attribute.LONG_NAME;
    bytes[start + 13] = checksum;
    charPlaces.forEach((place, i) => {
      const index = n * charsPerEntry + i;
      view.setUint16(start + place, index < longName!.length ? longName!.charCodeAt(index) : index === longName!.length ? 0 : 0xffff, true);
    });
  }
  return bytes;
}

export interface FoundEntry {
  readonly name: string;
  readonly directory: boolean;
  readonly cluster: number;
  readonly size: number;
  readonly modified: Date;
}

/** What a directory lists, but for itself, its parent, the volume's label and what was deleted. */
export function parseDirectory(bytes: Uint8Array): FoundEntry[] {
  const view = viewOf(bytes);
  const found: FoundEntry[] = [];
  let longName = '';
  let checksum = -1;
  for (let at = 0; at + entrySize <= bytes.length && bytes[at] !== 0; at += entrySize) {
    const attributes = bytes[at + 11]!;
    if (bytes[at] === 0xe5) { longName = ''; continue; }
    if ((attributes & 0x3f) === Attribute.LONG_NAME) {
      if ((bytes[at]! & lastOfName) !== 0) longName = '';
      checksum = bytes[at + 13]!;
      const units = charPlaces.map((place) => view.getUint16(at + place, true));
      const end = units.indexOf(0);
      longName = String.fromCharCode(...units.slice(0, end < 0 ? units.length : end)) + longName;
      continue;
    }
    const isLong = longName !== '' && checksum === nameChecksum(bytes.subarray(at, at + 11));
    const name = isLong ? longName : plainName(bytes.subarray(at, at + 13));
    longName = '';
    if ((attributes & Attribute.VOLUME) !== 0 || name === '.' || name === '..') continue;
    found.push({
      name, directory: (attributes & Attribute.DIRECTORY) !== 0,
      cluster: view.getUint16(at + 20, true) * 0x1_0000 + view.getUint16(at + 26, true), size: view.getUint32(at + 28, true),
      modified: fromDosTime(view.getUint16(at + 24, true), view.getUint16(at + 22, true)),
    });
  }
  return found;
}

/** Bits 3 and 4 of byte 12: base and extension are shown in lower case. */
function plainName(entry: Uint8Array): string {
  const text = (from: number, to: number): string => String.fromCharCode(...entry.subarray(from, to)).trimEnd();
  const flags = entry[12]!;
  const base = (flags & 8) !== 0 ? text(0, 8).toLowerCase() : text(0, 8);
  const extension = (flags & 16) !== 0 ? text(8, 11).toLowerCase() : text(8, 11);
  const name = entry[0] === 0x05 ? `\u00e5${base.slice(1)}` : base;
  return extension === '' ? name : `${name}.${extension}`;
}

function nameChecksum(name: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < 11; i++) sum = (((sum & 1) << 7) + (sum >> 1) + name[i]!) & 0xff;
  return sum;
}

function dosTime(when: Date): { date: number; time: number } {
  const year = Math.min(Math.max(when.getFullYear(), 1980), 2107);
  return {
    date: ((year - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate(),
    time: (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1),
  };
}

function fromDosTime(date: number, time: number): Date {
  return new Date(1980 + (date >> 9), ((date >> 5) & 15) - 1, date & 31, time >> 11, (time >> 5) & 63, (time & 31) * 2);
}
