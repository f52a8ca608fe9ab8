/** Looking for what is wrong in tables, and putting it right. */
import { BlockError, Errno, systemError } from '../../block/errors.js';
import type { CheckFacet, CheckResult } from '../../block/facets.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { viewOf } from '../../util/view.js';
import type { GrainExtent } from './grain-extent.js';
import { grainMarkerLength, MarkerType, sectorSize, uncleanOffset } from './header.js';
import type { VmdkImage } from './image.js';
import { SparseExtent } from './sparse.js';
import { StreamExtent } from './stream-extent.js';
import { absent, known, zeroed } from './grain-tables.js';

type CheckOptions = Parameters<CheckFacet['check']>[0];

/** Resolves when other events had their turn: a check may take long. */
const breath = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));
const grainsPerBreath = 1 << 18;
const pastEnd = 'points after EOF';

export async function checkVmdk(image: VmdkImage, options: CheckOptions): Promise<CheckResult> {
  const result: CheckResult = { corruptions: 0, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
  for (const [index, extent] of image.extents.entries()) {
    const check = extent instanceof SparseExtent || extent instanceof StreamExtent
      ? new ExtentCheck(extent, image.starts[index]!, options, result) : undefined;
    if (check) await run(check.run());
  }
  return result;
}

class ExtentCheck {
  readonly #extent: SparseExtent | StreamExtent;
  /** First sector of it on the disk. */
  readonly #firstSector: number;
  readonly #options: CheckOptions;
  readonly #result: CheckResult;
  readonly #used = new SparseBits();
  /** Where the last thing that is used ends. */
  #end = 0;

  constructor(extent: SparseExtent | StreamExtent, start: number, options: CheckOptions, result: CheckResult) {
    this.#extent = extent;
    this.#firstSector = start / sectorSize;
    this.#options = options;
    this.#result = result;
  }

  *run(): Steps<void> {
    const extent = this.#extent;
    if (extent instanceof StreamExtent && extent.unfinished) return yield* this.#finishStream(extent);
    this.#end = extent.dataStart;
    if (extent instanceof SparseExtent) this.#useDirectories(extent);
    for (let first = 0; first < extent.grains; first += extent.tableEntries) {
      this.#options.signal?.throwIfAborted();
      if (first % grainsPerBreath < extent.tableEntries && first > 0) yield breath();
      yield* this.#checkTable(first / extent.tableEntries, first);
    }
    if (extent instanceof SparseExtent) yield* this.#conclude(extent);
  }

  *#checkTable(index: number, first: number): Steps<void> {
    const extent = this.#extent;
    const size = tableBytes(extent);
    const table = yield* this.#tablePlace(index);
    if (table === undefined) return;
    if (table !== 0) this.#use(table, size);
    const twin = extent instanceof SparseExtent ? yield* this.#twinPlace(extent, index) : 0;
    if (twin !== 0) this.#use(twin, size);
    if (table === 0) return;
    const end = Math.min(first + extent.tableEntries, extent.grains);
    let differs = twin !== 0 && !(yield* this.#same(table, twin, size));
    for (let grain = first; grain < end; grain++) {
      const place = yield* this.#grainPlace(grain);
      if (place === absent || place === zeroed) continue;
      const fault = place === undefined ? 'is invalid' : yield* this.#fault(grain, place);
      if (fault === undefined) continue;
      this.#complain(`ERROR: cluster offset for sector ${this.#firstSector + grain * extent.grainSize / sectorSize} ${fault}`);
      if (this.#options.asPeer && fault === pastEnd) throw systemError(Errno.EINVAL);
      if (this.#options.repair !== 'all' || !(extent instanceof SparseExtent)) continue;
      yield* extent.tables.assign(grain, 1, absent, extent.grainSize);
      this.#fixed();
      differs = false;
    }
    if (!differs) return;
    this.#complain(`ERROR: redundant grain table ${index} differs from the grain table`);
    if (this.#options.repair !== 'all' || !(extent instanceof SparseExtent)) return;
    yield* extent.tables.copyTable(index);
    this.#fixed();
  }

  *#tablePlace(index: number): Steps<number | undefined> {
    const extent = this.#extent;
    const place = yield* this.#sound(() => extent.tableOf(index));
    if (place !== undefined && place + (place === 0 ? 0 : tableBytes(extent)) <= extent.file.size) return place;
    this.#complain(`ERROR: grain table ${index} ${pastEnd}`);
    return undefined;
  }

  *#twinPlace(extent: SparseExtent, index: number): Steps<number> {
    const place = yield* known(() => extent.tables.twinOf(index));
    if (place + (place === 0 ? 0 : tableBytes(extent)) <= extent.file.size) return place;
    this.#complain(`ERROR: redundant grain table ${index} ${pastEnd}`);
    return 0;
  }

  *#grainPlace(grain: number): Steps<number | undefined> {
    return yield* this.#sound(() => this.#extent.lookup(grain));
  }

  /** Undefined where the entry makes no sense. */
  *#sound(ask: () => number | Promise<void>): Steps<number | undefined> {
    try {
      return yield* known(ask);
    } catch (error) {
      if (error instanceof BlockError && error.code === 'CORRUPT_IMAGE') return undefined;
      throw error;
    }
  }

  *#fault(grain: number, place: number): Steps<string | undefined> {
    const { file, grainSize, compressed } = this.#extent;
    if (place >= file.size) return pastEnd;
    if (place < this.#extent.dataStart) return 'points into metadata';
    const length = compressed ? yield* this.#packedLength(grain, place) : grainSize;
    if (length === undefined) return 'points to something else';
    if (this.#used.set(Math.floor(place / (compressed ? sectorSize : grainSize)))) return 'is used already';
    this.#end = Math.max(this.#end, place + length);
    return undefined;
  }

  *#packedLength(grain: number, place: number): Steps<number | undefined> {
    const { file, grainSize, markers } = this.#extent;
    if (!markers) return grainSize;
    const marker = yield* readMarker(file, place);
    return marker.length > 0 && marker.value * sectorSize === grain * grainSize ? grainMarkerLength + marker.length : undefined;
  }

  #useDirectories({ tables: { shape } }: SparseExtent): void {
    const length = Math.ceil(shape.tableCount * shape.entrySize / sectorSize) * sectorSize;
    this.#use(shape.directory, length);
    if (shape.redundant !== undefined) this.#use(shape.redundant, length);
  }

  #use(place: number, length: number): void {
    this.#end = Math.max(this.#end, place + length);
  }

  *#same(a: number, b: number, length: number): Steps<boolean> {
    const first = new Uint8Array(length);
    const second = new Uint8Array(length);
    yield* wait(this.#extent.file.read(a, first));
    yield* wait(this.#extent.file.read(b, second));
    return first.every((byte, at) => byte === second[at]);
  }

  #complain(line: string): void {
    this.#result.corruptions++;
    this.#options.report?.(line);
  }

  #fixed(): void {
    this.#result.corruptions--;
    this.#result.corruptionsFixed++;
  }

  /** What lies behind everything used was written by somebody who was cut off before he could say so, or zeroes took its place. */
  *#conclude(extent: SparseExtent): Steps<void> {
    const { file, grainSize } = extent;
    const { repair } = this.#options;
    const end = Math.ceil(this.#end / grainSize) * grainSize;
    // SESPARSE keeps free grains by design
    const leaks = extent.compressed || extent.kind === 'sesparse' ? 0 : Math.max(0, Math.ceil((file.size - end) / grainSize));
    if (leaks > 0) {
      this.#options.report?.(`Leaked ${leaks} clusters at the end of '${file.node.filename}'`);
      this.#result.leaks += leaks;
    }
    if (repair === 'none') return;
    yield* extent.flush();
    if (leaks > 0) {
      yield* wait(file.resize(end, { exact: false }));
      this.#result.leaks -= leaks;
      this.#result.leaksFixed += leaks;
    }
    if (this.#result.corruptions === 0 && extent.kind === 'hosted') {
      yield* wait(file.write(uncleanOffset, Uint8Array.of(0)));
      yield* wait(file.flush());
    }
  }

  /** The grains' own markers tell what the missing tables would. */
  *#finishStream(extent: StreamExtent): Steps<void> {
    this.#complain('ERROR: the stream has no end: grain directory and footer are missing');
    if (this.#options.repair !== 'all') return;
    const { found, end } = yield* this.#scan(extent);
    yield* extent.rebuild(found, end);
    this.#fixed();
  }

  *#scan(extent: StreamExtent): Steps<{ found: (readonly [number, number])[]; end: number }> {
    const { file, grainSize } = extent;
    const found: (readonly [number, number])[] = [];
    let place = extent.dataStart;
    let last = -1;
    let end = place;
    while (place + sectorSize <= file.size) {
      const { value, length, type } = yield* readMarker(file, place);
      if (length === 0) {
        if (type !== MarkerType.TABLE || value === 0) break;
        place += (1 + value) * sectorSize;
        continue;
      }
      const grain = value * sectorSize / grainSize;
      const next = place + Math.ceil((grainMarkerLength + length) / sectorSize) * sectorSize;
      if (!Number.isInteger(grain) || grain <= last || grain >= extent.grains || next > file.size) break;
      if (!(yield* extent.isWhole(grain, place))) break;
      found.push([grain, place]);
      last = grain;
      end = place = next;
      if (found.length % 1024 === 0) yield breath();
    }
    return { found, end };
  }
}

function* readMarker(file: GrainExtent['file'], place: number): Steps<{ value: number; length: number; type: number }> {
  const bytes = new Uint8Array(16);
  yield* wait(file.read(place, bytes));
  const view = viewOf(bytes);
  return { value: view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true), length: view.getUint32(8, true), type: view.getUint32(12, true) };
}

function tableBytes(extent: GrainExtent): number {
  const entry = extent instanceof SparseExtent ? extent.tables.shape.entrySize : 4;
  return Math.ceil(extent.tableEntries * entry / sectorSize) * sectorSize;
}

/** A set of numbers that lie together in places. */
class SparseBits {
  readonly #words = new Map<number, Uint32Array>();

  /** Adds a number; true: it was there. */
  set(bit: number): boolean {
    const key = Math.floor(bit / 1024);
    let words = this.#words.get(key);
    if (words === undefined) this.#words.set(key, words = new Uint32Array(32));
    const index = (bit % 1024) >>> 5;
    const mask = 1 << (bit & 31);
    if ((words[index]! & mask) !== 0) return true;
    words[index]! |= mask;
    return false;
  }
}
