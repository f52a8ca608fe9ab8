/** Checking an image's structures, and repairing them. */
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { BlockError, Errno } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import type { FixedOps } from './fixed.js';
import { sectorSize } from './geometry.js';
import { changedDynamicHeader, dynamicChecksumHolds, dynamicHeaderSize, footerSize, isFooter } from './header.js';
import type { SparseImage } from './image.js';
import { absent, blockCount, roundUp, tableSize } from './layout.js';

type CheckOptions = Parameters<CheckFacet['check']>[0];

const scanEntries = 64 * 1024;
const copyChunk = 1024 * 1024;

/** All there is of a fixed image is its footer; the former one may still lie in the disk. */
export async function checkFixed(image: FixedOps, { repair, report }: CheckOptions): Promise<CheckResult> {
  const former = await image.formerFooter();
  const found = former === undefined ? 0 : 1;
  const fixed = repair === 'all' ? found : 0;
  if (fixed > 0) await image.finishGrowing();
  if (found > 0) report?.(`${fixed > 0 ? 'Repairing' : 'ERROR'} the former footer lies in the disk at offset ${former}: its growing was cut off`);
  return { corruptions: found - fixed, leaks: 0, checkErrors: 0, corruptionsFixed: fixed, leaksFixed: 0 };
}

export async function checkSparse(image: SparseImage, options: CheckOptions): Promise<CheckResult> {
  return image.exclusive(() => run(new Check(image, options).all()));
}

class Check {
  readonly #image: SparseImage;
  readonly #options: CheckOptions;
  readonly #result = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0, totalClusters: 0, allocatedClusters: 0, fragmentedClusters: 0 };
  /** Sectors where blocks that are where they may be begin. */
  readonly #places: number[] = [];
  /** Where metadata lies besides the blocks. */
  readonly #metadata: readonly (readonly [offset: number, end: number])[];
  readonly #blockBytes: number;
  #fileEnd: number;

