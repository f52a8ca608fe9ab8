/** The descriptor: a text that says what a disk is made of. No I/O. */
import { BlockError, Errno } from '../../block/errors.js';
import { latin1 } from '../../util/latin1.js';
import { formatEntry, formatExtent, unescapeValue } from './descriptor-text.js';
import { corrupt } from './header.js';

/** Parent CID of a disk that stands alone. */
export const noParent = 0xffff_ffff;
/** Longest descriptor that is read, in bytes. */
export const maxDescriptor = 1 << 20;

export interface ExtentLine {
  readonly access: 'RW' | 'RDONLY' | 'NOACCESS';
  readonly sectors: number;
  /** FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE, SESPARSE. */
  readonly type: string;
  /** Undefined for ZERO. Relative to the descriptor's folder. */
  readonly filename: string | undefined;
  /** First sector of it that belongs to the extent. */
  readonly offset: number;
}

export interface Descriptor {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string;
  readonly parentHint: string | undefined;
  readonly extents: readonly ExtentLine[];
  /** Entries of the disk database, without "ddb.". */
  readonly database: ReadonlyMap<string, string>;
}

const types: ReadonlySet<string> = new Set(['FLAT', 'SPARSE', 'ZERO', 'VMFS', 'VMFSSPARSE', 'SESPARSE', 'VMFSRDM', 'VMFSRAW']);
/** Disks made of files; those made of devices are not for us. */
const fileTypes: ReadonlySet<string> = new Set([
  'monolithicsparse', 'monolithicflat', 'twogbmaxextentsparse', 'twogbmaxextentflat', '2gbmaxextentsparse', '2gbmaxextentflat',
  'streamoptimized', 'vmfs', 'vmfssparse', 'sesparse', 'vmfsthin', 'vmfspreallocated', 'vmfseagerzeroedthick',
]);

/** 0 … 100, as drivers answer. */
export function probeDescriptor(head: Uint8Array): number {
  for (const line of latin1(head).split('\n')) {
    if (line.startsWith('#') || /^\s*$/.test(line)) continue;
    return /^version=[123]\s*$/.test(line) ? 100 : 0;
  }
  return 0;
}

export function decodeText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end === -1 ? bytes : bytes.subarray(0, end));
}

/**
 * @param place name of its file
 * @param embedded it lies in an extent
 * @throws BlockError CORRUPT_IMAGE where it is none or has no CID or type; UNSUPPORTED_FEATURE for disks made of devices
 */
