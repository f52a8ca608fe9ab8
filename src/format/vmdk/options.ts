/** Options of creating a disk, under the peer's names. */
import type { CreateSchema } from '../../block/options.js';

export const adapterTypes: readonly string[] = ['ide', 'buslogic', 'lsilogic', 'legacyESX'];
const peerSubformats = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'streamOptimized'] as const;
const serverSubformats = ['vmfs', 'vmfsThin', 'vmfsSparse'] as const;
export const subformats = [...peerSubformats, ...serverSubformats] as const;
export type Subformat = (typeof subformats)[number];

/** Of what shall be a parent. */
export const noVmdk = 'backing_file must be a vmdk image';

export const createOptions: CreateSchema = {
  size: { type: 'size', help: 'Virtual disk size' },
  adapter_type: { type: 'string', help: 'Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX' },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: "Must be 'vmdk' if present", refusal: () => noVmdk },
  compat6: { type: 'boolean', help: 'VMDK version 6 image', default: false },
  hwversion: { type: 'string', help: 'VMDK hardware version', default: 'undefined' },
  toolsversion: { type: 'string', help: 'VMware guest tools version' },
  subformat: {
    type: 'string',
    help: 'VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ',
    beyondPeerValues: serverSubformats,
  },
  zeroed_grain: { type: 'boolean', help: 'Enable efficient zero writes using the zeroed-grain GTE feature' },
  preallocation: { type: 'string', help: 'Preallocation mode of flat extents (allowed values: off, falloc)', beyondPeer: true },
  ddb: { type: 'string', help: "Entries of the disk database: 'key=value;key=value'", beyondPeer: true },
  identity: { type: 'boolean', help: 'Give the disk a UUID and a long content ID, as VMware does', beyondPeer: true },
};
