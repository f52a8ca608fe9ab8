/**
 * Growing an image: its block map needs room, which is found in front of the data or made there. Shrinking one: the last blocks of data
 * come to lie where those lay that are given up, since blocks are counted, not listed.
 */
import type { BlockChild } from '../../block/child.js';
import { scanTable } from '../../block/entry-tables.js';
import { viewOf } from '../../util/view.js';
import { Repair } from './check.js';
import { absent, entrySize, isAllocated, strideOf } from './entries.js';
import { Field, headerBytes, maxBlocks, tooLarge, type VdiHeader } from './header.js';

const sectorSize = 512;
const chunkEntries = 1 << 18;

/**
 * Gives the image another, larger size; its tables are on disk as they are, and `header.allocated` counts all blocks in use. Each step
 * leaves an image that is right: the header names what is new when all else is durable.
 * @param moved called when blocks have moved, before other data takes their place
 * @returns the header as it is then
 * @throws BlockError INVALID_ARGUMENT where the format has no such sizes
 */
export async function growVdi(file: BlockChild, header: VdiHeader, size: number, moved: () => Promise<void>): Promise<VdiHeader> {
  const blocks = Math.ceil(size / header.blockSize);
  if (blocks > maxBlocks) throw tooLarge(size);
  let grown = { ...header, size, blocks };
  if (header.tableOffset + blocks * entrySize > header.dataOffset) {
    grown = { ...grown, ...await moveTable(file, header, blocks, moved) };
  } else {
    await writeEntries(file, header.tableOffset, header.blocks, blocks, () => absent);
  }
  await file.flush();
  await writeHeader(file, grown);
  return grown;
}

/**
 * Gives the image another, smaller size; the tables are on disk as they are, and `header.allocated` counts all blocks in use. The size
 * comes last: until then no entry names a place that a disk of either size may not have.
 * @returns the header as it is then
 */
export async function shrinkVdi(file: BlockChild, header: VdiHeader, size: number): Promise<VdiHeader> {
  const blocks = Math.ceil(size / header.blockSize);
  await writeEntries(file, header.tableOffset, blocks, header.blocks, () => absent);
  await file.flush();
  const owners = new Map<number, number>();
  const shared: { readonly block: number; readonly entry: number }[] = [];
  await scanTable({ file, offset: header.tableOffset, length: blocks * entrySize }, (view, at, block) => {
    const entry = view.getUint32(at * entrySize, true);
    if (!isAllocated(entry) || entry >= header.allocated) return;
    if (owners.has(entry)) shared.push({ block, entry });
    else owners.set(entry, block);
  }, entrySize);
  await new Repair(file, header).run(owners, [], shared);
  const shrunk = { ...header, size, blocks, allocated: owners.size };
  await writeHeader(file, shrunk);
  return shrunk;
}

/** A larger map takes the place of the first blocks of data, which go to the end. */
async function moveTable(file: BlockChild, header: VdiHeader, blocks: number, moved: () => Promise<void>): Promise<Pick<VdiHeader, 'tableOffset' | 'dataOffset' | 'allocated'>> {
  const stride = strideOf(header);
  const tableOffset = Math.ceil(header.dataOffset / sectorSize) * sectorSize;
  const freed = Math.ceil((tableOffset + blocks * entrySize - header.dataOffset) / stride);
  const used = await moveBlocks(file, header, freed);
  await moved();
  const entries = new Uint32Array(chunkEntries);
  for (let first = 0; first < blocks; first += chunkEntries) {
    entries.fill(absent);
    const count = Math.max(0, Math.min(chunkEntries, header.blocks - first));
    await scanTable({ file, offset: header.tableOffset + first * entrySize, length: count * entrySize }, (view, at, index) => {
      const entry = view.getUint32(at * entrySize, true);
      entries[index] = isAllocated(entry) ? entry - freed : entry;
    }, entrySize);
    await writeEntries(file, tableOffset, first, Math.min(blocks, first + chunkEntries), (block) => entries[block - first]!);
  }
  return { tableOffset, dataOffset: header.dataOffset + freed * stride, allocated: used - freed };
}

/** Moves what lies in the first `count` blocks of data to the end. Returns how many blocks there are then. */
async function moveBlocks(file: BlockChild, header: VdiHeader, count: number): Promise<number> {
  const { dataOffset, tableOffset, blocks, allocated } = header;
  const stride = strideOf(header);
  const moved: { readonly block: number; readonly entry: number }[] = [];
  await scanTable({ file, offset: tableOffset, length: blocks * entrySize }, (view, at, block) => {
    const entry = view.getUint32(at * entrySize, true);
    if (entry < count) moved.push({ block, entry });
  }, entrySize);
  let used = Math.max(allocated, count);
  for (const { block, entry } of moved) {
    const bytes = new Uint8Array(stride);
    await file.read(dataOffset + entry * stride, bytes);
    await file.write(dataOffset + used * stride, bytes);
    await file.flush();
    await file.write(Field.ALLOCATED, u32(used + 1));
    await file.flush();
    await file.write(tableOffset + block * entrySize, u32(used++));
  }
  await file.flush();
  return used;
}

async function writeEntries(file: BlockChild, tableOffset: number, from: number, to: number, entry: (block: number) => number): Promise<void> {
  for (let first = from; first < to; first += chunkEntries) {
    const bytes = new Uint8Array(Math.min(chunkEntries, to - first) * entrySize);
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length / entrySize; at++) view.setUint32(at * entrySize, entry(first + at), true);
    await file.write(tableOffset + first * entrySize, bytes);
  }
}

/** In one sector, and so at once. */
async function writeHeader(file: BlockChild, { tableOffset, dataOffset, size, blocks, allocated }: VdiHeader): Promise<void> {
  const bytes = new Uint8Array(headerBytes);
  await file.read(0, bytes);
  const view = viewOf(bytes);
  view.setUint32(340, tableOffset, true);
  view.setUint32(344, dataOffset, true);
  view.setBigUint64(368, BigInt(size), true);
  view.setUint32(Field.BLOCKS, blocks, true);
  view.setUint32(Field.ALLOCATED, allocated, true);
  await file.write(0, bytes);
  await file.flush();
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
