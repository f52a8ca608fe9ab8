/** Checking an image: every block has a place of its own, and the places lie without gaps. */
import type { BlockChild } from '../../block/child.js';
import { scanTable } from '../../block/entry-tables.js';
import { BlockError, Errno, strerror } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { viewOf } from '../../util/view.js';
import { Field, type VdiHeader } from './header.js';
import { absent, blocksInFile, entrySize, isAllocated, strideOf } from './entries.js';

export type CheckOptions = Parameters<CheckFacet['check']>[0];

const reportLimit = 10_000;

/**
 * Checks the image, whose tables are on disk as they are. Repair takes out entries that name no place, gives blocks that share one a
 * place each, moves the last blocks into gaps, and corrects the count in the header and the length of the file.
 * @returns also how many blocks are allocated now, by the header
 */
export async function checkVdi(file: BlockChild, header: VdiHeader, { repair, report = () => undefined, signal, asPeer = false }: CheckOptions): Promise<CheckResult & { allocated: number }> {
  const result: CheckResult = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
  const found = (line: string): void => {
    if (result.corruptions++ < reportLimit) report(line);
  };
  const owners = new Map<number, number>();
  const misplaced: number[] = [];
  const shared: { readonly block: number; readonly entry: number }[] = [];
  const inFile = asPeer ? Infinity : blocksInFile(header, file.size);
  let count = 0;
  await scanTable({ file, offset: header.tableOffset, length: header.blocks * entrySize }, (view, at, block) => {
    const entry = view.getUint32(at * entrySize, true);
    if (!isAllocated(entry)) return;
    if (entry >= header.blocks) {
      found(`ERROR: block index ${block} too large, is ${entry}`);
      misplaced.push(block);
      return;
    }
    if (entry >= inFile) {
      found(`ERROR: block index ${block} behind the end of the file, is ${entry}`);
      misplaced.push(block);
      return;
    }
    count++;
    if (owners.has(entry)) {
      found(`ERROR: block index ${entry} also used by ${entry}`);
      shared.push({ block, entry });
    } else owners.set(entry, block);
  }, entrySize);
  const cut = owners.get(inFile - 1);
  if (cut !== undefined && header.dataOffset + inFile * strideOf(header) > file.size) found(`ERROR: block index ${cut} ends behind the end of the file, is ${inFile - 1}`);
  if (signal?.aborted) throw new BlockError('CANCELLED', strerror(Errno.ECANCELED), { errno: Errno.ECANCELED });
  if (count !== header.allocated) found(`ERROR: allocated blocks mismatch, is ${count}, should be ${header.allocated}`);
  if (repair === 'none' || result.corruptions === 0) return { ...result, allocated: header.allocated };
  await new Repair(file, header).run(owners, misplaced, shared);
  return { ...result, corruptionsFixed: result.corruptions, allocated: count };
}

/** Each step leaves the image no worse than it was: copies are durable before entries name them. */
export class Repair {
  readonly #file: BlockChild;
  readonly #header: VdiHeader;

  constructor(file: BlockChild, header: VdiHeader) {
    this.#file = file;
    this.#header = header;
  }

  async run(owners: Map<number, number>, misplaced: readonly number[], shared: readonly { readonly block: number; readonly entry: number }[]): Promise<void> {
    for (const block of misplaced) await this.#setEntry(block, absent);
    let gap = 0;
    const nextGap = (): number => {
      while (owners.has(gap)) gap++;
      return gap;
    };
    for (const { block, entry } of shared) {
      const place = nextGap();
      await this.#copy(entry, place);
      await this.#setEntry(block, place);
      owners.set(place, block);
    }
    const places = [...owners.keys()].sort((a, b) => b - a);
    for (const place of places) {
      const target = nextGap();
      if (target > place) break;
      const block = owners.get(place)!;
      await this.#copy(place, target);
      await this.#setEntry(block, target);
      owners.delete(place);
      owners.set(target, block);
    }
    await this.#setCount(owners.size);
  }

  async #copy(from: number, to: number): Promise<void> {
    const { dataOffset } = this.#header;
    const stride = strideOf(this.#header);
    const bytes = new Uint8Array(stride);
    await this.#file.read(dataOffset + from * stride, bytes);
    await this.#file.write(dataOffset + to * stride, bytes);
    await this.#file.flush();
  }

  async #setEntry(block: number, entry: number): Promise<void> {
    await this.#file.write(this.#header.tableOffset + block * entrySize, u32(entry));
    await this.#file.flush();
  }

  async #setCount(count: number): Promise<void> {
    await this.#file.write(Field.ALLOCATED, u32(count));
    await this.#file.flush();
    const end = this.#header.dataOffset + count * strideOf(this.#header);
    if (this.#file.size !== end) await this.#file.resize(end, { exact: false });
  }
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