  constructor(image: SparseImage, options: CheckOptions) {
    const { header, footer } = image;
    this.#image = image;
    this.#options = options;
    this.#blockBytes = image.bitmapSize + image.blockSize;
    this.#fileEnd = roundUp(image.file.size, sectorSize);
    this.#metadata = [
      [0, footerSize], [footer.dataOffset!, footer.dataOffset! + dynamicHeaderSize],
      [header.tableOffset, header.tableOffset + tableSize(header.maxEntries)],
      ...header.locators.filter(({ platform, length }) => platform !== '\0\0\0\0' && length > 0).map(({ offset, length }) => [offset, offset + length] as const),
    ];
  }

  get #repairs(): boolean {
    return this.#options.repair === 'all';
  }

  *all(): Steps<CheckResult> {
    const image = this.#image;
    yield* image.flushIfWritable();
    yield* this.#header();
    yield* this.#blocks();
    yield* this.#overlaps();
    yield* this.#footers();
    yield* this.#tail();
    if (this.#repairs) yield* image.flush();
    return { ...this.#result, imageEndOffset: this.#fileEnd };
  }

  #corruption(line: string, fixed: boolean): void {
    this.#options.report?.(`${fixed ? 'Repairing' : 'ERROR'} ${line}`);
    if (fixed) this.#result.corruptionsFixed++;
    else this.#result.corruptions++;
  }

  *#header(): Steps<void> {
    const { file, footer, header } = this.#image;
    if (dynamicChecksumHolds(header.bytes)) return;
    if (this.#repairs) yield* wait(file.write(footer.dataOffset!, changedDynamicHeader(header.bytes, header).bytes));
    this.#corruption('dynamic header: wrong checksum', this.#repairs);
  }

  *#blocks(): Steps<void> {
    const image = this.#image;
    const blocks = blockCount(image.size, image.blockSize);
    this.#result.totalClusters = blocks;
    let former = 0;
    for (let block = 0; block < blocks; block++) {
      if (block % scanEntries === 0) throwIfAborted(this.#options.signal);
      const entry = yield* image.loadEntry(block);
      if (entry === absent) continue;
      const offset = entry * sectorSize;
      if (offset >= this.#fileEnd || this.#hitsMetadata(offset)) {
        if (this.#repairs) yield* image.setEntry(block, absent);
        this.#corruption(`block ${block} at offset ${offset}: ${offset >= this.#fileEnd ? 'outside the file' : 'overlaps the headers'}`, this.#repairs);
        continue;
      }
      if (offset + this.#blockBytes > this.#fileEnd) {
        if (this.#repairs) this.#lengthen(offset + this.#blockBytes);
        this.#corruption(`block ${block} at offset ${offset}: the file ends within it`, this.#repairs);
      }
      this.#places.push(entry);
      this.#result.allocatedClusters++;
      if (former !== 0 && offset !== former + this.#blockBytes) this.#result.fragmentedClusters++;
      former = offset;
    }
  }

  /** The rest of a block reads as zero. */
  #lengthen(end: number): void {
    this.#image.extend(end);
    this.#fileEnd = Math.max(this.#fileEnd, end + footerSize);
  }

  #hitsMetadata(offset: number): boolean {
    return this.#metadata.some(([start, end]) => offset < end && offset + this.#blockBytes > start);
  }

  /** Blocks that share room: all but the first get their own copy of what they show. */
  *#overlaps(): Steps<void> {
    const image = this.#image;
    const places = Float64Array.from(this.#places).sort();
    const sectors = this.#blockBytes / sectorSize;
    const shared = new Set<number>();
    for (let at = 1; at < places.length; at++) if (places[at]! - places[at - 1]! < sectors) shared.add(places[at]!);
    if (shared.size === 0) return;
    const owned = new Set<number>();
    for (let block = 0; block < this.#result.totalClusters; block++) {
      const entry = yield* image.loadEntry(block);
      if (!shared.has(entry)) continue;
      const first = places[lowerBound(places, entry) - 1];
      if (!owned.has(entry) && (first === undefined || entry - first >= sectors)) {
        owned.add(entry);
        continue;
      }
      owned.add(entry);
      if (this.#repairs) yield* this.#copyBlock(block, entry);
      this.#corruption(`block ${block} at offset ${entry * sectorSize}: overlaps another block`, this.#repairs);
    }
  }

  *#copyBlock(block: number, entry: number): Steps<void> {
    const image = this.#image;
    const place = image.reserve();
    for (let done = 0; done < this.#blockBytes; done += copyChunk) {
      const chunk = new Uint8Array(Math.min(copyChunk, this.#blockBytes - done));
      yield* wait(image.file.read(entry * sectorSize + done, chunk));
      yield* wait(image.file.write(place + done, chunk));
    }
    yield* image.setEntry(block, place / sectorSize);
    this.#fileEnd = image.footerOffset + footerSize;
  }

  /** The copy in front, and the footer at the end; one of them was good enough to open the image. */
  *#footers(): Steps<void> {
    const image = this.#image;
    const head = new Uint8Array(footerSize);
    yield* wait(image.file.read(0, head));
    const headIsGood = isFooter(head);
    if (headIsGood && image.footerInPlace) return;
    if (this.#repairs) yield* image.writeFooter(image.footer);
    if (!headIsGood) this.#corruption('the copy of the footer in front is damaged', this.#repairs);
    else {
      // What a power cut leaves: the next writer puts it right, and the copy in front says the same.
      this.#options.report?.(`${this.#repairs ? 'Repairing' : 'NOTE'} the footer at the end is missing`);
    }
  }

  /** Room behind the last block that belongs to nothing. */
  *#tail(): Steps<void> {
    const image = this.#image;
    if (!image.file.node.ops.capabilities.growsOnWrite) return;
    let end = 0;
    for (const [, metadataEnd] of this.#metadata) end = Math.max(end, metadataEnd);
    for (let block = 0; block < this.#result.totalClusters; block++) {
      const entry = yield* image.loadEntry(block);
      if (entry !== absent && entry * sectorSize < this.#fileEnd) end = Math.max(end, entry * sectorSize + this.#blockBytes);
    }
    const lost = Math.floor((image.footerOffset - end) / this.#blockBytes);
    if (lost <= 0) return;
    const repairs = this.#options.repair !== 'none';
    this.#options.report?.(`${repairs ? 'Repairing' : 'Leaked'} ${lost} blocks behind offset ${end}`);
    if (!repairs) {
      this.#result.leaks += lost;
      return;
    }
    yield* image.cutAt(end);
    this.#result.leaksFixed += lost;
    this.#fileEnd = end + footerSize;
  }
}

/** Index of the first value that is not below. */
function lowerBound(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new BlockError('CANCELLED', 'The check was cancelled', { errno: Errno.ECANCELED });
}
