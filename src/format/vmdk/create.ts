/** Laying out a new disk. */
import type { BlockBackend, BlockChild } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { formatCid, formatDescriptor, newCid, noParent, type ExtentLine } from './descriptor.js';
import { encodeCowd, encodeSparseHeader, sectorSize, sparseLayout, streamHeader, tableSectors, type SparseHeader } from './header.js';
import { formatEntry, formatExtent } from './descriptor-text.js';
import { nameParts, splitName, type NameParts } from './names.js';
import { adapterTypes, noVmdk, subformats, type Subformat } from './options.js';
import { StreamWriter } from './stream.js';

export type OptionValues = Readonly<Record<string, OptionValue>>;

export interface DiskPlan {
  readonly subformat: Subformat;
  readonly createType: string;
  /** Whole sectors. */
  readonly sectors: number;
  readonly flat: boolean;
  readonly split: boolean;
  /** The one extent has its own file, and holds no descriptor. */
  readonly apart: boolean;
  /** As extents are called in the descriptor. */
  readonly extentType: string;
  /** Between stem and suffix of the disk's name, in that of its one extent. */
  readonly mark: string;
  readonly zeroedGrain: boolean;
  readonly adapterType: string;
  readonly hardwareVersion: string;
  readonly toolsVersion: string;
  /** More of the disk database. */
  readonly entries: ReadonlyMap<string, string>;
  readonly identity: boolean;
  /** Of flat extents. */
  readonly preallocation: 'off' | 'falloc';
}

/** Kinds whose one extent lies in a file of its own. */
const apartKinds: Readonly<Partial<Record<Subformat, { readonly createType: string; readonly extentType: string; readonly mark: string }>>> = {
  monolithicFlat: { createType: 'monolithicFlat', extentType: 'FLAT', mark: '-flat' },
  vmfs: { createType: 'vmfs', extentType: 'VMFS', mark: '-flat' },
  vmfsThin: { createType: 'vmfs', extentType: 'VMFS', mark: '-flat' },
  vmfsSparse: { createType: 'vmfsSparse', extentType: 'VMFSSPARSE', mark: '-delta' },
};

/** Sectors of an extent of a split disk, but for the last. */
export const splitSectors = 2 ** 31 / sectorSize;
/** So much a directory can tell, as readers accept it. */
export const maxSparseSectors = 2 ** 50 / sectorSize;

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export function planDisk(size: number, options: OptionValues): DiskPlan {
  if ((options['backing_fmt'] ?? 'vmdk') !== 'vmdk') throw bad(noVmdk);
  const text = (key: string): string | undefined => (typeof options[key] === 'string' ? options[key] : undefined);
  const adapterType = text('adapter_type') ?? 'ide';
  if (!adapterTypes.includes(adapterType)) throw bad(`invalid parameter value: ${adapterType}`);
  const wanted = text('subformat') ?? 'monolithicSparse';
  const subformat = subformats.find((name) => name === wanted);
  if (subformat === undefined) throw bad(`invalid parameter value: ${wanted}`);
  const hardware = text('hwversion') ?? 'undefined';
  if (options['compat6'] === true && hardware !== 'undefined') throw bad('compat6 cannot be enabled with hwversion set');
  const kind = apartKinds[subformat];
  const flat = subformat.endsWith('Flat') || kind?.extentType === 'VMFS';
  const zeroedGrain = options['zeroed_grain'] === true;
  if (flat && options['backing_file'] !== undefined) throw bad("Flat image can't have backing file");
  if (flat && zeroedGrain) throw bad("Flat image can't enable zeroed grain");
  const preallocation = text('preallocation') ?? 'off';
  if (preallocation !== 'off' && preallocation !== 'falloc') throw bad(`invalid parameter value: ${preallocation}`);
  if (!flat && preallocation !== 'off') throw bad('Only flat extents are preallocated');
  const sectors = Math.ceil(size / sectorSize);
  if (subformat === 'vmfsSparse' && zeroedGrain) throw bad('A vmfsSparse disk has no zeroed grains');
  if (!flat && subformat !== 'twoGbMaxExtentSparse' && sectors > (subformat === 'vmfsSparse' ? 2 ** 32 - 1 : maxSparseSectors)) throw systemError(Errno.EFBIG);
  const entries = databaseEntries(options['ddb']);
  if (subformat === 'vmfsThin') entries.set('thinProvisioned', '1');
  return {
    subformat, createType: kind?.createType ?? subformat, sectors, flat, split: subformat.startsWith('twoGb'), apart: kind !== undefined,
    extentType: kind?.extentType ?? (flat ? 'FLAT' : 'SPARSE'), mark: kind?.mark ?? '', entries, identity: options['identity'] === true, zeroedGrain, adapterType,
    hardwareVersion: options['compat6'] === true ? '6' : hardware === 'undefined' ? '4' : hardware,
    toolsVersion: text('toolsversion') ?? '2147483647', preallocation,
  };
}

/** @throws BlockError INVALID_ARGUMENT as planDisk() does, and for a name that no descriptor can hold */
export function checkDisk(options: OptionValues & { readonly size: number }, filename: string): void {
  extentLines(planDisk(options.size, options), nameParts(filename)).forEach(formatExtent);
}

/** Of a dictionary, or of a text `key=value;key=value`. */
function databaseEntries(given: OptionValue): Map<string, string> {
  if (given === undefined || given === null) return new Map();
  const entries = typeof given === 'string'
    ? given.split(';').filter((pair) => pair !== '').map((pair): [string, string] => {
      const equals = pair.indexOf('=');
      if (equals <= 0) throw bad(`Entries of the disk database have the form key=value: '${pair}'`);
      return [pair.slice(0, equals).trim(), pair.slice(equals + 1).trim()];
    })
    : Object.entries(given).map(([key, value]): [string, string] => [key, String(value)]);
  for (const [key, value] of entries) formatEntry(key, value);
  return new Map(entries);
}

