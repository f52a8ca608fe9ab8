/** Making a disk larger. */
import type { BlockChild } from '../../block/child.js';
import type { NewFile, OpenContext, ResizeOptions } from '../../block/driver.js';
import { BlockError, Errno, systemError } from '../../block/errors.js';
import { run, wait, type Steps } from '../../util/steps.js';
import { layOut, maxSparseSectors, splitSectors } from './create.js';
import type { Descriptor, ExtentLine } from './descriptor.js';
import { FlatExtent, type Extent } from './extent.js';
import { sectorSize, sparseLayout } from './header.js';
import { hostedExtent } from './hosted.js';
import type { VmdkImage } from './image.js';
import { nameParts, splitName } from './names.js';
import { SparseExtent } from './sparse.js';

/** ATA's limit. */
const maxIdeCylinders = 16_383;

/**
 * Extents that follow are made first, then the last one grows, which is to be seen at once where the descriptor lies in it; all belong to
 * the disk when the descriptor names them. Where there is no room the files are as before.
 * @throws BlockError NOT_SUPPORTED where the room cannot be allocated as wanted
 */
export function* growDisk(image: VmdkImage, context: OpenContext<object>, size: number, options: ResizeOptions): Steps<void> {
  if (size === image.size) return;
  const { descriptor } = image;
  if (size % sectorSize !== 0) throw new BlockError('INVALID_ARGUMENT', `The new size must be a multiple of ${sectorSize}`, { errno: Errno.EINVAL });
  const last = image.extents.at(-1)!;
  if (options.preallocation !== 'off' && last.grainSize !== undefined) {
    throw new BlockError('NOT_SUPPORTED', `Unsupported preallocation mode '${options.preallocation}'`, { op: 'resize', errno: Errno.ENOTSUP });
  }
  const unit = isSplit(descriptor) ? Math.max(image.extents.length > 1 ? image.extents[0]!.size : splitSectors * sectorSize, last.size) : Infinity;
  const start = image.starts.at(-1)!;
  if (unit === Infinity && last.grainSize !== undefined && size > maxSparseSectors * sectorSize) throw systemError(Errno.EFBIG, { op: 'resize' });
  const grown = Math.min(size - start, unit);
  const added: number[] = [];
  for (let at = start + grown; at < size; at += unit) added.push(Math.min(unit, size - at));
  const lines = withLastSize(descriptor, grown / sectorSize);
  const finish = (more: readonly ExtentLine[] = []): Steps<void> => growLast(last, grown, options, () => image.edit({ extents: [...lines, ...more], entries: geometry(descriptor, size) }));
  if (added.length === 0) yield* finish();
  else yield* addExtents({ image, context, options, finish }, lines.length, added);
  image.measure();
}

/** A longer extent that the descriptor cannot be told of is cut again. */
function* growLast(last: Extent, size: number, options: ResizeOptions, tell: () => Steps<void>): Steps<void> {
  const former = last.size;
  if (size > former) yield* last.grow(size, options);
  try {
    yield* tell();
  } catch (error) {
    if (size > former && last instanceof FlatExtent) yield* last.cut(former);
    throw error;
  }
}

function isSplit({ createType }: Descriptor): boolean {
  return /^(two|2)gbmaxextent/i.test(createType);
}

function withLastSize({ extents }: Descriptor, sectors: number): ExtentLine[] {
  const last = extents.findLastIndex((line) => line.sectors > 0);
  return extents.map((line, index) => (index === last ? { ...line, sectors } : line));
}

interface Growth {
  readonly image: VmdkImage;
  readonly context: OpenContext<object>;
  readonly options: ResizeOptions;
  /** Makes the disk what it is to be, with these extents behind its own. */
  readonly finish: (added: readonly ExtentLine[]) => Steps<void>;
}

function* addExtents({ image, context, options, finish }: Growth, former: number, sizes: readonly number[]): Steps<void> {
  const last = image.extents.at(-1)!;
  const flat = last instanceof FlatExtent;
  const parts = nameParts(image.file.node.filename);
  const added = sizes.map((bytes, index): ExtentLine => ({
    access: 'RW', sectors: bytes / sectorSize, type: flat ? 'FLAT' : 'SPARSE', filename: splitName(parts, flat, former + index + 1), offset: 0,
  }));
  const wanted = added.map((line, index): NewFile => ({
    name: `extents.${former + index}`, reference: { kind: 'extent', filename: line.filename!, isPath: true, role: flat ? 'data' : 'image' },
  }));
  const zeroedGrain = last instanceof SparseExtent && last.knowsZeroes;
  yield* wait(context.newFiles(wanted, (children) => run(useFiles(children)), options.signal));

  function* useFiles(children: readonly BlockChild[]): Steps<void> {
    const extents: Extent[] = [];
    for (const [index, child] of children.entries()) {
      options.signal?.throwIfAborted();
      extents.push(yield* newExtent(child, added[index]!, zeroedGrain, options));
    }
    options.signal?.throwIfAborted();
    yield* finish(added);
    image.extents.push(...extents);
  }
}

function* newExtent(file: BlockChild, { sectors, type }: ExtentLine, zeroedGrain: boolean, { preallocation, signal }: ResizeOptions): Steps<Extent> {
  const size = sectors * sectorSize;
  if (type === 'FLAT') {
    yield* wait(file.resize(size, { exact: false, preallocation, ...(signal && { signal }) }));
    yield* wait(file.flush());
    return new FlatExtent(file, { start: 0, size, type });
  }
  const header = sparseLayout(sectors, { zeroedGrain });
  yield* layOut(file, header, new Uint8Array(0));
  yield* wait(file.flush());
  return hostedExtent(file, header, type);
}

/** More cylinders, where the descriptor tells a geometry. */
function geometry({ database }: Descriptor, size: number): ReadonlyMap<string, string> {
  const changed = new Map<string, string>();
  const limit = database.get('adapterType') === 'ide' ? maxIdeCylinders : Infinity;
  for (const [cylinders, heads, sectors] of [
    ['geometry.cylinders', 'geometry.heads', 'geometry.sectors'], ['geometry.biosCylinders', 'geometry.biosHeads', 'geometry.biosSectors'],
  ] as const) {
    const track = Number(database.get(heads) ?? 0) * Number(database.get(sectors) ?? 0);
    if (track > 0 && database.has(cylinders)) changed.set(cylinders, String(Math.min(limit, Math.floor(size / sectorSize / track))));
  }
  return changed;
}
