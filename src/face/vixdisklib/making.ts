/** Making disks: empty ones, children, copies. */
import { lstatSync, readdirSync, statSync, unlinkSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import type { BlockBackend } from '../../block/child.js';
import { createImageFile } from '../../block/create.js';
import { Perm } from '../../block/driver.js';
import type { BlockNode } from '../../block/node.js';
import type { OptionValue } from '../../block/options.js';
import { convertImages } from '../../image/convert.js';
import { renameImage, replaceImage, temporaryName } from '../../image/files.js';
import { measureImage } from '../../image/measure.js';
import { AdapterType, DiskType, HWVersion, SECTOR_SIZE } from './constants.js';
import type { LibraryContext } from './context.js';
import { adapterName, preallocationOf, subformatOf } from './disk-types.js';
import { VixError } from './errors.js';
import { databaseOf, describeDisk } from './info.js';
import { diskFailure, fileSpec } from './opening.js';
import { controlled, throwIfCancelled, type LongOperation, type Running } from './progress.js';
import { toBytes, type Sectors } from './sectors.js';

/** VixDiskLibCreateParams. */
export interface CreateParams {
  /** For clones UNKNOWN is the type of the source. */
  readonly diskType: DiskType;
  readonly adapterType: AdapterType;
  /** {@link HWVersion} or any other number up to 65535; 0 or absent: 7. */
  readonly hwVersion?: number | undefined;
  /** Sectors. A clone takes the source's where this is 0 or absent. */
  readonly capacity?: Sectors | undefined;
  /** Bytes; 0 or absent: 512. 4096 is VIX_E_DISK_NOTSUPPORTED: the sectors of a VMDK have 512. Since VDDK 7.0. */
  readonly logicalSectorSize?: number | undefined;
  /** Bytes; 0 or absent: 512; or 4096. Since VDDK 7.0. */
  readonly physicalSectorSize?: number | undefined;
}

export interface ChildParams extends LongOperation {
  /** MONOLITHIC_SPARSE (the default), SPLIT_SPARSE or VMFS_SPARSE. */
  readonly diskType?: DiskType | undefined;
}

const childTypes: readonly DiskType[] = [DiskType.MONOLITHIC_SPARSE, DiskType.SPLIT_SPARSE, DiskType.VMFS_SPARSE];
const largestHardware = 0xffff;
const sectorSizes: readonly number[] = [SECTOR_SIZE, 4096];

/** @throws VixError VIX_E_INVALID_ARG where the path is relative */
export function localPath(path: string): string {
  if (!path.startsWith('/') || path.includes('\0')) throw new VixError('VIX_E_INVALID_ARG', 'paths of disks are absolute', { path });
  return path;
}

function isHardware(version: number): boolean {
  return Number.isInteger(version) && version > 0 && version <= largestHardware;
}

/** Options of the engine's create. @throws VixError */
function createOptions(params: CreateParams): Record<string, OptionValue> {
  const { hwVersion = 0, logicalSectorSize = 0, physicalSectorSize = 0 } = params;
  if (hwVersion !== 0 && !isHardware(hwVersion)) throw new VixError('VIX_E_INVALID_ARG', `there is no hardware version ${hwVersion}`);
  for (const size of [logicalSectorSize, physicalSectorSize]) if (size !== 0 && !sectorSizes.includes(size)) throw new VixError('VIX_E_INVALID_ARG', `sectors of ${size} bytes`);
  if (logicalSectorSize > SECTOR_SIZE) throw new VixError('VIX_E_DISK_NOTSUPPORTED', `a VMDK counts in sectors of ${SECTOR_SIZE} bytes, and cannot be made with logical ones of ${logicalSectorSize}`);
  return {
    subformat: subformatOf(params.diskType), adapter_type: adapterName(params.adapterType), hwversion: String(hwVersion || HWVersion.ESX4X),
    preallocation: preallocationOf(params.diskType), identity: true, ...(physicalSectorSize > SECTOR_SIZE && { ddb: `physicalSectorSize=${physicalSectorSize}` }),
  };
}

export function createDisk(context: LibraryContext, path: string, params: CreateParams, control: LongOperation): Promise<void> {
  const size = toBytes(params.capacity ?? 0, 'the capacity');
  if (size === 0) throw new VixError('VIX_E_INVALID_ARG', 'a disk has at least one sector', { path });
  const options = createOptions(params);
  return controlled(control, ({ signal }) => making(context, path, false, async (temporary) => {
    await createImageFile(context.graph, { filename: temporary, format: 'vmdk', size, options, signal });
  }));
}

export function createChild(context: LibraryContext, parentPath: string, parent: BlockNode, path: string, params: ChildParams): Promise<void> {
  const { diskType = DiskType.MONOLITHIC_SPARSE } = params;
  if (!childTypes.includes(diskType)) throw new VixError('VIX_E_INVALID_ARG', 'a child is sparse', { path });
  if (parent.driver.name !== 'vmdk') throw new VixError('VIX_E_DISK_PARENT_NOTALLOWED', 'it is no VMDK', { path: parentPath });
  const info = describeDisk(parent);
  const adapterType = info.adapterType === AdapterType.UNKNOWN ? AdapterType.SCSI_LSILOGIC : info.adapterType;
  const options = { ...createOptions({ diskType, adapterType }), backing_file: parentHint(parentPath, localPath(path)), backing_fmt: 'vmdk' };
  return controlled(params, ({ signal }) => making(context, path, false, async (temporary) => {
    await createImageFile(context.graph, { filename: temporary, format: 'vmdk', size: parent.size, options, signal });
  }));
}

/** What a child says of where its parent lies: relative where it can be. */
export function parentHint(parent: string, child: string): string {
  const way = relative(dirname(child), parent);
  return way.startsWith('..') ? parent : way;
}

export interface CloneParams extends LongOperation {
  /** Type, adapter, hardware version, physical sectors of the new disk; what is left out (or 0) is as in the source. */
  readonly createParams?: Partial<CreateParams> | undefined;
  /** An existing disk is replaced, when the new one is complete. */
  readonly overwrite?: boolean | undefined;
}

/** Copies all that `source` shows, parents included, to a new disk. */
export async function cloneDisk(context: LibraryContext, source: BlockBackend, path: string, params: CloneParams): Promise<void> {
  const info = describeDisk(source.node);
  const given = params.createParams ?? {};
  const diskType = known(given.diskType, known(info.diskType, DiskType.MONOLITHIC_SPARSE));
  const adapterType = known(given.adapterType, known(info.adapterType, AdapterType.SCSI_LSILOGIC));
  const capacity = toBytes(given.capacity || info.capacity);
  if (capacity < source.size) throw new VixError('VIX_E_INVALID_ARG', 'the clone would be smaller than its source', { path });
  // nonsense in a source is no reason not to copy it
  const former = Number(databaseOf(source.node).get('virtualHWVersion'));
  const hwVersion = given.hwVersion || (isHardware(former) ? former : 0);
  const physicalSectorSize = given.physicalSectorSize || (sectorSizes.includes(info.physicalSectorSize) ? info.physicalSectorSize : 0);
  const options: Record<string, OptionValue> = { ...createOptions({ ...given, diskType, adapterType, hwVersion, physicalSectorSize }), size: capacity };
  const optionText = Object.entries(options).map(([key, value]) => `${key}=${value === true ? 'on' : String(value)}`).join(',');
  await controlled(params, (running) => making(context, path, params.overwrite === true, async (temporary) => {
    await convertImages(context.graph, {
      sources: [source], create: { filename: temporary, format: 'vmdk', optionText },
      openTarget: () => context.graph.openBackend(fileSpec(temporary, 'vmdk'), { discard: 'unmap', gate: context.gate, take: Perm.CONSISTENT_READ | Perm.WRITE }),
      copy: copying(running),
    });
    throwIfCancelled(running.signal);
  }));
}

/** Copies onto a disk that is there, and at least as large. */
export async function copyOnto(context: LibraryContext, source: BlockBackend, openTarget: () => Promise<BlockBackend>, control: LongOperation): Promise<void> {
  await controlled(control, (running) => convertImages(context.graph, { sources: [source], openTarget, copy: copying(running) }));
}

function copying({ signal, progress }: Running): Parameters<typeof convertImages>[1]['copy'] {
  return { minSparse: 4096, parallel: 8, signal, progress };
}

function known<T extends number>(value: T | undefined, otherwise: T): T {
  return value === undefined || value === DiskType.UNKNOWN ? otherwise : value;
}

export async function spaceNeeded({ graph }: LibraryContext, source: BlockBackend, diskType: DiskType): Promise<number> {
  const type = known(diskType, known(describeDisk(source.node).diskType, DiskType.MONOLITHIC_SPARSE));
  const { required } = await measureImage(graph, 'vmdk', { subformat: subformatOf(type) }, source);
  return required;
}

/**
 * Makes a disk under a name that says it is unfinished, and gives it its own when it is complete. Nothing of it stays otherwise.
 * @throws VixError VIX_E_FILE_ALREADY_EXISTS, VIX_E_OBJECT_IS_BUSY where the same disk is being made already
 */
async function making(context: LibraryContext, path: string, overwrite: boolean, build: (temporary: string) => Promise<void>): Promise<void> {
  const folder = dirname(localPath(path));
  const end = context.journal.begin(folder, path);
  if (end === undefined) throw new VixError('VIX_E_OBJECT_IS_BUSY', 'it is being made already', { path });
  // replacing a file at once takes the plain temporary name
  const temporary = temporaryName(path.replace(/(\.[^./]*)?$/, '.new$1'));
  try {
    if (!overwrite) refuseExisting(path);
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) throw new VixError('VIX_E_FILE_NOT_FOUND', `there is no folder ${folder}`, { path });
    removeUnfinished(temporary);
    await build(temporary);
    await (overwrite ? replaceImage : renameImage)(context.graph, temporary, path, { driver: 'vmdk' });
  } catch (error) {
    try {
      removeUnfinished(temporary);
    } catch {
      // why it could not be made says more
    }
    throw diskFailure(error, path);
  } finally {
    end();
  }
}

function refuseExisting(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) throw new VixError('VIX_E_FILE_ALREADY_EXISTS', undefined, { path });
}

/** All files whose names begin as that of the unfinished disk does, but for its suffix. */
function removeUnfinished(temporary: string): void {
  const folder = dirname(temporary);
  const stem = basename(temporary).replace(/\.[^.]*$/, '');
  for (const name of readdirSync(folder)) if (name.startsWith(stem)) unlinkSync(join(folder, name));
}
