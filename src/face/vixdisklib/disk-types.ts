/** Kinds of disks and controllers in the engine's words. */
import { AdapterType, DiskType } from './constants.js';
import { VixError } from './errors.js';

const subformats: ReadonlyMap<number, string> = new Map([
  [DiskType.MONOLITHIC_SPARSE, 'monolithicSparse'], [DiskType.MONOLITHIC_FLAT, 'monolithicFlat'], [DiskType.SPLIT_SPARSE, 'twoGbMaxExtentSparse'],
  [DiskType.SPLIT_FLAT, 'twoGbMaxExtentFlat'], [DiskType.VMFS_FLAT, 'vmfs'], [DiskType.STREAM_OPTIMIZED, 'streamOptimized'],
  [DiskType.VMFS_THIN, 'vmfsThin'], [DiskType.VMFS_SPARSE, 'vmfsSparse'],
]);
const adapters: ReadonlyMap<number, string> = new Map([
  [AdapterType.IDE, 'ide'], [AdapterType.SCSI_BUSLOGIC, 'buslogic'], [AdapterType.SCSI_LSILOGIC, 'lsilogic'],
]);

/** @throws VixError VIX_E_INVALID_ARG for a type that cannot be made */
export function subformatOf(type: DiskType): string {
  const name = subformats.get(type);
  if (name === undefined) throw new VixError('VIX_E_INVALID_ARG', `there is no disk type ${type}`);
  return name;
}

/** @param thin the disk database says that space is taken when it is written, which the type does not */
export function diskTypeOf(createType: string | undefined, thin: boolean): DiskType {
  if (createType === 'vmfs' && thin) return DiskType.VMFS_THIN;
  for (const [type, name] of subformats) if (name === createType) return type as DiskType;
  return DiskType.UNKNOWN;
}

/** Those that take their space when they are made, and when they grow. */
const thickTypes: readonly DiskType[] = [DiskType.MONOLITHIC_FLAT, DiskType.SPLIT_FLAT, DiskType.VMFS_FLAT];

export function preallocationOf(type: DiskType): 'off' | 'falloc' {
  return thickTypes.includes(type) ? 'falloc' : 'off';
}

/** @throws VixError VIX_E_INVALID_ARG */
export function adapterName(type: AdapterType): string {
  const name = adapters.get(type);
  if (name === undefined) throw new VixError('VIX_E_INVALID_ARG', `there is no adapter type ${type}`);
  return name;
}

export function adapterTypeOf(name: string | undefined): AdapterType {
  for (const [type, known] of adapters) if (known === name?.toLowerCase()) return type as AdapterType;
  return AdapterType.UNKNOWN;
}