export function parseDescriptor(text: string, place: string, embedded: boolean): Descriptor {
  const lines = text.split(/\r?\n/);
  const values = new Map<string, string>();
  const extentLines: string[] = [];
  const database = new Map<string, string>();
  for (const line of lines) {
    const entry = /^\s*ddb\.([\w.:-]+)\s*=(.*)$/is.exec(line);
    if (entry) database.set(entry[1]!, unescapeValue(unquoted(entry[2]!.trim())));
    const assignment = /^\s*([A-Za-z][\w.]*)\s*=(.*)$/s.exec(line);
    if (assignment) values.set(assignment[1]!.toLowerCase(), unquoted(assignment[2]!.trim()));
    else if (/^\s*(RW|RDONLY|NOACCESS)\s/i.test(line)) extentLines.push(line);
  }
  const incomplete = (): BlockError => new BlockError('CORRUPT_IMAGE', `Could not open '${place}': Invalid argument`, { errno: Errno.EINVAL });
  const cid = parseCid(values.get('cid'));
  const createType = values.get('createtype');
  if (createType === undefined && !embedded) throw corrupt('invalid VMDK image descriptor');
  if (cid === undefined || createType === undefined) throw incomplete();
  const parentCid = values.has('parentcid') ? parseCid(values.get('parentcid')) : noParent;
  if (parentCid === undefined) throw incomplete();
  if (!fileTypes.has(createType.toLowerCase())) {
    throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported image type '${createType}'`, { errno: Errno.ENOTSUP });
  }
  const hint = values.get('parentfilenamehint');
  return {
    cid, parentCid, createType, parentHint: hint === '' ? undefined : hint,
    extents: extentLines.map(parseExtentLine), database,
  };
}

function parseCid(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9a-f]{1,8}$/i.test(text) ? parseInt(text, 16) : undefined;
}

function unquoted(text: string): string {
  return text.length >= 2 && text.startsWith('"') && text.endsWith('"') ? text.slice(1, -1) : text;
}

function parseExtentLine(line: string): ExtentLine {
  const invalid = corrupt(`Invalid extent line: ${line}`);
  const match = /^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z]+)(?:\s+"(.*)"(?:\s+(\d+))?)?\s*$/is.exec(line);
  if (!match) throw invalid;
  const type = match[3]!.toUpperCase();
  const filename = match[4];
  const sectors = Number(match[2]);
  const offset = match[5] === undefined ? undefined : Number(match[5]);
  const needsOffset = type === 'FLAT';
  const fits = types.has(type) && (filename === undefined) === (type === 'ZERO') && (offset !== undefined) === needsOffset
    && filename !== '' && Number.isSafeInteger(sectors * 512) && Number.isSafeInteger((offset ?? 0) * 512);
  if (!fits) throw invalid;
  return { access: match[1]!.toUpperCase() as ExtentLine['access'], sectors, type, filename, offset: offset ?? 0 };
}

export interface DescriptorFields {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string;
  readonly parentHint?: string | undefined;
  readonly extents: readonly ExtentLine[];
  readonly hardwareVersion: string;
  readonly adapterType: string;
  readonly toolsVersion: string;
  /** Of the whole disk. */
  readonly sectors: number;
  /** More of the disk database; these win. */
  readonly entries: ReadonlyMap<string, string>;
}

export function formatDescriptor(fields: DescriptorFields): string {
  const heads = fields.adapterType === 'ide' ? 16 : 255;
  const entries = new Map([
    ['virtualHWVersion', fields.hardwareVersion], ['geometry.cylinders', String(Math.floor(fields.sectors / (heads * 63)))],
    ['geometry.heads', String(heads)], ['geometry.sectors', '63'], ['adapterType', fields.adapterType], ['toolsVersion', fields.toolsVersion],
    ...fields.entries,
  ]);
  return '# Disk DescriptorFile\nversion=1\n'
    + `CID=${formatCid(fields.cid)}\nparentCID=${formatCid(fields.parentCid)}\ncreateType="${fields.createType}"\n`
    + `${fields.parentHint === undefined ? '' : `parentFileNameHint="${fields.parentHint}"`}\n`
    + `# Extent description\n${fields.extents.map((extent) => `${formatExtent(extent)}\n`).join('')}\n`
    + `# The Disk Data Base\n#DDB\n\n${[...entries].map(([key, value]) => `${formatEntry(key, value)}\n`).join('')}`;
}

export function formatCid(cid: number): string {
  return cid.toString(16).padStart(8, '0');
}

/** A new content ID; the values that stand for "none" are never taken. */
export function newCid(): number {
  for (;;) {
    const [cid = 0] = crypto.getRandomValues(new Uint32Array(1));
    if (cid !== 0 && cid < 0xffff_fffe) return cid;
  }
}

/** The descriptor with another CID; everything else stays as it is, byte for byte. */
export function withCid(bytes: Uint8Array, cid: number): Uint8Array {
  const text = latin1(bytes);
  const match = /^([ \t]*CID[ \t]*=[ \t]*)([0-9a-f]+)/im.exec(text);
  if (!match) return bytes;
  const start = match.index + match[1]!.length;
  const digits = Uint8Array.from(formatCid(cid), (digit) => digit.charCodeAt(0));
  const changed = new Uint8Array(bytes.length - match[2]!.length + digits.length);
  changed.set(bytes.subarray(0, start));
  changed.set(digits, start);
  changed.set(bytes.subarray(start + match[2]!.length), start + digits.length);
  return changed;
}
