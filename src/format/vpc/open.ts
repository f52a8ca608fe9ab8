/** Opening an image: which footer counts, whether its tables are sound, and the parent of a differencing disk. */
import type { BlockChild } from '../../block/child.js';
import type { BlockOps, OpenContext } from '../../block/driver.js';
import { BlockError, Errno } from '../../block/errors.js';
import { viewOf } from '../../util/view.js';
import { FixedOps } from './fixed.js';
import { sectorSize } from './geometry.js';
import {
  corrupt, DiskType, dynamicHeaderSize, footerSize, hasFooterMark, isFooter, parseDynamicHeader, parseFooter, unsupported, uuidText,
  type DynamicHeader, type Footer,
} from './header.js';
import { SparseImage } from './image.js';
import { absent, bitmapSize, blockCount, footerOffset, maxTableEntries, roundUp, tableSize } from './layout.js';
import { decodeLocator, fromWindows, parentCandidates, usableLocators } from './locator.js';
import { SparseOps } from './ops.js';
import { diskSize, type VpcOpenOptions } from './options.js';

const largestBlock = 64 * 1024 * 1024;
const scanChunk = 256 * 1024;

export async function openVpc(context: OpenContext<VpcOpenOptions>): Promise<BlockOps> {
  const file = context.child('file')!;
  const { footer, footerInPlace } = await findFooter(file, context.mode.check);
  const size = diskSize(footer, context.options.force_size_calc);
  if (footer.dataOffset === undefined) {
    if (size > footerOffset(file.size)) throw corrupt('The image has been truncated.');
    const ops = new FixedOps(file, footer, size);
    if (!context.readOnly && !context.mode.check) await ops.finishGrowing();
    return ops;
  }
  const header = await readDynamicHeader(file, footer, size);
  const blocksEnd = Math.max(await scanTable(file, header, context.mode.check), await otherMetadataEnd(file, header));
  const parent = footer.type === DiskType.DIFFERENCING ? await openParent(context, file, header) : undefined;
  // A device's footer stays at its end.
  const lastSector = footerInPlace || !mayGrow(file);
  const tail = Math.max(blocksEnd, lastSector ? footerOffset(file.size) : roundUp(file.size, sectorSize));
  // Less room than for a block may hold what we do not know of.
  const room = tail - blocksEnd >= bitmapSize(header.blockSize) + header.blockSize;
  const image = new SparseImage({
    file, footer, header, size, parent: parent?.child, readOnly: context.readOnly, end: room ? blocksEnd : tail, footerOffset: tail,
    footerInPlace: footerInPlace && blocksEnd <= footerOffset(file.size),
  });
  return new SparseOps(image, parent?.name === '' ? undefined : parent?.name);
}

function mayGrow({ node }: BlockChild): boolean {
  return node.ops.capabilities.growsOnWrite || node.driver.kind !== 'protocol';
}

/**
 * The footer that counts. One at the end that says "fixed" does, for what stands in front of a fixed disk is its guest's. Else the copy
 * in front counts, as it does to QEMU, since a power cut can leave none at the end.
 */
export async function findFooter(file: BlockChild, damaged: boolean): Promise<{ footer: Footer; footerInPlace: boolean }> {
  if (file.size < footerSize - 1) {
    if (file.size === 0) throw corrupt('File too small for a VHD header');
    throw corrupt('invalid VPC image');
  }
  const tail = new Uint8Array(footerSize);
  await file.read(footerOffset(file.size), tail);
  const tailCounts = isFooter(tail);
  if (tailCounts && viewOf(tail).getUint32(60) === DiskType.FIXED) return { footer: parseFooter(tail), footerInPlace: true };
  const head = new Uint8Array(footerSize);
  await file.read(0, head);
  if (isFooter(head)) {
    const footer = parseFooter(head);
    if (footer.dataOffset !== undefined) return { footer, footerInPlace: tailCounts };
  } else if (hasFooterMark(head) && !(damaged && tailCounts)) throw corrupt('Incorrect header checksum');
  if (tailCounts && damaged) return { footer: parseFooter(tail), footerInPlace: true };
  throw corrupt(hasFooterMark(tail) && !tailCounts ? 'Incorrect header checksum' : 'invalid VPC image');
}

async function readDynamicHeader(file: BlockChild, footer: Footer, size: number): Promise<DynamicHeader> {
  const bytes = new Uint8Array(dynamicHeaderSize);
  if (footer.dataOffset! < file.size) await file.read(footer.dataOffset!, bytes);
  const header = parseDynamicHeader(bytes);
  requireTable(header, size);
  const { maxEntries, tableOffset } = header;
  if (tableOffset + maxEntries * 4 > file.size) throw truncated();
  return header;
}

