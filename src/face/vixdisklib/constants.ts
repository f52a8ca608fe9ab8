/** Enumerations, flags and limits of VixDiskLib, with its numbers. */

/** Bytes of a sector, the unit of all offsets and lengths. */
export const SECTOR_SIZE = 512;
/** Smallest chunk of {@link QueryOptions.chunkSize}, in sectors. Since VDDK 6.7. */
export const MIN_CHUNK_SIZE = 128;
/** Most chunks that one call of VixDiskLib_QueryAllocatedBlocks looks at. Since VDDK 6.7. */
export const MAX_CHUNK_NUMBER = 512 * 1024;

/** How a disk is stored. */
export const DiskType = {
  /** One file that grows. */
  MONOLITHIC_SPARSE: 1,
  /** All space taken at once, in one file beside the descriptor. */
  MONOLITHIC_FLAT: 2,
  /** Files of at most 2 GB that grow. */
  SPLIT_SPARSE: 3,
  /** Files of at most 2 GB, all space taken at once. */
  SPLIT_FLAT: 4,
  /** ESX: all space taken at once. */
  VMFS_FLAT: 5,
  /** Compressed, written and read in order. */
  STREAM_OPTIMIZED: 6,
  /** ESX: flat, space taken when it is written. */
  VMFS_THIN: 7,
  /** ESX: a redo log. */
  VMFS_SPARSE: 8,
  /** None of these, or "as the source" where a type is asked for. */
  UNKNOWN: 256,
} as const;
export type DiskType = (typeof DiskType)[keyof typeof DiskType];

/** The controller a disk is made for. */
export const AdapterType = { IDE: 1, SCSI_BUSLOGIC: 2, SCSI_LSILOGIC: 3, UNKNOWN: 256 } as const;
export type AdapterType = (typeof AdapterType)[keyof typeof AdapterType];

/** Flags of an open, to be joined with `|`. */
export const OpenFlags = {
  /** Past the host's page cache. */
  UNBUFFERED: 1,
  /** Only this link: parents are not opened, what they hold reads as zero. */
  SINGLE_LINK: 2,
  /** Never writes, takes no lock and respects none. */
  READ_ONLY: 4,
  /** Transfers over nbd and nbdssl compressed; one kind at a time. Since VDDK 6.5. */
  COMPRESSION_ZLIB: 16,
  COMPRESSION_FASTLZ: 32,
  COMPRESSION_SKIPZ: 64,
} as const;

/** What {@link ConnectParams.creds} holds. */
export const CredType = { UID: 1, SESSIONID: 2, TICKETID: 3, SSPI: 4, UNKNOWN: 256 } as const;
export type CredType = (typeof CredType)[keyof typeof CredType];

/** What a connection is about: a virtual machine or a first-class disk. Since VDDK 6.5. */
export const SpecType = { VMX: 0, VSTORAGE_OBJECT: 1, UNKNOWN: 2 } as const;
export type SpecType = (typeof SpecType)[keyof typeof SpecType];

/** Virtual hardware versions that have names; every number up to 65535 is accepted. */
export const HWVersion = {
  WORKSTATION_4: 3, WORKSTATION_5: 4, ESX30: 4, WORKSTATION_6: 6, ESX4X: 7, ESX50: 8, ESX51: 9, ESX55: 10, ESX60: 11, ESX65: 13,
} as const;

/** Names of the ways to a disk. */
export type TransportMode = 'file' | 'san' | 'hotadd' | 'nbdssl' | 'nbd';
/** All transport modes in the order in which they are tried. */
export const TRANSPORT_MODES: readonly TransportMode[] = ['file', 'san', 'hotadd', 'nbdssl', 'nbd'];
