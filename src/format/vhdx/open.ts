/** Opening an image: header, log, regions, metadata, parent. */
import type { BlockChild } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { entryFaults, isMeaningful, overlap, overlapText, reservedRanges, tableEntries } from './check.js';
import { nilGuid } from './guid.js';
import {
  batGuid, currentCopy, headerOffsets, headerSize, metadataGuid, MiB, parseRegionTable, probeVhdx, regionTableOffsets, regionTableSize, type Region,
  type VhdxHeader,
} from './header.js';
import { invalid, VhdxImage } from './image.js';
import { applyUpdates, brokenLog, readLog, type PendingLog } from './log.js';
import { metadataSpan, parseMetadata } from './metadata.js';
import { VhdxOps } from './ops.js';
import { Occupancy } from './occupancy.js';
import { openParent, requireLinkage } from './parent.js';
import { entryCount, entrySize } from './tables.js';

export async function openVhdx(context: OpenContext<object>): Promise<VhdxOps> {
  const file = context.child('file')!;
  const image = await run(readImage(file, context));
  const { parent } = image.parameters;
  const child = parent === undefined ? undefined : await openParent(context, parent);
  if (child?.node.ops instanceof VhdxOps) requireLinkage(parent!, child.node.ops.image.header.dataWriteGuid);
  if (!image.readOnly && image.header.logGuid !== nilGuid && !image.logBroken) await run(image.replay());
  return new VhdxOps(image, child);
}

function* readImage(file: BlockChild, context: OpenContext<object>): Steps<VhdxImage> {
  const { header, copy } = yield* readHeader(file);
  const log = header.logGuid === nilGuid ? undefined : yield* readLog(file, header);
  const logBroken = log === brokenLog;
  if (log !== undefined && context.readOnly && context.mode.refuseLog) throw mustBeReplayed(file.node.filename);
  if (logBroken && !context.mode.check) {
    const what = 'The VHDX log is damaged: it does not say where its changes begin';
    if (!context.readOnly) throw invalid(what);
    context.warn(`${what}, and they are not shown`);
  }
  const pending = logBroken ? undefined : log;
  const { regions, damagedRegionTables } = yield* readRegions(file, pending);
  requireRoom(file, header, regions, context);
  const { offset, length } = regions.find(({ guid }) => guid === metadataGuid)!;
  const bytes = new Uint8Array(Math.min(length, metadataSpan));
  yield* wait(file.read(offset, bytes));
  applyUpdates(pending?.updates ?? [], offset, bytes);
  const image = new VhdxImage({ file, readOnly: context.readOnly, header, copy, regions, metadata: parseMetadata(bytes), pending, logBroken, damagedRegionTables });
  const needed = entryCount(image.geometry, image.size, image.hasParent) * entrySize;
  if (needed > image.bat.length) throw invalid('VHDX block allocation table is too short for the disk');
  if (image.bat.offset + needed > image.fileSize) throw invalid('VHDX image is truncated: its block allocation table is not there');
  yield* lookOver(image, context);
  return image;
}

function* readHeader(file: BlockChild): Steps<{ readonly header: VhdxHeader; readonly copy: 0 | 1 }> {
  const copies: Uint8Array[] = [];
  const signature = new Uint8Array(8);
  yield* wait(file.read(0, signature));
  if (probeVhdx(signature) === 0) throw new BlockError('NOT_THIS_FORMAT', 'Image is not in VHDX format', { errno: Errno.EINVAL });
  for (const offset of headerOffsets) {
    const bytes = new Uint8Array(headerSize);
    yield* wait(file.read(offset, bytes));
    copies.push(bytes);
  }
  const current = currentCopy(copies);
  if (current === undefined) throw invalid('No valid VHDX header found');
  const { logVersion, logOffset } = current.header;
  if (logVersion !== 0) throw new BlockError('UNSUPPORTED_FEATURE', `Unsupported VHDX log version ${logVersion}`, { errno: Errno.EINVAL });
  if (!(logOffset >= MiB) || logOffset % MiB !== 0) throw invalid(`Invalid offset of the VHDX log ${logOffset}`);
  return current;
}