/** @throws BlockError with the peer's text where the table cannot be that of such a disk */
export function requireTable({ blockSize, maxEntries, tableOffset }: DynamicHeader, size: number): void {
  if (blockSize < sectorSize || !Number.isInteger(Math.log2(blockSize))) throw corrupt(`Invalid block size ${blockSize}`);
  if (blockSize > largestBlock) throw unsupported(`Block size ${blockSize} is too large`);
  if (maxEntries < blockCount(size, blockSize)) throw corrupt('Page table too small');
  if (maxEntries > maxTableEntries) throw corrupt(`Max Table Entries too large (${maxEntries | 0})`);
  if (tableOffset % sectorSize !== 0) throw corrupt(`Page table offset ${tableOffset} is not a multiple of ${sectorSize}`);
}

/**
 * Where the last block ends. `damaged`: blocks at impossible places are passed over, for a check to find.
 * @throws BlockError CORRUPT_IMAGE where blocks lie outside the file, or on top of the headers
 */
async function scanTable(file: BlockChild, header: DynamicHeader, damaged: boolean): Promise<number> {
  const { blockSize, maxEntries, tableOffset } = header;
  const blockBytes = bitmapSize(blockSize) + blockSize;
  const tableEnd = tableOffset + tableSize(maxEntries);
  const fileEnd = roundUp(file.size, sectorSize);
  let end = tableEnd;
  for (let done = 0; done < maxEntries * 4; done += scanChunk) {
    const chunk = new Uint8Array(Math.min(scanChunk, maxEntries * 4 - done));
    await file.read(tableOffset + done, chunk);
    const view = viewOf(chunk);
    for (let at = 0; at < chunk.length; at += 4) {
      const entry = view.getUint32(at);
      if (entry === absent) continue;
      const offset = entry * sectorSize;
      const onHeaders = offset < footerSize + dynamicHeaderSize || (offset < tableEnd && offset + blockBytes > tableOffset);
      if (!onHeaders && offset + blockBytes <= fileEnd) end = Math.max(end, offset + blockBytes);
      else if (!damaged) throw onHeaders ? corrupt(`Block ${(done + at) / 4} lies on the image's headers`) : truncated();
    }
  }
  return end;
}

/** Where the parent's names end, and the map of full blocks that XenServer keeps behind the table. */
async function otherMetadataEnd(file: BlockChild, header: DynamicHeader): Promise<number> {
  const ends = header.locators.filter(({ length, offset }) => length > 0 && offset + length <= file.size).map(({ offset, space, length }) => offset + Math.max(space, length));
  const tableEnd = header.tableOffset + tableSize(header.maxEntries);
  const batmap = new Uint8Array(sectorSize);
  if (tableEnd + sectorSize <= file.size) await file.read(tableEnd, batmap);
  if (new TextDecoder('latin1').decode(batmap.subarray(0, 8)) === 'tdbatmap') {
    const view = viewOf(batmap);
    ends.push(Number(view.getBigUint64(8)) + view.getUint32(16) * sectorSize);
  }
  return roundUp(Math.max(0, ...ends.filter((end) => end <= file.size)), sectorSize);
}

function truncated(): BlockError {
  return corrupt('block-vpc: free_data_block_offset points after the end of file. The image has been truncated.');
}

/** Opens the first of the parent's names that leads to it; undefined where the user does without. */
async function openParent(context: OpenContext<object>, file: BlockChild, header: DynamicHeader): Promise<{ child: BlockChild | undefined; name: string }> {
  const candidates = await parentNames(file, header);
  const name = candidates[0] ?? '';
  let failure: unknown;
  for (const filename of candidates.length === 0 ? [''] : candidates) {
    try {
      const child = await context.implicitChild('backing', { kind: 'backing', filename, format: 'vpc', role: 'cow' });
      if (child !== undefined) requireParent(child, header);
      else if (filename === '' && !context.mode.noBacking) throw corrupt('The image does not say what its parent is');
      return { child, name };
    } catch (error) {
      if (!(error instanceof BlockError) || error.code !== 'NOT_FOUND') throw error;
      failure ??= error;
    }
  }
  throw failure;
}

async function parentNames(file: BlockChild, header: DynamicHeader): Promise<string[]> {
  const names: string[] = [];
  for (const { platform, length, offset } of usableLocators(header)) {
    if (!(offset + length <= file.size)) continue;
    const data = new Uint8Array(length);
    await file.read(offset, data);
    const name = decodeLocator(platform, data);
    if (name !== undefined) names.push(name);
  }
  const inHeader = fromWindows(header.parentName);
  if (inHeader !== undefined) names.push(inHeader);
  return parentCandidates(names);
}

/** @throws BlockError CORRUPT_IMAGE where another disk has taken the parent's place */
function requireParent(child: BlockChild, header: DynamicHeader): void {
  const id = child.facet('identity')?.id;
  if (id?.every((byte, index) => byte === header.parentUuid[index])) return;
  throw new BlockError('CORRUPT_IMAGE', `'${child.node.filename}' is not the parent of this image: its UUID is ${id === undefined ? 'none' : uuidText(id)}, `
    + `not ${uuidText(header.parentUuid)}`, { errno: Errno.EINVAL });
}