/** What VMware's programs know a disk by: a UUID of theirs, and a long content ID that ends with the CID. */
function identityEntries(cid: number): [string, string][] {
  const hex = (bytes: Uint8Array): string[] => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'));
  const random = hex(crypto.getRandomValues(new Uint8Array(25)));
  const uuid = ['60', '00', 'C2', `9${random[0]![1]}`, ...random.slice(1, 13)];
  return [
    ['uuid', `${uuid.slice(0, 8).join(' ')}-${uuid.slice(8).join(' ')}`],
    ['longContentID', random.slice(13).join('') + formatCid(cid)],
  ];
}

export async function createVmdk(target: BlockBackend, options: OptionValues & { readonly size: number }, context: CreateContext): Promise<void> {
  const plan = planDisk(options.size, options);
  const parent = await parentOf(options, context);
  const parts = nameParts(context.filename);
  const extents = extentLines(plan, parts);
  const cid = newCid();
  const entries = new Map([...(plan.identity ? identityEntries(cid) : []), ...plan.entries]);
  const text = new TextEncoder().encode(formatDescriptor({ ...plan, ...parent, cid, extents, entries }));
  target.allowWriteBeyondEnd = true;
  if (!plan.apart && !plan.split) return run(createAlone(target, plan, text));
  const { signal } = context;
  for (const { filename, sectors } of extents) {
    signal?.throwIfAborted();
    const file = await context.createFile(parts.folder + filename!);
    file.allowWriteBeyondEnd = true;
    try {
      if (plan.flat) await file.resize(sectors * sectorSize, { exact: false, preallocation: plan.preallocation, ...(signal && { signal }) });
      else if (plan.apart) await file.write(0, encodeCowd(sectors, parent.parentHint !== undefined));
      else await run(layOut(file, sparseLayout(sectors, plan), new Uint8Array(0)));
    } finally {
      await file.close();
    }
  }
  await target.write(0, text);
}

interface Parent { readonly parentCid: number; readonly parentHint?: string }

/** @throws BlockError where the backing file is no disk of this kind */
async function parentOf(options: OptionValues, context: CreateContext): Promise<Parent> {
  const hint = options['backing_file'];
  if (typeof hint !== 'string') return { parentCid: noParent };
  if (/[\r\n]/.test(hint)) throw bad('A backing file name with line ends cannot be stored');
  const backing = await context.openBacking(hint, options['backing_fmt'] === undefined ? undefined : 'vmdk');
  try {
    const info = backing.facet('formatInfo')?.specific();
    const cid = info?.type === 'vmdk' ? info.data['cid'] : undefined;
    if (typeof cid !== 'number') throw bad(noVmdk);
    return { parentCid: cid, parentHint: hint };
  } finally {
    await backing.close();
  }
}

function extentLines(plan: DiskPlan, parts: NameParts): ExtentLine[] {
  const line = (sectors: number, filename: string): ExtentLine => ({ access: 'RW', sectors, type: plan.extentType, filename, offset: 0 });
  const { stem, suffix } = parts;
  if (!plan.split) return [line(plan.sectors, `${stem}${plan.mark}${suffix}`)];
  const lines: ExtentLine[] = [];
  for (let left = plan.sectors; left > 0; left -= splitSectors) {
    lines.push(line(Math.min(left, splitSectors), splitName(parts, plan.flat, lines.length + 1)));
  }
  return lines;
}

function* createAlone(target: BlockBackend, plan: DiskPlan, descriptor: Uint8Array): Steps<void> {
  if (plan.subformat !== 'streamOptimized') return yield* layOut(target, sparseLayout(plan.sectors, plan), descriptor);
  const header = streamHeader(plan.sectors, plan.zeroedGrain);
  checkRoom(header, descriptor);
  const writer: StreamWriter = new StreamWriter(header, (bytes) => target.write(writer.position - bytes.length, bytes));
  yield* writer.begin(descriptor);
  yield* writer.finish();
}

function checkRoom({ descriptorLength }: SparseHeader, descriptor: Uint8Array): void {
  if (descriptor.length > descriptorLength * sectorSize) throw bad('The descriptor is too long: use shorter names');
}

/** Header, descriptor, and two directories whose tables follow them, all empty. */
export function* layOut(file: BlockChild, header: SparseHeader, descriptor: Uint8Array): Steps<void> {
  checkRoom(header, descriptor);
  yield* wait(file.resize(header.overhead * sectorSize, { exact: false }));
  yield* wait(file.write(0, encodeSparseHeader(header)));
  if (descriptor.length > 0) yield* wait(file.write(header.descriptor * sectorSize, descriptor));
  for (const directory of [header.redundantDirectory, header.directory!]) yield* writeDirectory(file, header, directory);
}

const directoryPiece = 1 << 20;

function* writeDirectory(file: BlockChild, header: SparseHeader, directory: number): Steps<void> {
  const tables = Math.ceil(header.capacity / (header.grain * header.tableEntries));
  const first = directory + Math.ceil(tables * 4 / sectorSize);
  for (let at = 0; at < tables * 4; at += directoryPiece) {
    const piece = new Uint8Array(Math.min(directoryPiece, tables * 4 - at));
    const view = viewOf(piece);
    for (let entry = 0; entry < piece.length; entry += 4) {
      view.setUint32(entry, first + (at + entry) / 4 * tableSectors(header.tableEntries), true);
    }
    yield* wait(file.write(directory * sectorSize + at, piece));
  }
}

function bad(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: Errno.EINVAL });
}