function mustBeReplayed(filename: string): BlockError {
  return new BlockError('ACCESS_DENIED', `VHDX image file '${filename}' opened read-only, but contains a log that needs to be replayed`, {
    errno: Errno.EPERM, hint: `To replay the log, run:\nqemu-img check -r all '${filename}'`,
  });
}

/** The first of the two tables that is sound, and where the damaged ones lie. */
function* readRegions(file: BlockChild, pending: PendingLog | undefined): Steps<Pick<VhdxImage, 'regions' | 'damagedRegionTables'>> {
  const damagedRegionTables: number[] = [];
  const sound: Region[][] = [];
  for (const offset of regionTableOffsets) {
    const bytes = new Uint8Array(regionTableSize);
    yield* wait(file.read(offset, bytes));
    applyUpdates(pending?.updates ?? [], offset, bytes);
    const regions = parseRegionTable(bytes);
    if (regions === undefined) damagedRegionTables.push(offset);
    else sound.push(regions);
  }
  if (sound[0] === undefined) throw invalid('No valid VHDX region table found');
  return { regions: sound[0], damagedRegionTables };
}

/** All regions are known, or may be unknown; each has its own room. */
function requireRoom(file: BlockChild, header: VhdxHeader, regions: readonly Region[], context: OpenContext<object>): void {
  const known = new Set([batGuid, metadataGuid]);
  const seen = new Set<string>();
  const unknown = regions.find(({ guid, required }) => required && !known.has(guid));
  if (unknown !== undefined) {
    throw new BlockError('UNSUPPORTED_FEATURE', `VHDX image requires unknown region ${unknown.guid}`, { errno: Errno.ENOTSUP });
  }
  regions.forEach((region, index) => {
    const hit = overlap(region, reservedRanges({ header, regions: regions.slice(0, index) }));
    if (hit !== undefined) {
      context.report(overlapText(region, hit), 'error');
      throw invalid(`Could not open '${file.node.filename}': ${strerror(Errno.EINVAL)}`);
    }
    if (!Number.isSafeInteger(region.offset) || region.offset % MiB !== 0 || region.length % MiB !== 0 || region.length === 0) {
      throw invalid(`Invalid place of VHDX region ${region.guid}`);
    }
    if (seen.has(region.guid)) throw invalid(`VHDX region ${region.guid} is there twice`);
    seen.add(region.guid);
  });
  if (!seen.has(batGuid)) throw invalid('VHDX image has no block allocation table');
  if (!seen.has(metadataGuid)) throw invalid('VHDX image has no metadata region');
  if (!context.readOnly && (header.logLength === 0 || header.logLength % MiB !== 0 || header.logOffset + header.logLength > file.size)) {
    throw invalid(`Invalid length of the VHDX log ${header.logLength}`);
  }
}

/** Where blocks lie that are there, and so where new ones may. A check describes damage itself. */
function* lookOver(image: VhdxImage, { mode, report, readOnly }: OpenContext<object>): Steps<void> {
  const { space, geometry: { blockSize } } = image;
  const reserved = reservedRanges(image);
  const occupancy = readOnly || mode.check ? undefined : new Occupancy(image.fileSize);
  for (const { offset, length } of reserved) occupancy?.claim(offset, length);
  let end = Math.max(...reserved.map(({ offset, length }) => offset + length));
  let firstBlock = Infinity;
  yield* tableEntries(image, (entry) => {
    const { place, length, block } = entry;
    if (!isMeaningful(entry, image.hasParent)) return;
    if (place < image.fileSize) end = Math.max(end, place + length);
    if (mode.check) return;
    for (const fault of entryFaults(image, entry, reserved)) {
      report(fault, 'error');
      throw invalid(`Could not open '${image.file.node.filename}': ${strerror(Errno.EINVAL)}`);
    }
    occupancy?.claim(place, length);
    if (block !== undefined) firstBlock = Math.min(firstBlock, place);
  }, { spare: (place) => void occupancy?.claim(place, blockSize) });
  const used = Math.ceil(end / MiB) * MiB;
  space.end = image.file.node.ops.capabilities.resize === 'none' ? used : Math.max(space.end, used);
  for (const gap of occupancy?.gaps(firstBlock, Math.min(space.end, image.fileSize), blockSize) ?? []) space.give(gap, blockSize);
}
