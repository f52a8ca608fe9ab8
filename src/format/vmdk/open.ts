/** Opening a disk: descriptor, extents, parent. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { placeOf } from '../../block/filename.js';
import { decodeText, maxDescriptor, parseDescriptor, type Descriptor, type ExtentLine } from './descriptor.js';
import { FlatExtent, ZeroExtent, type Extent } from './extent.js';
import {
  checkSeSparseVolatileHeader, corrupt, Flag, footerMarkerFromEnd, isCowd, isHosted, maxSectors, parseCowdHeader, parseFooter,
  parseSeSparseHeader, parseSparseHeader, sectorSize, seSparseTableEntries, type SparseHeader,
} from './header.js';
import { cowdExtent, directoryLength, hostedExtent, hostedInit } from './hosted.js';
import { VmdkImage, type DescriptorPlace } from './image.js';
import { VmdkOps } from './ops.js';
import { SparseExtent } from './sparse.js';
import { StreamExtent } from './stream-extent.js';
import { seSparseShape } from './grain-tables.js';

/** Descriptors that a header does not place lie here. */
const usualDescriptor: DescriptorPlace = { offset: sectorSize, length: 20 * sectorSize };

/** An open under way. */
interface Opening {
  readonly context: OpenContext<object>;
  /** Why the disk can only be read. */
  refusal?: BlockError;
}

/** @throws the reason where the disk is to be written */
function readOnlyBecause(opening: Opening, reason: BlockError): void {
  if (!opening.context.readOnly) throw reason;
  opening.refusal ??= reason;
}

export async function openVmdk(context: OpenContext<object>): Promise<VmdkOps> {
  const opening: Opening = { context };
  const file = context.child('file')!;
  const head = await bytesAt(file, 0, sectorSize);
  const image = isHosted(head) ? await openHosted(file, head, opening)
    : isCowd(head) ? await openCowd(file, head, opening)
      : await openDescribed(file, { offset: 0, length: Math.min(file.size, maxDescriptor) }, opening);
  return new VmdkOps(image, context, opening.refusal);
}

async function openHosted(file: BlockChild, head: Uint8Array, opening: Opening): Promise<VmdkImage> {
  const header = parseSparseHeader(head);
  const place = header.descriptor === 0 || header.descriptorLength === 0 ? usualDescriptor : {
    offset: header.descriptor * sectorSize, length: Math.min(header.descriptorLength * sectorSize, maxDescriptor),
  };
  if (header.capacity === 0 && header.descriptor !== 0 && header.overhead === 0) return openDescribed(file, place, opening);
  const extent = await openHostedExtent(file, header, '', opening);
  const descriptor = await readDescriptor(file, place, true);
  const backing = await openParent(descriptor, opening);
  return new VmdkImage({ file, backing, descriptor, place, extents: [extent], header });
}

async function openCowd(file: BlockChild, head: Uint8Array, opening: Opening): Promise<VmdkImage> {
  const descriptor = await readDescriptor(file, usualDescriptor, true);
  return new VmdkImage({
    file, backing: await openParent(descriptor, opening), descriptor, place: usualDescriptor, extents: [cowdExtent(file, parseCowdHeader(head), '')],
  });
}

/** A file that is all descriptor. */
async function openDescribed(file: BlockChild, place: DescriptorPlace, opening: Opening): Promise<VmdkImage> {
  const descriptor = await readDescriptor(file, place, false);
  const extents: Extent[] = [];
  for (const [index, line] of descriptor.extents.entries()) {
    if (line.sectors > 0) extents.push(await openExtent(index, line, file, opening));
  }
  if (extents.length === 0) throw corrupt('The VMDK descriptor names no extents');
  return new VmdkImage({ file, backing: await openParent(descriptor, opening), descriptor, place, extents });
}

async function readDescriptor(file: BlockChild, { offset, length }: DescriptorPlace, embedded: boolean): Promise<Descriptor> {
  return parseDescriptor(decodeText(await bytesAt(file, offset, length)), file.node.filename, embedded);
}

/** Parents that came with the disk from another machine lie beside it: there they are looked for where the path leads nowhere here. */
async function openParent({ parentHint = '' }: Descriptor, { context }: Opening): Promise<BlockChild | undefined> {
  const open = (filename: string, isPath: boolean): Promise<BlockChild | undefined> =>
    context.implicitChild('backing', { kind: 'backing', filename, isPath, format: 'vmdk', role: 'cow' });
  const beside = (): Promise<BlockChild | undefined> => open(lastName(parentHint), true);
  if (/^[A-Za-z]:[\\/]|^\\\\/.test(parentHint)) return beside();
  try {
    return await open(parentHint, false);
  } catch (error) {
    const foreign = parentHint.startsWith('/') || parentHint.includes('\\');
    if (!foreign || !(error instanceof BlockError) || error.context.fault !== 'parent-missing') throw error;
    return await beside().catch(() => { throw error; });
  }
}

/** A backslash separates names on Windows; behind a slash it is a part of one. */
function lastName(path: string): string {
  return path.split(path.startsWith('/') ? '/' : /[\\/]/).at(-1)!;
}

