/** How much space a new disk would take. */
import type { BlockChild } from '../../block/child.js';
import type { MeasureResult } from '../../block/driver.js';
import { chainStatus } from '../../block/status.js';
import { planDisk, splitSectors, type OptionValues } from './create.js';
import { cowdTableEntries, encodeCowd, sectorSize, sparseLayout, streamHeader } from './header.js';

/** Compressed grains are counted as if nothing could be saved. @throws BlockError INVALID_ARGUMENT with the peer's texts */
export async function measureVmdk(source: BlockChild | undefined, options: OptionValues & { readonly size?: number }): Promise<MeasureResult> {
  const size = source?.size ?? options.size ?? 0;
  const plan = planDisk(size, options);
  const whole = plan.sectors * sectorSize;
  if (plan.flat) return { required: whole + sectorSize, fullyAllocated: whole + sectorSize };
  const grain = plan.subformat === 'vmfsSparse' ? sectorSize : 128 * sectorSize;
  const allocated = source === undefined ? 0 : options['backing_file'] === undefined ? await allocatedGrains(source, grain) : Math.ceil(size / grain);
  const full = Math.ceil(size / grain);
  if (plan.subformat === 'streamOptimized') {
    const header = streamHeader(plan.sectors, false);
    const tables = Math.ceil(full / header.tableEntries);
    const fixed = header.overhead * sectorSize + Math.ceil(tables * 4 / sectorSize) * sectorSize + 4 * sectorSize;
    // marker, zlib's frame and the padding make a sector at most
    const variable = (grains: number): number => grains * (grain + sectorSize) + Math.min(tables, grains) * 5 * sectorSize;
    return { required: fixed + variable(allocated), fullyAllocated: fixed + variable(full) };
  }
  if (plan.subformat === 'vmfsSparse') {
    const tableBytes = cowdTableEntries * 4;
    const tables = Math.ceil(full / cowdTableEntries);
    const fixed = sectorSize + encodeCowd(plan.sectors, false).length;
    return {
      required: fixed + Math.min(tables, allocated) * tableBytes + allocated * grain, fullyAllocated: fixed + tables * tableBytes + full * grain,
    };
  }
  let metadata = 0;
  if (!plan.split) metadata = sparseLayout(plan.sectors, plan).overhead * sectorSize;
  else {
    const wholeExtents = Math.floor(plan.sectors / splitSectors);
    const rest = plan.sectors % splitSectors;
    metadata = sectorSize + wholeExtents * sparseLayout(splitSectors, plan).overhead * sectorSize
      + (rest === 0 ? 0 : sparseLayout(rest, plan).overhead * sectorSize);
  }
  return { required: metadata + allocated * grain, fullyAllocated: metadata + full * grain };
}

async function allocatedGrains(source: BlockChild, grain: number): Promise<number> {
  let count = 0;
  let counted = 0;
  for (let offset = 0; offset < source.size;) {
    const status = await chainStatus(source.node, offset, source.size - offset);
    const end = offset + status.length;
    if (!status.zero) {
      const first = Math.max(counted, Math.floor(offset / grain));
      counted = Math.max(first, Math.ceil(end / grain));
      count += counted - first;
    }
    offset = end;
  }
  return count;
}
