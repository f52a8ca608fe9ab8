/** Laying out a new disk. */
import type { BlockBackend } from '../../block/child.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { OptionValue } from '../../block/options.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import { formatDescriptor, newCid, noParent, type ExtentLine } from './descriptor.js';
import { encodeSparseHeader, sectorSize, sparseLayout, streamHeader, tableSectors, type SparseHeader } from './header.js';
import { adapterTypes, subformats, type Subformat } from './options.js';
import { StreamWriter } from './stream.js';

export type OptionValues = Readonly<Record<string, OptionValue>>;

export interface DiskPlan {
  readonly subformat: Subformat;
  /** Whole sectors. */
  readonly sectors: number;
  readonly flat: boolean;
  readonly split: boolean;
  readonly zeroedGrain: boolean;
  readonly adapterType: string;
  readonly hardwareVersion: string;
  readonly toolsVersion: string;
}

/** Sectors of an extent of a split disk, but for the last. */
export const splitSectors = 2 ** 31 / sectorSize;
/** So much a directory can tell, as readers accept it. */
const maxSparseSectors = 2 ** 50 / sectorSize;

/** @throws BlockError INVALID_ARGUMENT with the peer's texts */
export function planDisk(size: number, options: OptionValues): DiskPlan {
  const text = (key: string): string | undefined => (typeof options[key] === 'string' ? options[key] : undefined);
  const adapterType = text('adapter_type') ?? 'ide';
  if (!adapterTypes.includes(adapterType)) throw bad(`invalid parameter value: ${adapterType}`);
  const wanted = text('subformat') ?? 'monolithicSparse';
  const subformat = subformats.find((name) => name === wanted);
  if (subformat === undefined) throw bad(`invalid parameter value: ${wanted}`);
  const hardware = text('hwversion') ?? 'undefined';
  if (options['compat6'] === true && hardware !== 'undefined') throw bad('compat6 cannot be enabled with hwversion set');
  const flat = subformat === 'monolithicFlat' || subformat === 'twoGbMaxExtentFlat';
  const zeroedGrain = options['zeroed_grain'] === true;
  if (flat && options['backing_file'] !== undefined) throw bad("Flat image can't have backing file");
  if (flat && zeroedGrain) throw bad("Flat image can't enable zeroed grain");
  const sectors = Math.ceil(size / sectorSize);
  if (!flat && subformat !== 'twoGbMaxExtentSparse' && sectors > maxSparseSectors) throw systemError(Errno.EFBIG);
  return {
    subformat, sectors, flat, split: subformat.startsWith('twoGb'), zeroedGrain, adapterType,
    hardwareVersion: options['compat6'] === true ? '6' : hardware === 'undefined' ? '4' : hardware,
    toolsVersion: text('toolsversion') ?? '2147483647',
  };
}

export async function createVmdk(target: BlockBackend, options: OptionValues & { readonly size: number }, context: CreateContext): Promise<void> {
  const plan = planDisk(options.size, options);
  const parent = await parentOf(options, context);
  const names = nameParts(context.filename);
  const extents = extentLines(plan, names.base);
  const descriptor = formatDescriptor({ ...plan, ...parent, cid: newCid(), createType: plan.subformat, extents });
  const text = new TextEncoder().encode(descriptor);
  target.allowWriteBeyondEnd = true;
  if (!plan.flat && !plan.split) return run(createAlone(target, plan, text));
  for (const { filename, sectors } of extents) {
    const file = await context.createFile(names.folder + filename!);
    try {
      if (plan.flat) await file.resize(sectors * sectorSize, { exact: false });
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
  const format = options['backing_fmt'];
  if (format !== undefined && format !== 'vmdk') throw bad('backing_file must be a vmdk image');
  const backing = await context.openBacking(hint, format);
  try {
    const info = backing.facet('formatInfo')?.specific();
    const cid = info?.type === 'vmdk' ? info.data['cid'] : undefined;
    if (typeof cid !== 'number') throw bad('backing_file must be a vmdk image');
    return { parentCid: cid, parentHint: hint };
  } finally {
    await backing.close();
  }
}

/** Folder with its slash, and the name in two parts around the last dot. */
function nameParts(filename: string): { readonly folder: string; readonly base: { readonly stem: string; readonly suffix: string } } {
  const slash = Math.max(filename.lastIndexOf('/'), filename.lastIndexOf(':'));
  const name = filename.slice(slash + 1);
  const dot = name.lastIndexOf('.');
  return {
    folder: filename.slice(0, slash + 1),
    base: dot === -1 ? { stem: name, suffix: '' } : { stem: name.slice(0, dot), suffix: name.slice(dot) },
  };
}

function extentLines(plan: DiskPlan, { stem, suffix }: { readonly stem: string; readonly suffix: string }): ExtentLine[] {
  const line = (sectors: number, filename: string): ExtentLine => ({ access: 'RW', sectors, type: plan.flat ? 'FLAT' : 'SPARSE', filename, offset: 0 });
  if (!plan.split) return [line(plan.sectors, plan.flat ? `${stem}-flat${suffix}` : stem + suffix)];
  const lines: ExtentLine[] = [];
  for (let left = plan.sectors; left > 0; left -= splitSectors) {
    const number = String(lines.length + 1).padStart(3, '0');
    lines.push(line(Math.min(left, splitSectors), `${stem}-${plan.flat ? 'f' : 's'}${number}${suffix}`));
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
function* layOut(file: BlockBackend, header: SparseHeader, descriptor: Uint8Array): Steps<void> {
  checkRoom(header, descriptor);
  yield* wait(file.resize(header.overhead * sectorSize, { exact: false }));
  yield* wait(file.write(0, encodeSparseHeader(header)));
  if (descriptor.length > 0) yield* wait(file.write(header.descriptor * sectorSize, descriptor));
  for (const directory of [header.redundantDirectory, header.directory!]) yield* writeDirectory(file, header, directory);
}

const directoryPiece = 1 << 20;

function* writeDirectory(file: BlockBackend, header: SparseHeader, directory: number): Steps<void> {
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