async function openExtent(index: number, line: ExtentLine, file: BlockChild, opening: Opening): Promise<Extent> {
  const size = line.sectors * sectorSize;
  const { filename, type } = line;
  if (line.access === 'NOACCESS') throw refused('Extents that must not be read (NOACCESS) are not supported');
  if (filename === undefined) return new ZeroExtent(size);
  if (type === 'VMFSRDM' || type === 'VMFSRAW') throw refused(`Extents that are devices (${type}) are not supported`);
  if (line.access === 'RDONLY') {
    readOnlyBecause(opening, new BlockError('ACCESS_DENIED', `Extent '${filename}' is read-only`, { errno: Errno.EACCES }));
  }
  if (!filename.startsWith('/') && placeOf(file.node) === undefined) {
    throw new BlockError('INVALID_ARGUMENT', `Cannot use relative paths with VMDK descriptor file '${file.node.filename}': Cannot generate a base directory for ${file.node.driver.name} nodes`, { errno: Errno.EINVAL });
  }
  const flat = type === 'FLAT' || type === 'VMFS';
  const child = await opening.context.implicitChild(`extents.${index}`, { kind: 'extent', filename, isPath: true, role: flat ? 'data' : 'image' });
  if (child === undefined) throw corrupt(`Extent '${filename}' is missing`);
  if (flat) return new FlatExtent(child, { start: line.offset * sectorSize, size, type });
  if (type === 'SESPARSE') return seSparseExtent(child, size, opening);
  const head = await bytesAt(child, 0, sectorSize);
  return type === 'SPARSE' ? openHostedExtent(child, parseSparseHeader(head), type, opening) : cowdExtent(child, parseCowdHeader(head), type);
}

function refused(message: string): BlockError {
  return new BlockError('UNSUPPORTED_FEATURE', message, { errno: Errno.ENOTSUP });
}

async function openHostedExtent(file: BlockChild, header: SparseHeader, type: string, opening: Opening): Promise<Extent> {
  const compressed = (header.flags & Flag.COMPRESSED) !== 0;
  if (header.version === 3 && !compressed) {
    readOnlyBecause(opening, new BlockError('UNSUPPORTED_FEATURE', 'VMDK version 3 must be read only', { errno: Errno.EINVAL }));
  }
  if (header.capacity >= maxSectors) throw new BlockError('UNSUPPORTED_FEATURE', 'Could not refresh total sector count: File too large', { errno: Errno.EFBIG });
  const { directory } = header;
  if (directory !== undefined) return hostedExtent(file, { ...header, directory }, type);
  if (!compressed) throw corrupt('Invalid footer');
  const atEnd = await streamDirectory(file, opening.context.mode.check);
  if (atEnd !== undefined && atEnd + directoryLength(header) > file.size) throw unfinished();
  return new StreamExtent({ ...hostedInit(file, header, type), header, directory: atEnd });
}

/** Whoever wrote the stream was cut off. */
function unfinished(cause?: unknown): BlockError {
  return new BlockError('CORRUPT_IMAGE', 'Invalid footer', { errno: Errno.EINVAL, fault: 'needs-repair' }, cause);
}

/** Place of the directory that the footer tells; undefined: there is no footer, and the disk is to be repaired. */
async function streamDirectory(file: BlockChild, repair: boolean): Promise<number | undefined> {
  const size = file.size - file.size % sectorSize;
  try {
    const footer = parseFooter(await bytesAt(file, Math.max(0, size - footerMarkerFromEnd), footerMarkerFromEnd));
    return footer.directory! * sectorSize;
  } catch (error) {
    if (!(error instanceof BlockError) || error.code !== 'CORRUPT_IMAGE') throw error;
    if (repair) return undefined;
    throw unfinished(error);
  }
}

async function seSparseExtent(file: BlockChild, size: number, opening: Opening): Promise<Extent> {
  const header = parseSeSparseHeader(await bytesAt(file, 0, sectorSize));
  checkSeSparseVolatileHeader(await bytesAt(file, header.volatileHeader * sectorSize, sectorSize));
  readOnlyBecause(opening, refused('No write support for seSparse images available'));
  const grainSize = header.grain * sectorSize;
  const tableBytes = header.tableLength * sectorSize;
  const tables = header.tables * sectorSize;
  const grains = header.grains * sectorSize;
  if (file.size < header.directory * sectorSize + header.directoryLength * sectorSize) throw corrupt('File truncated');
  return new SparseExtent({
    file, type: 'SESPARSE', compressed: false, knowsZeroes: true, markers: false, kind: 'sesparse',
    size, grainSize, tableEntries: seSparseTableEntries, dataStart: grains,
    shape: seSparseShape(
      { directory: header.directory * sectorSize, tableEntries: seSparseTableEntries, tableCount: Math.ceil(size / (grainSize * seSparseTableEntries)) },
      tables, tableBytes, tables + header.tablesLength * sectorSize, grains, grainSize, grains + header.grainsLength * sectorSize),
  });
}

/** Bytes of a file; zeroes behind its end. */
async function bytesAt(file: BlockChild, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await file.read(offset, bytes);
  return bytes;
}
